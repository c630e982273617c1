"""A trace of some training steps, to be opened in xprof."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from etils import epath

State = TypeVar("State")
FIRST = 5  # steps before the trace begins: caches fill, and the pipeline of batches
log = logging.getLogger(__name__)


def profiled(
    step: Callable[[State, Any], tuple[State, Any]], steps: int, folder: epath.PathLike
) -> Callable[[State, Any], tuple[State, Any]]:
    """`step`, of whose calls some are traced: `steps` of them, after the first few.

    Every process writes its own trace into `folder`. A run that ends before leaves none.
    """
    calls = 0

    def call(state: State, batch: Any) -> tuple[State, Any]:
        nonlocal calls
        calls += 1
        if calls == FIRST + 1:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(folder))
        if not FIRST < calls <= FIRST + steps:
            return step(state, batch)
        with jax.profiler.StepTraceAnnotation("train", step_num=calls):
            result = step(state, batch)
        if calls == FIRST + steps:
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
            log.info("a trace of %d steps is in %s: xprof --logdir %s", steps, folder, folder)
        return result

    return call
