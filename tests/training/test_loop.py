"""The loop: exact resume, honest records, an orderly stop."""

import os
import signal
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.errors import Interrupted, UserError
from ldm_jax.training.checkpoint import Checkpoints
from ldm_jax.training.config import Progress
from ldm_jax.training.loop import Hook, NonFinite, fit
from ldm_jax.training.metrics import MetricsLog, read
from ldm_jax.training.sharding import put_batch


@pytest.fixture
def run(tiny, compiled, one_device, tmp_path):
    """run(steps, ...) trains in a directory of its own; called again, it resumes."""

    def run(steps, name="run", **kw):
        return tiny.run(tmp_path / name, steps, compiled, one_device, **kw)

    return run


def plain_fit(tiny, compiled, one_device, *, steps=6, log_every=3, save_every=3, **changes):
    """`fit` without files, with any argument changed."""
    arguments = {
        "step_fn": compiled[2],
        "state": compiled[0](),
        "batches": tiny.batches_on(one_device),
        "config": replace(
            tiny.CONFIG, steps=steps, progress=Progress(log_every, save_every=save_every)
        ),
        "name": "tiny",
        "checkpoints": None,
        "metrics": None,
    }
    return fit(**(arguments | changes))


def test_twice_n_steps_equal_n_steps_and_a_resume(run, tiny, tmp_path):
    once = run(20, "once")
    first = run(10, "twice")
    assert int(first.step) == 10
    twice = run(20, "twice")
    assert tiny.same(once, twice)

    def lines(name):
        pace = {"images_per_s", "data_wait_s", "data_wait_share"}
        records = read(tmp_path / name / "metrics.jsonl")
        return [{k: v for k, v in record.items() if k not in pace} for record in records]

    assert lines("once") == lines("twice")
    assert [line["step"] for line in lines("twice")] == [5, 10, 15, 20]


def test_a_resume_is_exact_with_muon(tiny, one_device, tmp_path):
    """Whose state has parts that stand for nothing."""
    optimiser = replace(tiny.CONFIG.optimiser, kind="muon")
    compiled = tiny.compile_on(one_device, replace(tiny.CONFIG, optimiser=optimiser))
    once = tiny.run(tmp_path / "once", 10, compiled, one_device)
    tiny.run(tmp_path / "twice", 5, compiled, one_device)
    assert tiny.same(once, tiny.run(tmp_path / "twice", 10, compiled, one_device))


def test_a_finished_run_returns_at_once(run, tiny, compiled, one_device):
    final = run(5)

    def no_batches(start):
        raise AssertionError("no data is asked for")

    state = plain_fit(tiny, compiled, one_device, state=final, steps=5, batches=no_batches)
    assert state is final


def test_a_line_holds_the_means_since_the_last_line(run, tiny, compiled, one_device, tmp_path):
    run(6, log_every=4)
    losses, state = [], compiled[0]()
    for i in range(6):
        state, metrics = compiled[2](state, put_batch(tiny.local_batch(i), one_device))
        losses.append(float(metrics["loss"]))
    first, last = read(tmp_path / "run" / "metrics.jsonl")
    assert first["stage"] == last["stage"] == "tiny" and (first["step"], last["step"]) == (4, 6)
    np.testing.assert_allclose(first["loss"], np.mean(losses[:4]), rtol=1e-5)
    np.testing.assert_allclose(last["loss"], np.mean(losses[4:]), rtol=1e-5)
    assert first["scale"] == 0.5 and first["grad_norm"] > 0
    assert first["images_per_s"] > 0 and 0 <= first["data_wait_share"] <= 1


def test_lines_of_steps_that_are_made_again_are_replaced(run, tiny, tmp_path):
    """Killed after the line of step 8, before a checkpoint newer than 5."""
    run(5, log_every=4)
    metrics = tmp_path / "run" / "metrics.jsonl"
    with metrics.open("a") as file:
        file.write('{"stage": "tiny", "step": 8, "loss": 99.0}\n{"stage": "ti')
    run(10, log_every=4)
    records = read(metrics)
    assert [record["step"] for record in records] == [4, 5, 8, 10]
    assert all(record["loss"] < 99 for record in records)


def test_hooks_come_in_their_rhythm_and_at_the_end(run, tmp_path):
    calls = []

    def look(state, step):
        assert int(state.step) == step
        # the checkpoint of this step is written after what belongs to it
        assert not (tmp_path / "run" / "checkpoints" / str(step)).exists()
        calls.append(step)

    run(7, hooks=[Hook(3, look)])
    assert calls == [3, 6, 7]
    run(9, hooks=[Hook(3, look)])
    assert calls == [3, 6, 7, 9]


def halved(edited):
    """An edit that halves the parameters, and notes the step."""

    def edit(state, step):
        assert int(state.step) == step
        edited.append(step)
        return replace(state, params=jax.tree.map(lambda p: p / 2, state.params))

    return edit


def test_an_edit_changes_the_state_after_its_steps_but_the_last(run, tiny, compiled, one_device):
    edited = []
    final = run(6, hooks=[Hook(2, halved(edited), edits=True)])
    assert edited == [2, 4]
    state = compiled[0]()
    for i in range(6):
        state, _ = compiled[2](state, put_batch(tiny.local_batch(i), one_device))
        if i + 1 in edited:
            state = replace(state, params=jax.tree.map(lambda p: p / 2, state.params))
    assert tiny.same(final, state) and not tiny.same(final, run(6, "without"))


@pytest.mark.parametrize("stop", [4, 5])  # at a step that is edited, and at another
def test_a_resumed_run_repeats_its_edits(run, tiny, stop):
    """What is saved at the step of an edit is edited already: it is not edited twice."""
    once, twice = [], []
    whole = run(9, "once", hooks=[Hook(4, halved(once), edits=True)], save_every=stop)

    def interrupt(state, step):
        if step == stop - 1:  # one more step is made
            os.kill(os.getpid(), signal.SIGTERM)

    edit = Hook(4, halved(twice), edits=True)
    with pytest.raises(Interrupted, match=f"after step {stop} of 9"):
        run(9, "twice", save_every=100, hooks=[edit, Hook(1, interrupt)])
    resumed = run(9, "twice", hooks=[edit])
    assert once == twice == [4, 8]
    assert tiny.same(whole, resumed)


def test_other_hooks_see_the_edited_state(run):
    seen = []

    def edit(state, step):
        return replace(state, params=jax.tree.map(jnp.zeros_like, state.params))

    def look(state, step):
        seen.append((step, not any(np.any(leaf) for leaf in jax.tree.leaves(state.params))))

    run(3, hooks=[Hook(1, look), Hook(2, edit, edits=True)])
    assert seen == [(1, False), (2, True), (3, False)]


class Device:
    """A device and a clock that the test moves: a step takes half a second, in the background."""

    def __init__(self):
        self.now = self.ready = 0.0

    def clock(self):
        return self.now

    def step(self, state, batch):
        self.ready = max(self.now, self.ready) + 0.5
        return state, {"loss": Loss(self, self.ready)}

    def waits(self, seconds, answer):
        """A hook of so many seconds, after the steps that the device still has."""

        def spend(state, step):
            self.now = max(self.now, self.ready) + seconds
            return answer(state)

        return spend


@dataclass
class Loss:
    """A number that is known once the device has made it."""

    device: Device
    ready: float

    def copy_to_host_async(self):
        pass

    def __float__(self):
        self.device.now = max(self.device.now, self.ready)
        return 1.0


def test_hooks_do_not_count_in_the_pace_and_steps_do(tiny, compiled, one_device, tmp_path):
    device = Device()
    plain_fit(
        tiny,
        compiled,
        one_device,
        step_fn=device.step,
        steps=8,
        log_every=4,
        hooks=[
            Hook(2, device.waits(1000, lambda state: state), edits=True),
            Hook(3, device.waits(300, lambda state: None)),
        ],
        clock=device.clock,
        metrics=MetricsLog(tmp_path / "metrics.jsonl"),
    )
    lines = read(tmp_path / "metrics.jsonl")
    assert [line["images_per_s"] for line in lines] == 2 * [tiny.BATCH_SIZE / 0.5]


def test_saves_come_in_their_rhythm_and_at_the_end(run, tmp_path):
    run(12, save_every=5)
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [5, 10, 12]


def test_the_progress_bar_tells_name_steps_and_loss(run, capfd):
    run(6)
    shown = capfd.readouterr().err
    assert "tiny" in shown and "6/6" in shown and "loss" in shown and "step/s" in shown


def poisoned(batches, step):
    """The same batches, but the one that makes `step` is full of NaN."""

    def source(start):
        for i, batch in enumerate(batches(start), start + 1):
            yield jax.tree.map(lambda x: x * jnp.nan, batch) if i == step else batch

    return source


@pytest.mark.parametrize("bad_step, last_good", [(7, 5), (5, None), (10, 5)])
def test_what_is_not_finite_stops_the_run_and_is_never_saved(
    tiny, compiled, one_device, tmp_path, bad_step, last_good
):
    checkpoints = Checkpoints(tmp_path)
    good = f"last good checkpoint is {tmp_path / '5'}" if last_good else "no earlier checkpoint"
    with pytest.raises(NonFinite, match=f"loss, grad_norm not finite at step {bad_step}; .*{good}"):
        plain_fit(
            tiny,
            compiled,
            one_device,
            steps=10,
            batches=poisoned(tiny.batches_on(one_device), bad_step),
            checkpoints=checkpoints,
            log_every=100,
            save_every=5,
        )
    checkpoints.close()
    assert checkpoints.latest_step() == last_good
    if last_good:
        restored = checkpoints.restore(compiled[1])
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(restored))


def test_data_that_ends_too_early_is_an_error(tiny, compiled, one_device):
    batch = put_batch(tiny.local_batch(0), one_device)
    with pytest.raises(UserError, match="the data ended at step 2 of 6"):
        plain_fit(tiny, compiled, one_device, batches=lambda start: iter([batch, dict(batch)]))


@pytest.mark.parametrize("signal_number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_stops(run, tiny, tmp_path, signal_number, code):
    def interrupt(state, step):
        os.kill(os.getpid(), signal_number)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="after step 4 of 9; saved in .*/checkpoints/4") as info:
        # the signal comes during the hook of step 3: one more step is made and saved
        run(9, save_every=100, hooks=[Hook(3, interrupt)])
    assert info.value.exit_code == code
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert tiny.same(run(9), run(9, "never interrupted"))


def test_a_signal_without_checkpoints_says_that_nothing_is_saved(tiny, compiled, one_device):
    interrupt = Hook(2, lambda state, step: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="not saved"):
        plain_fit(tiny, compiled, one_device, hooks=[interrupt])


def test_the_source_is_closed_however_the_run_ends(tiny, compiled, one_device):
    closed = []

    def batches(start):
        try:
            yield from tiny.batches_on(one_device)(start)
        finally:
            closed.append(True)

    plain_fit(tiny, compiled, one_device, batches=batches)
    with pytest.raises(NonFinite):
        plain_fit(tiny, compiled, one_device, batches=poisoned(batches, 2))
    assert closed == [True, True]


def test_python_does_not_run_ahead_of_the_device(tiny, compiled, one_device):
    """When a step is dispatched, all but the last few before it have been finished."""
    init, _, step = compiled
    dispatched = []

    def watched(state, batch):
        state, metrics = step(state, batch)
        dispatched.append(metrics["loss"])
        assert all(loss.is_ready() for loss in dispatched[:-3])
        return state, metrics

    plain_fit(tiny, compiled, one_device, step_fn=watched, steps=30, log_every=100)
