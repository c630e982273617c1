"""A trained second stage: from its run directory onto the devices."""

from __future__ import annotations

import jax

from ldm_jax.errors import UserError
from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.run_dir import RunDir
from ldm_jax.experiments.second_stage import NAME
from ldm_jax.training.sharding import batch_sharding, make_mesh, put, tree_sharding


def load_weights(run: RunDir, experiment: Experiment) -> tuple[dict, dict]:
    """(parameters, constants) of the newest checkpoint of a run's second stage, for `Generator`.

    The parameters are the running average where the run keeps one. UserError without a checkpoint.
    """
    name = "ema" if experiment.diffusion.ema_decay else "params"
    saved = run.checkpoints(NAME).restore_part([name, "constants"])
    if saved is None:
        raise UserError(f"{run.path} has no checkpoint of its diffusion model yet; train it first")
    return saved[name], saved["constants"]


def placed(
    weights: tuple[dict, dict], experiment: Experiment, n: int
) -> tuple[tuple[dict, dict], jax.sharding.NamedSharding]:
    """(the weights on the devices, how batches are split over these), for n images.

    Over `tensor` they are split as in the run where the devices allow it; else each of them has all
    weights. No more devices than images are taken, unless the weights are split over them, or
    they belong to several processes.
    """
    tensor, devices = experiment.mesh.tensor, jax.devices()
    if tensor > 1 and len(devices) % tensor == 0:
        mesh = make_mesh(-1, 1, tensor)
    else:
        mesh = make_mesh(devices=devices[:n] if jax.process_count() == 1 else devices)
    return put(weights, tree_sharding(weights, mesh)), batch_sharding(mesh)
