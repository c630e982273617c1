"""The training step of a stage as a program, without data, weights or devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ldm_jax.autoencoder.perceptual import abstract_params
from ldm_jax.data.scenes import ScenesConfig
from ldm_jax.experiments.assumed import stand_in
from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.first_stage import NAME as AUTOENCODER
from ldm_jax.experiments.latents import one_row
from ldm_jax.experiments.models import FirstStage, SecondStage
from ldm_jax.experiments.stages import engine_stage
from ldm_jax.training.state import Stage


@dataclass(frozen=True)
class AbstractStep:
    """What `training.compile.lower` takes, as training has it; all arrays are shapes."""

    stage: Stage
    batch: dict[str, jax.ShapeDtypeStruct]
    """Of all devices together."""
    constants: dict[str, Any]


def abstract_step(experiment: Experiment, stage: str) -> AbstractStep:
    """The step of `autoencoder` or `diffusion` by an experiment.

    UserError where only the data could tell what the model is (see `stand_in`). Latents are taken
    to be cached unless images are cropped at random: how many there will be is not known.
    """
    facts, example = stand_in(experiment)
    key = jax.eval_shape(lambda: jax.random.key(0))
    if stage == AUTOENCODER:
        config, problem = experiment.autoencoder, FirstStage(experiment, facts).problem
        square = [config.crop_size or side for side in example["image"].shape[1:3]]
        shape = (1, *square, example["image"].shape[-1])
        row, constants = {"image": jax.ShapeDtypeStruct(shape, jnp.uint8)}, {}
        if config.loss.perceptual_weight > 0:
            constants = {"perceptual": abstract_params(config.loss.perceptual)}
    else:
        config, second = experiment.diffusion, SecondStage(experiment, facts)
        problem, first = second.problem, second.first
        pixels = first.bottleneck == "none"
        frozen = {} if pixels else jax.eval_shape(first.problem.init, key)["autoencoder"]
        cached = not pixels and not crops(experiment)
        row = one_row(first, frozen, example, second.condition, experiment.data.flip, cached)
        scale = jax.ShapeDtypeStruct((), jnp.float32)
        constants = {"autoencoder": frozen, "scale_factor": scale}
    batch = {
        name: jax.ShapeDtypeStruct((config.batch_size, *array.shape[1:]), array.dtype)
        for name, array in row.items()
    }
    return AbstractStep(engine_stage(config, problem), batch, constants)


def crops(experiment: Experiment) -> bool:
    """Whether images are cropped at random, so that every step of stage 2 encodes them."""
    data = experiment.data
    return not isinstance(data, ScenesConfig) and data.crop == "random"
