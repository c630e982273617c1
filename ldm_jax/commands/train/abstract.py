"""The training step of a stage as shapes alone: what it would read, and whether it can be built."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ldm_jax.autoencoder.perceptual import abstract_params
from ldm_jax.commands.train.at_end import images_at_end
from ldm_jax.commands.train.diffusion import PREVIEWS
from ldm_jax.commands.train.held_out import HeldOut
from ldm_jax.commands.train.latents import LatentView, one_row
from ldm_jax.data.loader import Batch
from ldm_jax.model.data import OpenData
from ldm_jax.model.latent_diffusion import LatentDiffusion
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


def abstract_step(model: LatentDiffusion, stage: str, example: Batch, cached: bool) -> AbstractStep:
    """The step of `autoencoder` or `diffusion`.

    Args:
      example: one example as a source reads it. cached: whether stage 2 reads latents that were
        computed before, or images, which every step encodes.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    config = getattr(model.config, stage)
    if stage == "autoencoder":
        objective = model.first.objective
        square = [config.crop_size or side for side in example["image"].shape[1:3]]
        shape = (1, *square, example["image"].shape[-1])
        row, constants = {"image": jax.ShapeDtypeStruct(shape, jnp.uint8)}, {}
        if config.loss.perceptual_weight > 0:
            constants = {"perceptual": abstract_params(config.loss.perceptual)}
    else:
        objective, pixels = model.objective, model.first.bottleneck == "none"
        frozen = {} if pixels else jax.eval_shape(model.first.objective.init, key)["autoencoder"]
        view = LatentView(model.first, frozen, model.condition, model.config.data.flip)
        row = one_row(view, example, cached and not pixels)
        scale = jax.ShapeDtypeStruct((), jnp.float32)
        constants = {"autoencoder": frozen, "scale_factor": scale}
    batch = {
        name: jax.ShapeDtypeStruct((config.batch_size, *array.shape[1:]), array.dtype)
        for name, array in row.items()
    }
    return AbstractStep(objective, config, batch, constants)


def check_diffusion(model: LatentDiffusion, data: OpenData) -> Work:
    """Builds the second stage from the data's facts, its loss and its previews; takes a second.

    So that hours of the first stage are not spent on a run whose second one cannot be. Returns what
    it costs.

    Raises:
      UserError: its condition, its networks or its sampling do not fit together.
    """
    step = abstract_step(model, "diffusion", data.train.read([0]), data.fixed_views)
    work = work_of(model, step, data.fixed_views)
    held_out = HeldOut.read(data.validation, model.condition, 1)
    held_out.figure(held_out.truth["image"])
    model.sampler.check(model.settings, conditional=model.condition is not None)
    model.geometry()
    return work


@dataclass(frozen=True)
class Work:
    """FLOPs of the second stage, as XLA counts them before it compiles."""

    training: float
    """Of all training steps."""
    sampling: float
    """Of the previews, and of the samples at the end."""


def work_of(model: LatentDiffusion, step: AbstractStep, cached: bool) -> Work:
    """What the second stage costs; `cached`: whether it reads latents, as for `abstract_step`."""
    first, config = model.first, model.config
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(step.objective.init, key)
    unet = _flops(step.objective.loss, params, step.constants, step.batch, key)
    encoding = 0.0
    if not cached and first.bottleneck != "none":
        encoding = _flops(first.encode, step.constants["autoencoder"], step.batch["image"])
        unet -= encoding
    stage, settings = config.diffusion, config.sampling
    previews = math.ceil(stage.steps / stage.progress.preview_every)
    images = previews * PREVIEWS + images_at_end(config, model.info.condition)
    passes = settings.steps * (1 if settings.guidance == 1.0 else 2)
    return Work(
        # A gradient takes twice as much as the loss, and none is taken of the frozen encoder.
        training=stage.steps * (3 * unet + encoding),
        sampling=images * passes * unet / stage.batch_size,
    )


def _flops(function: Callable, *shapes: Any) -> float:
    return (jax.jit(function).lower(*shapes).cost_analysis() or {}).get("flops", 0.0)
