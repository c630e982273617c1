"""Both stages of a latent diffusion model as pure functions, built from a configuration."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from ldm_jax.autoencoder.step import to_bytes
from ldm_jax.conditioning.model import drop_condition
from ldm_jax.diffusion.schedule import Schedule, make_schedule
from ldm_jax.diffusion.step import DiffusionObjective
from ldm_jax.experiments.config import Experiment
from ldm_jax.model.conditioning import build_model, conditioning_spec
from ldm_jax.model.conditions import make_condition
from ldm_jax.model.data_info import DataInfo
from ldm_jax.model.first_stage import FirstStage
from ldm_jax.sampling.sample import Sampler
from ldm_jax.training.memory import check_program

Array = jax.Array


class Networks:
    """First stage, condition, objective and sampler of a model, without weights.

    `constants` are those of the training state: `autoencoder`, the parameters of the frozen first
    stage, and `scale_factor`, so that a checkpoint of the second stage is all that sampling needs.

    Args:
      config: the experiment; it is taken apart here.
      info: facts of its training data.
    """

    def __init__(self, config: Experiment, info: DataInfo):
        stage = config.diffusion
        self.config, self.info = config, info
        self.first = FirstStage(config.autoencoder, info.channels, config.precision)
        self.spec = conditioning_spec(stage, info, self.first)
        self.condition = make_condition(stage, info, self.first.f, self.encode_image)
        null = None if self.condition is None else self.condition.null
        self.guidable = null is not None and stage.drop_probability > 0
        self.objective = DiffusionObjective(
            partial(build_model, stage, self.spec, self.first.latent_channels, config.precision),
            make_schedule(stage.schedule),
            stage.prediction,
            self.latents,
            None if self.condition is None else self._dropped_condition,
            loss_norm=stage.loss_norm,
            density=stage.timestep_density,
            min_snr_gamma=stage.min_snr_gamma,
            dropout=stage.unet.dropout > 0,
            frozen=("tau",) if stage.freeze_encoder else (),
        )
        self.sampler = Sampler(
            self.objective.model,
            self.decode_float,
            self.schedule,
            stage.prediction,
            null if self.guidable else None,
            concatenates=self.spec.how == "concatenation",
            before_run=partial(check_program, "sampling a batch of images"),
        )

    @property
    def schedule(self) -> Schedule:
        """The forward process: beta, alpha_bar, alpha and sigma over the T timesteps."""
        return self.objective.schedule

    def latents(self, constants: dict, batch: dict, key: Array) -> Array:
        """z_0 = scale_factor * a sample of q_E(z|x) (App. G), from `encoded` or else `image`."""
        if "encoded" in batch:
            encoded = batch["encoded"]
        else:
            encoded = self.first.encode(constants["autoencoder"], batch["image"])
        return constants["scale_factor"] * self.first.sample(encoded, key)

    def encode_image(self, constants: dict, image: Array) -> Array:
        """Images `[B, H, W, C]` -> their z_0 without noise, scaled as in `latents`."""
        encoded = self.first.encode(constants["autoencoder"], image)
        return constants["scale_factor"] * self.first.mean(encoded)

    def decode_float(self, constants: dict, z_0: Array) -> Array:
        """z_0 as the diffusion model sees it -> floats `[B, H, W, C]`, nominally in [-1, 1]."""
        return self.first.decode_float(constants["autoencoder"], z_0 / constants["scale_factor"])

    def decode_image(self, constants: dict, z_0: Array) -> Array:
        """z_0 as the diffusion model sees it -> bytes `[B, H, W, C]`."""
        return to_bytes(self.decode_float(constants, z_0))

    def _dropped_condition(self, constants: dict, batch: dict, key: Array) -> Array:
        y = self.condition.encode(constants, batch)
        if not self.guidable:
            return y
        probability = self.config.diffusion.drop_probability
        return drop_condition(key, y, jnp.asarray(self.condition.null), probability)
