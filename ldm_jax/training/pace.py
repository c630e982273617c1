"""How long a training step takes, from its first calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax

State = TypeVar("State")
SKIPPED = 2  # steps before the clock starts: memory is first touched, batches are made ahead
ENOUGH_S = 10.0  # seconds of steps that are enough to know the pace by
MOST = 100  # steps that are enough, too


def timed(
    step: Callable[[State, Any], tuple[State, Any]],
    report: Callable[[float, int], None],
    most: int = MOST,
    clock: Callable[[], float] = time.perf_counter,
) -> Callable[[State, Any], tuple[State, Any]]:
    """`step`, of whose calls the first are timed: `report(seconds a step, calls)` is called once.

    That is after ten seconds of steps, or after `most` calls; waiting for data counts. Costs two
    waits for the device. A run that ends before gets no report.

    Args:
      report: its second argument is how many calls there have been. clock: in seconds.
    """
    calls, since, is_known = 0, 0.0, False

    def call(state: State, batch: Any) -> tuple[State, Any]:
        nonlocal calls, since, is_known
        if calls == SKIPPED:
            jax.block_until_ready(state)
            since = clock()
        elif calls > SKIPPED and not is_known:
            if calls >= most or clock() - since >= ENOUGH_S:
                jax.block_until_ready(state)
                is_known = True
                report((clock() - since) / (calls - SKIPPED), calls)
        calls += 1
        return step(state, batch)

    return call
