"""Trains one stage inside a run directory: what all stages have in common."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from ldm_jax import plots
from ldm_jax.bounds import Count, violations
from ldm_jax.commands.train.estimate import estimated
from ldm_jax.data.loader import Loader
from ldm_jax.errors import UserError
from ldm_jax.model.initial import ByPath, start_from
from ldm_jax.model.run_dir import RunDir
from ldm_jax.training import metrics as metrics_file
from ldm_jax.training.config import TrainingConfig
from ldm_jax.training.loop import Hook, NonFinite, fit
from ldm_jax.training.memory import check_memory, return_freed
from ldm_jax.training.processes import on_first
from ldm_jax.training.profile import profiled
from ldm_jax.training.sharding import put_batch
from ldm_jax.training.step import Objective, TrainState, abstract_state, compile_step
from ldm_jax.training.tensorboard import TensorBoard, check_installed

TRANSFERRED_AHEAD = 2  # batches that lie on the devices before their step is dispatched
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageTask:
    """What one stage of a run is to train."""

    name: str
    """autoencoder, diffusion or classifier; names checkpoints, metrics and previews."""
    config: TrainingConfig
    objective: Objective
    loader: Loader
    constants: Any
    """What the objective reads but does not train."""
    preview: Callable[[TrainState], np.ndarray] | None = None
    """A figure of what the network can do: uint8 `[H, W, 3]`."""
    measure: Callable[[TrainState], dict[str, float]] | None = None
    """Numbers of held-out examples, for metrics.jsonl."""
    edit: Hook | None = None
    """A change of the state that is no gradient step."""
    initial: ByPath = field(default_factory=dict)
    """Weights to start from; those that are missing start at random."""
    flops_after: float = 0.0
    """FLOPs of what the run does after these steps, to estimate its time."""


@dataclass(frozen=True)
class Trained:
    """A stage that has reached its last step."""

    state: TrainState
    summary: dict[str, Any]
    """What is known of it; of a stage that was finished before, all that summary.json has."""


@dataclass(frozen=True)
class Recording:
    """What is written of a training beside checkpoints, metrics and previews."""

    profile: Count = 0
    """Steps of each stage of which a trace is written, to RUN/profile, for xprof; 0: none."""
    tensorboard: bool = False
    """Write metrics and previews for TensorBoard too, to RUN/tensorboard; it needs the extra
    [tensorboard]."""

    def check(self) -> None:
        """Raises UserError for what cannot be written."""
        for wrong in violations(self):
            raise UserError(wrong)
        if self.tensorboard:
            check_installed()


def train_stage(
    task: StageTask,
    run: RunDir,
    mesh: jax.sharding.Mesh,
    key: jax.Array,
    recording: Recording,
) -> Trained:
    """Trains a stage to its last step, from its newest checkpoint if there is one."""
    name, config, checkpoints = task.name, task.config, run.checkpoints(task.name)
    if (finished := _finished(task, run, mesh)) is not None:
        return finished
    if (warmup := config.optimiser.warmup_steps) >= config.steps:
        log.warning(
            "%s: its %d steps end before the learning rate is warmed up, which takes %d: "
            "--%s.optimiser.warmup-steps",
            *(name, config.steps, warmup, name),
        )
    log.info("%s: compiling the training step", name)
    return_freed()  # by what has been compiled and encoded so far
    init, abstract, step = compile_step(
        task.objective, config, mesh, key, _global_shapes(task.loader), task.constants
    )
    log.info(
        "%s: %s parameters, compiled in %.0f s, peak memory %.0f MB a device",
        name,
        f"{step.parameters:,}",
        step.compile_s,
        step.peak_bytes / 1e6,
    )
    check_memory(f"the training step of the {name}", step.peak_bytes, mesh.devices.ravel())
    state = checkpoints.restore(abstract)
    if state is None:
        state = start_from(init(), task.initial)
    elif int(state.step) < config.steps:
        log.info("%s: resumes at step %d of %d", name, int(state.step), config.steps)

    board = None
    if recording.tensorboard and jax.process_index() == 0:
        board = TensorBoard(run.path / "tensorboard" / name, int(state.step))
    metrics = run.metrics if board is None else run.metrics.heard_by(board.record)

    def save_preview(state: TrainState, step: int) -> None:
        figure = task.preview(state)
        if jax.process_index() == 0:
            plots.save_png(run.to_write(f"samples/{name}_{step:07d}.png"), figure)
            if board:
                board.image(step, "preview", figure)

    def save_curves(_state: TrainState, _step: int) -> None:
        if jax.process_index() == 0 and (lines := metrics_file.read(run.metrics.path)):
            plots.save_png(run.to_write("curves.png"), plots.curves(lines))

    def save_measures(state: TrainState, step: int) -> None:
        numbers = task.measure(state)
        if jax.process_index() == 0:
            metrics.append({"stage": name, "step": step, **numbers})

    progress = config.progress
    hooks = [Hook(progress.preview_every, save_preview)] if task.preview else []
    hooks += [Hook(progress.preview_every, save_measures)] if task.measure else []
    hooks += [
        Hook(progress.preview_every, save_curves),
        Hook(progress.save_every, lambda _state, _step: run.record()),
        Hook(progress.preview_every, lambda _state, _step: return_freed()),  # by their programs
    ]
    return_freed()
    devices = list(mesh.local_devices)
    step_fn = estimated(step, name, config, int(state.step), task.flops_after, devices)
    if recording.profile:
        step_fn = profiled(step_fn, recording.profile, run.path / "profile" / name)
    try:
        state = fit(
            step_fn,
            state,
            lambda start_step: _on_devices(task.loader, start_step, mesh),
            config,
            name=name,
            checkpoints=checkpoints,
            metrics=metrics,
            hooks=[*([task.edit] if task.edit else []), *hooks],
        )
    except NonFinite as error:
        raise NonFinite(f"{error}; {_advice(run, name)}") from error
    finally:
        if board:
            board.close()
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


def _finished(task: StageTask, run: RunDir, mesh: jax.sharding.Mesh) -> Trained | None:
    """A stage that an earlier start has trained and measured: nothing is compiled again.

    None where there is something left to do, also where the last checkpoint is damaged.
    """
    known, steps = run.summary().get(task.name, {}), task.config.steps
    checkpoints = run.checkpoints(task.name)
    is_known = known.get("finished") and known.get("steps") == steps and "parameters" in known
    if not is_known or checkpoints.latest_step() != steps:
        return None
    state = checkpoints.restore(abstract_state(task.objective, task.config, mesh, task.constants))
    if state is None or int(state.step) != steps:
        return None
    log.info("%s: finished at step %d", task.name, steps)
    return Trained(state, known)


def _advice(run: RunDir, name: str) -> str:
    """What may help after a loss that is no longer finite, and can be done in this directory."""
    options = f"a lower --{name}.optimiser.learning-rate, or --{name}.optimiser.clip-norm 1"
    if name not in run.begun():
        return f"{options}, may help: give the same command with it"
    return f"{options}, may help, in a run of its own: --init-from {run.path} --run-dir NEW"


def _pace(run: RunDir, name: str, batch_size: int) -> dict[str, float]:
    """How long the steps took, without previews and checkpoints, in however many starts.

    {} where metrics.jsonl was lost.
    """
    lines = [line for line in metrics_file.read(run.metrics.path) if line["stage"] == name]
    lines = [line for line in lines if line.get("images_per_s")]
    if not lines:
        return {}
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
    """The batches from `start` on; the transfer of the next ones begins before they are needed.

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
