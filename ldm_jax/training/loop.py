"""The training loop: steps, progress, metrics, hooks, checkpoints, and an orderly stop."""

import contextlib
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from ldm_jax.errors import Interrupted, UserError
from ldm_jax.training.checkpoint import Checkpoints
from ldm_jax.training.config import TrainingConfig
from ldm_jax.training.interruption import StopSignals
from ldm_jax.training.metrics import MetricsLog
from ldm_jax.training.step import Metrics, TrainState

# Steps that Python may be ahead of the device: enough to keep it busy, few enough to stop promptly.
STEPS_AHEAD = 2


class NonFinite(UserError):
    """A loss or the gradient norm became NaN or infinite."""


@dataclass(frozen=True)
class Hook:
    """Something to do every `every` steps beside training.

    call: (state, step) -> None, called by every process, as a computation on a sharded state needs
      them all; only process 0 should write. The state is donated to the next step, so keep no
      reference to it. A hook is called at the end, too.
    edits: it changes the state other than by gradients, which becomes `call(state, step)`; never at
      the end. It must depend on nothing but its arguments, so that a resumed run repeats it.
    """

    every: int
    call: Callable[[TrainState, int], TrainState | None]
    edits: bool = False


def fit(
    step_fn: Callable[[TrainState, Any], tuple[TrainState, Metrics]],
    state: TrainState,
    batches: Callable[[int], Iterator[Any]],
    config: TrainingConfig,
    *,
    name: str,
    checkpoints: Checkpoints | None,
    metrics: MetricsLog | None,
    hooks: Sequence[Hook] = (),
    clock: Callable[[], float] = time.perf_counter,
) -> TrainState:
    """Trains from `state.step` up to `config.steps`; returns at once when it is there already.

    `batches(start_step)` yields batches that are already on the devices. `name` marks the progress
    bar and the "stage" of each metrics line. Every `log_every` steps, and at the end, a line holds
    the means of the metrics since the last line, `images_per_s`, and `data_wait_s`, the seconds
    that the loop waited for data (`data_wait_share` of the time); hooks and saves don't count. The
    seconds are those of `clock`.

    Hooks run before the state is saved: where there is a checkpoint of a step, all else of that
    step is there too.

    Raises NonFinite when a loss or the gradient norm is no longer finite (such a state is never
    saved), and Interrupted after SIGTERM, SIGHUP or Ctrl-C, once the state is saved. Of several
    processes all raise it after the same step, STEPS_AHEAD after any of them received the signal.
    """
    steps, progress = config.steps, config.progress
    edits = [hook for hook in hooks if hook.edits]
    calls = [hook for hook in hooks if not hook.edits]
    start = int(state.step)
    if start >= steps:
        return state
    is_writer = jax.process_index() == 0
    if metrics and is_writer:
        metrics.truncate_after(name, start)  # these steps will be made, and written, again
    meter = _Meter(name, start, checkpoints, clock)
    source = iter(batches(start))
    with contextlib.ExitStack() as cleanup:
        stop = cleanup.enter_context(StopSignals(STEPS_AHEAD))
        if checkpoints:
            cleanup.callback(checkpoints.wait)
        if hasattr(source, "close"):
            cleanup.callback(source.close)  # the threads of a loader
        bar = cleanup.enter_context(_progress_bar(name, start, steps))

        for step in range(start + 1, steps + 1):
            with meter.waiting():
                batch = next(source, None)
            if batch is None:
                raise UserError(f"{name}: the data ended at step {step - 1} of {steps}.")
            state, step_metrics = step_fn(state, batch)
            meter.add(step, step_metrics)

            last = step == steps
            stopping = stop.agreed(wait=last) is not None
            for edit in [hook for hook in edits if step % hook.every == 0 and not last]:
                meter.finish()  # or the edit would wait for the steps, which do count
                with meter.paused():
                    state = jax.block_until_ready(edit.call(state, step))
            due = [hook for hook in calls if last or (step % hook.every == 0 and not stopping)]
            saving = checkpoints and (last or stopping or step % progress.save_every == 0)
            if due or saving or stopping:
                meter.finish()  # nothing is shown or saved before it is known to be finite
            if last or step % progress.log_every == 0:
                line = meter.line(config.batch_size)
                if checkpoints:
                    checkpoints.check_errors()  # a full disk is said at once
                if metrics and is_writer:
                    metrics.append({"stage": name, "step": step, **line})
            bar.set_postfix_str(meter.loss, refresh=False)
            bar.update(meter.step - bar.n)
            with meter.paused():
                for hook in due:
                    hook.call(state, step)
                if saving:
                    checkpoints.save(step, state)
            if stopping:
                break
    if (received := stop.agreed(wait=True)) is not None:
        where = f"saved in {checkpoints.directory / str(step)}" if checkpoints else "not saved"
        message = f"{name}: stopped by {received.name} after step {step} of {steps}; {where}."
        raise Interrupted(message, received)
    return state


class _Meter:
    """Takes in the metrics of each step once the device has made them, without stalling it."""

    def __init__(
        self, name: str, start: int, checkpoints: Checkpoints | None, clock: Callable[[], float]
    ):
        self.step = start  # the newest step that the device has finished
        self.loss = ""  # its loss, as the progress bar shows it
        self._name, self._checkpoints, self._clock = name, checkpoints, clock
        self._in_flight: deque[tuple[int, Metrics]] = deque()
        self._reset()

    def _reset(self) -> None:
        self._rows: list[dict[str, float]] = []
        self._wait_s = 0.0
        self._since = self._clock()

    def add(self, step: int, metrics: Metrics) -> None:
        """Notes a step that was just dispatched; waits for the one STEPS_AHEAD before it."""
        for value in metrics.values():
            value.copy_to_host_async()
        self._in_flight.append((step, metrics))
        while len(self._in_flight) > STEPS_AHEAD:
            self._take()

    def finish(self) -> None:
        """Waits for every step that was dispatched."""
        while self._in_flight:
            self._take()

    def _take(self) -> None:
        self.step, metrics = self._in_flight.popleft()
        row = {name: float(value) for name, value in metrics.items()}
        losses = [name for name in row if "loss" in name]
        bad = [name for name in [*losses, "grad_norm"] if not math.isfinite(row.get(name, 0.0))]
        if bad:
            raise NonFinite(
                f"{self._name}: {', '.join(bad)} not finite at step {self.step}; "
                f"{self._last_good()}"
            )
        self._rows.append(row)
        shown = "loss" if "loss" in row else next(iter(losses), None)
        self.loss = f"{shown} {row[shown]:.4g}" if shown else ""

    def _last_good(self) -> str:
        if self._checkpoints:
            self._checkpoints.wait()
            if (step := self._checkpoints.latest_step()) is not None:
                return f"the last good checkpoint is {self._checkpoints.directory / str(step)}"
        return "there is no earlier checkpoint"

    def line(self, batch_size: int) -> dict[str, float]:
        """The means since the last line, and the pace."""
        self.finish()
        seconds = self._clock() - self._since
        line = {name: np.mean([row[name] for row in self._rows]) for name in self._rows[0]}
        line["images_per_s"] = batch_size * len(self._rows) / seconds
        line["data_wait_s"] = self._wait_s
        line["data_wait_share"] = self._wait_s / seconds
        self._reset()
        return line

    @contextlib.contextmanager
    def waiting(self):
        """Time spent here is time spent on waiting for data."""
        start = self._clock()
        yield
        self._wait_s += self._clock() - start

    @contextlib.contextmanager
    def paused(self):
        """Time spent here does not count."""
        start = self._clock()
        yield
        self._since += self._clock() - start


def _progress_bar(name: str, start: int, steps: int) -> tqdm:
    return tqdm(
        total=steps,
        initial=start,
        desc=name,
        unit="step",
        dynamic_ncols=True,
        # a terminal is redrawn often; a log file gets a line now and then
        mininterval=0.2 if sys.stderr.isatty() else 2.0,
        miniters=1,
        disable=jax.process_index() != 0,
    )
