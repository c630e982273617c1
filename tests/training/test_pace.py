"""The pace of training, from its first steps."""

import pytest

from ldm_jax.training.pace import MOST, timed


class Machine:
    """Steps of `seconds` each, the first of them a hundred times as long, on a clock of its own."""

    def __init__(self, seconds):
        self.seconds, self.now, self.calls = seconds, 0.0, 0

    def step(self, state, batch):
        self.calls += 1
        self.now += self.seconds * (100 if self.calls == 1 else 1)
        return state + batch, {}

    def run(self, steps, most=MOST):
        reports = []

        def report(*numbers):
            reports.append(numbers)

        step, state = timed(self.step, report, most, lambda: self.now), 0
        for _ in range(steps):
            state, _ = step(state, 1)
        assert state == steps == self.calls
        return reports


@pytest.mark.parametrize(
    "seconds, most, after",
    [(0.5, MOST, 22), (0.01, MOST, MOST), (0.01, 9, 9), (30.0, MOST, 3)],
)
def test_the_pace_is_reported_once(seconds, most, after):
    """Of ten seconds or so many steps, without the first ones."""
    [(found, calls)] = Machine(seconds).run(2 * MOST, most)
    assert found == pytest.approx(seconds) and calls == after


def test_a_run_that_ends_before_has_no_report():
    assert Machine(0.01).run(50) == []
