"""The training step of a stage as a program, without data, weights or devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ldm_jax.autoencoder.perceptual import abstract_params
from ldm_jax.commands.train.latents import LatentView, one_row
from ldm_jax.data.scenes import ScenesConfig
from ldm_jax.experiments.config import Experiment
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.placeholder import placeholder_data
from ldm_jax.training.config import TrainingConfig
from ldm_jax.training.step import Objective


@dataclass(frozen=True)
class AbstractStep:
    """What `training.step.lower_step` takes, as training has it; all arrays are shapes."""

    objective: Objective
    config: TrainingConfig
    batch: dict[str, jax.ShapeDtypeStruct]
    """Of all devices together."""
    constants: dict[str, Any]


def abstract_step(experiment: Experiment, stage: str) -> AbstractStep:
    """The step of `autoencoder` or `diffusion` by an experiment.

    UserError where only the data could tell what the model is (see `placeholder_data`). Latents are
    taken to be cached unless images are cropped at random: how many there will be is not known.
    """
    info, example = placeholder_data(experiment)
    model = LatentDiffusion(experiment, info)
    key = jax.eval_shape(lambda: jax.random.key(0))
    if stage == "autoencoder":
        config, objective = experiment.autoencoder, model.first.objective
        square = [config.crop_size or side for side in example["image"].shape[1:3]]
        shape = (1, *square, example["image"].shape[-1])
        row, constants = {"image": jax.ShapeDtypeStruct(shape, jnp.uint8)}, {}
        if config.loss.perceptual_weight > 0:
            constants = {"perceptual": abstract_params(config.loss.perceptual)}
    else:
        config, objective = experiment.diffusion, model.objective
        pixels = model.first.bottleneck == "none"
        frozen = {} if pixels else jax.eval_shape(model.first.objective.init, key)["autoencoder"]
        view = LatentView(model.first, frozen, model.condition, experiment.data.flip)
        row = one_row(view, example, cached=not pixels and not crops(experiment))
        scale = jax.ShapeDtypeStruct((), jnp.float32)
        constants = {"autoencoder": frozen, "scale_factor": scale}
    batch = {
        name: jax.ShapeDtypeStruct((config.batch_size, *array.shape[1:]), array.dtype)
        for name, array in row.items()
    }
    return AbstractStep(objective, config, batch, constants)


def crops(experiment: Experiment) -> bool:
    """Whether images are cropped at random, so that every step of stage 2 encodes them."""
    data = experiment.data
    return not isinstance(data, ScenesConfig) and data.crop == "random"
