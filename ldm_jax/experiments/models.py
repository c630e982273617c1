"""From an experiment to its two networks: what both training and sampling build on."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.autoencoder.kl import sample_posterior, split_moments
from ldm_jax.autoencoder.step import AutoencoderProblem, to_bytes, to_model_range
from ldm_jax.conditioning.model import drop_condition
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.step import DiffusionProblem
from ldm_jax.experiments.condition import build_model, latent_channels
from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.data import condition_encoder
from ldm_jax.experiments.run_dir import DataFacts
from ldm_jax.sampling.generate import Generator

Array = jax.Array


class FirstStage:
    """The autoencoder as the second stage sees it: pure functions of its parameters.

    Without one (LDM-1) the latents are the pixels, and there are no parameters.
    """

    def __init__(self, experiment: Experiment, facts: DataFacts):
        stage = experiment.autoencoder
        self.bottleneck = stage.network.bottleneck
        self.problem = AutoencoderProblem(
            stage.network,
            stage.loss,
            stage.discriminator,
            facts.channels,
            dtype=jnp.dtype(experiment.precision),
        )
        side = experiment.data.size // stage.network.f
        self.latent_shape = (side, side, latent_channels(stage.network, facts))

    def encode(self, params: dict, image: Array) -> Array:
        """Bytes `[B, H, W, C]` -> moments of q_E(z|x) `[B, h, w, 2c]`, or z `[B, h, w, c]` (VQ)."""
        if self.bottleneck == "none":
            return to_model_range(image)
        return self.problem.autoencoder(params).encode(to_model_range(image))

    def sample(self, encoded: Array, key: Array) -> Array:
        """What the diffusion model learns: a sample of q_E(z|x), or z before it is quantised."""
        return sample_posterior(encoded, key) if self.bottleneck == "kl" else encoded

    def mean(self, encoded: Array) -> Array:
        """The latent with the least noise: the mean of q_E(z|x), or z."""
        return split_moments(encoded)[0] if self.bottleneck == "kl" else encoded

    def decode(self, params: dict, z: Array) -> Array:
        """z `[B, h, w, c]` -> bytes `[B, H, W, C]`."""
        if self.bottleneck == "none":
            return to_bytes(z)
        return to_bytes(self.problem.autoencoder(params).decode(z))

    def reconstruct(self, params: dict, image: Array) -> Array:
        """D(E(x)) from the posterior's mean: bytes -> bytes, `[B, H, W, C]`."""
        return self.decode(params, self.mean(self.encode(params, image)))

    def scale_factor(self, encoded: np.ndarray) -> np.float32:
        """1 / sigma_hat of App. G: one scalar, the standard deviation of the latents' samples.

        The variance of samples is that of the means plus the mean variance, so nothing need be
        drawn. The mean is not subtracted from the latents, as in the paper.
        """
        variance = np.var(np.asarray(self.mean(encoded), np.float64))
        if self.bottleneck == "kl":
            _, logvar = split_moments(jnp.asarray(encoded))
            variance += np.mean(np.exp(np.asarray(logvar, np.float64)))
        return np.float32(1.0 / np.sqrt(variance))


class SecondStage:
    """The diffusion model on the first stage's latents, and the sampler for it.

    The constants of its training state are `autoencoder`, the parameters of the frozen first stage,
    and `scale_factor`, so that a checkpoint of the second stage is all that sampling needs.
    """

    def __init__(self, experiment: Experiment, facts: DataFacts):
        stage = experiment.diffusion
        self.first = FirstStage(experiment, facts)
        self.encoder = condition_encoder(stage, facts)
        self.conditional = facts.condition != "none"
        self.guidable = self.encoder is not None and stage.drop_probability > 0
        null = self.encoder.null if self.guidable else None

        def drop(key: Array, y: Array) -> Array:
            if null is None:
                return y
            return drop_condition(key, y, jnp.asarray(null), stage.drop_probability)

        self.problem = DiffusionProblem(
            partial(build_model, experiment, facts),
            make_schedule(stage.schedule),
            stage.prediction,
            self.latents,
            None if self.encoder is None else drop,
            norm=stage.norm,
            dropout=stage.unet.dropout > 0,
        )
        self.generator = Generator(
            self.problem.model,
            self.decode,
            self.problem.schedule,
            stage.prediction,
            self.first.latent_shape,
            null,
        )

    def latents(self, constants: dict, batch: dict, key: Array) -> Array:
        """z_0 = scale_factor * a sample of q_E(z|x) (App. G), from `encoded` or else `image`."""
        if "encoded" in batch:
            encoded = batch["encoded"]
        else:
            encoded = self.first.encode(constants["autoencoder"], batch["image"])
        return constants["scale_factor"] * self.first.sample(encoded, key)

    def decode(self, constants: dict, z_0: Array) -> Array:
        """z_0 as the diffusion model sees it -> bytes `[B, H, W, C]`."""
        return self.first.decode(constants["autoencoder"], z_0 / constants["scale_factor"])
