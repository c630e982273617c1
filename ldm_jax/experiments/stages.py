"""Trains one stage inside a run directory: what all stages have in common."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ldm_jax import plots
from ldm_jax.data.loader import Loader
from ldm_jax.experiments.config import StageConfig
from ldm_jax.experiments.run_dir import RunDir
from ldm_jax.training import metrics as metrics_file
from ldm_jax.training.compile import prepare
from ldm_jax.training.loop import fit
from ldm_jax.training.optimiser import make_optimiser
from ldm_jax.training.processes import on_first
from ldm_jax.training.sharding import put_batch
from ldm_jax.training.state import Stage, TrainState

TRANSFERRED_AHEAD = 2  # batches that lie on the devices before their step is dispatched
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A stage that has reached its last step."""

    state: TrainState
    summary: dict[str, Any]

    @property
    def weights(self) -> Any:
        """The parameters to use: the running average where there is one."""
        return self.state.params if self.state.ema is None else self.state.ema


def engine_stage(config: StageConfig, problem: Any) -> Stage:
    """What the engine trains: a problem (it has `init` and `grads`) as its stage configures it."""
    optimiser = make_optimiser(config.optimiser, config.steps)
    return Stage(problem.init, problem.grads, optimiser, config.ema_decay, config.accumulate)


def train_stage(
    name: str,
    config: StageConfig,
    problem: Any,
    loader: Loader,
    run: RunDir,
    mesh: jax.sharding.Mesh,
    key: jax.Array,
    *,
    constants: Callable[[], Any],
    preview: Callable[[TrainState, int], None] | None = None,
    edit: Callable[[TrainState, int], TrainState] | None = None,
    edit_every: int = 0,
) -> Trained:
    """Trains `problem` to `config.steps`, from its newest checkpoint if there is one.

    Args:
      name: autoencoder, diffusion or classifier; names checkpoints, metrics and previews.
      problem: has `init` and `grads`.
      constants: makes the constants of a fresh state (shapes are enough when it resumes).
      preview: called with (state, step) every `config.progress.preview_every` steps.
      edit: (state, step) -> state, a change that is no gradient step, every `edit_every` steps (0:
        never).
    """
    progress = config.progress
    checkpoints = run.checkpoints(name)
    stage = engine_stage(config, problem)
    log.info("%s: compiling the training step", name)
    init, abstract, step = prepare(stage, mesh, key, _global_shapes(loader), constants())
    log.info(
        "%s: %s parameters, compiled in %.0f s, peak memory %.0f MB a device",
        name,
        f"{step.parameters:,}",
        step.compile_s,
        step.peak_bytes / 1e6,
    )
    state = checkpoints.restore(abstract)
    if state is None:
        state = init()
    elif int(state.step) < config.steps:
        log.info("%s: goes on from step %d of %d", name, int(state.step), config.steps)

    def draw_curves(_state: TrainState, _step: int) -> None:
        if jax.process_index() == 0:
            lines = metrics_file.read(run.metrics.path)
            if lines:
                plots.save_png(run.path / "curves.png", plots.curves(lines))

    state = fit(
        step,
        state,
        lambda start_step: _on_devices(loader, start_step, mesh),
        config.steps,
        name=name,
        checkpoints=checkpoints,
        metrics=run.metrics,
        batch_size=config.batch_size,
        log_every=progress.log_every,
        save_every=progress.save_every,
        edit=(edit_every, edit) if edit and edit_every else None,
        callbacks=[
            *([(progress.preview_every, preview)] if preview else []),
            (progress.preview_every, draw_curves),
            (progress.save_every, lambda _state, _step: run.record()),
        ],
    )
    checkpoints.close()
    summary = {
        "parameters": step.parameters,
        "peak_bytes": step.peak_bytes,
        "flops": step.flops,
        "compile_seconds": round(step.compile_s, 1),
        "steps": config.steps,
        **on_first(lambda: _pace(run, name, config.batch_size)),
    }
    return Trained(state, summary)


def _pace(run: RunDir, name: str, batch_size: int) -> dict[str, float]:
    """How long the steps took, without previews and checkpoints, in however many starts."""
    lines = [line for line in metrics_file.read(run.metrics.path) if line["stage"] == name]
    images_per_s = np.array([line["images_per_s"] for line in lines])
    steps = np.diff([0, *(line["step"] for line in lines)])
    return {
        "seconds": round(float(np.sum(batch_size * steps / images_per_s)), 1),
        "images_per_s": round(float(np.median(images_per_s)), 1),
    }


def _global_shapes(loader: Loader) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the batch over all processes, which a loader of one process sees a part of."""
    return {
        key: jax.ShapeDtypeStruct((loader.batch_size, *rows.shape[1:]), rows.dtype)
        for key, rows in loader.batch(0).items()
    }


def _on_devices(loader: Loader, start: int, mesh: jax.sharding.Mesh) -> Iterator[Any]:
    """The batches from `start` on; the transfer of the next ones begins before they are asked for.

    In a thread, so that a step never waits for the data of a later one.
    """
    batches = loader.iterate(start)
    pool = ThreadPoolExecutor(1, "transfer")

    def transfer() -> Future:
        return pool.submit(lambda: put_batch(next(batches), mesh))

    try:
        ahead = deque(transfer() for _ in range(TRANSFERRED_AHEAD))
        while True:
            batch = ahead.popleft().result()
            ahead.append(transfer())
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        batches.close()
