"""From an experiment to its two networks: what both training and sampling build on."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.autoencoder.kl import sample_posterior, split_moments
from ldm_jax.autoencoder.step import AutoencoderProblem, to_bytes, to_model_range
from ldm_jax.conditioning.class_label import ClassLabels
from ldm_jax.conditioning.model import drop_condition
from ldm_jax.data.loader import Batch
from ldm_jax.diffusion.classifier import NoisyLatentClassifier
from ldm_jax.diffusion.classifier_step import ClassifierProblem
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.step import DiffusionProblem
from ldm_jax.experiments.conditions import condition_of
from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.mechanism import build_model, latent_channels, mechanism
from ldm_jax.experiments.run_dir import DataInfo
from ldm_jax.parameters import Keys
from ldm_jax.sampling.generate import Generator
from ldm_jax.sampling.guides import of_class
from ldm_jax.training.sharding import fetch

Array = jax.Array
AT_ONCE = 64  # conditions that are encoded at a time, where they are images


class FirstStage:
    """The autoencoder as the second stage sees it: pure functions of its parameters.

    Without one (LDM-1) the latents are the pixels, and there are no parameters.
    """

    def __init__(self, experiment: Experiment, facts: DataInfo):
        stage = experiment.autoencoder
        self.bottleneck, self.channels = stage.network.bottleneck, facts.channels
        self.problem = AutoencoderProblem(
            stage.network,
            stage.loss,
            stage.discriminator,
            facts.channels,
            remat=stage.remat,
            dtype=jnp.dtype(experiment.precision),
            init_gain=stage.init_gain,
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

    def decode_float(self, params: dict, z: Array) -> Array:
        """D(z): z `[B, h, w, c]` -> floats `[B, H, W, C]`, nominally in [-1, 1], not clipped."""
        return z if self.bottleneck == "none" else self.problem.autoencoder(params).decode(z)

    def decode(self, params: dict, z: Array) -> Array:
        """z `[B, h, w, c]` -> bytes `[B, H, W, C]`."""
        return to_bytes(self.decode_float(params, z))

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

    def __init__(self, experiment: Experiment, facts: DataInfo):
        stage = experiment.diffusion
        self.first = FirstStage(experiment, facts)
        f = experiment.autoencoder.network.f
        self.condition = condition_of(stage, facts, f, self.encode)
        self.kind = facts.condition
        null = None if self.condition is None else self.condition.null
        self.guidable = null is not None and stage.drop_probability > 0

        def condition(constants: dict, batch: dict, key: Array) -> Array:
            y = self.condition.y(constants, batch)
            if not self.guidable:
                return y
            return drop_condition(key, y, jnp.asarray(null), stage.drop_probability)

        self.problem = DiffusionProblem(
            partial(build_model, experiment, facts),
            make_schedule(stage.schedule),
            stage.prediction,
            self.latents,
            None if self.condition is None else condition,
            norm=stage.norm,
            dropout=stage.unet.dropout > 0,
        )
        self.generator = Generator(
            self.problem.model,
            self.decode_float,
            self.problem.schedule,
            stage.prediction,
            self.first.latent_shape,
            null if self.guidable else None,
            mechanism(experiment, facts).entry == "concatenation",
        )
        self._y = jax.jit(self.condition.y) if self.condition else None

    def ys(self, constants: dict, seen: Batch | None) -> np.ndarray | None:
        """The y of conditions as `Condition.view` gives them, a few at a time: `[n, ...]`."""
        if seen is None:
            return None
        n = len(next(iter(seen.values())))
        parts = [
            self._y(constants, {key: rows[start : start + AT_ONCE] for key, rows in seen.items()})
            for start in range(0, n, AT_ONCE)
        ]
        return np.concatenate(fetch(parts))

    def latents(self, constants: dict, batch: dict, key: Array) -> Array:
        """z_0 = scale_factor * a sample of q_E(z|x) (App. G), from `encoded` or else `image`."""
        if "encoded" in batch:
            encoded = batch["encoded"]
        else:
            encoded = self.first.encode(constants["autoencoder"], batch["image"])
        return constants["scale_factor"] * self.first.sample(encoded, key)

    def encode(self, constants: dict, image: Array) -> Array:
        """Bytes `[B, H, W, C]` -> their z_0 with the least noise, scaled as in `latents`."""
        encoded = self.first.encode(constants["autoencoder"], image)
        return constants["scale_factor"] * self.first.mean(encoded)

    def decode_float(self, constants: dict, z_0: Array) -> Array:
        """z_0 as the diffusion model sees it -> floats `[B, H, W, C]`, nominally in [-1, 1]."""
        return self.first.decode_float(constants["autoencoder"], z_0 / constants["scale_factor"])

    def decode(self, constants: dict, z_0: Array) -> Array:
        """z_0 as the diffusion model sees it -> bytes `[B, H, W, C]`."""
        return to_bytes(self.decode_float(constants, z_0))


class Classifier:
    """The classifier of the noisy latents that the diffusion model sees, and its log p to guide by.

    labels: its classes, those of the data. The constants are those of the diffusion model.
    """

    def __init__(self, experiment: Experiment, facts: DataInfo, second: SecondStage):
        stage, (side, _, c) = experiment.classifier, second.first.latent_shape

        def build(rngs: Keys) -> NoisyLatentClassifier:
            return NoisyLatentClassifier(
                stage.unet,
                c,
                len(facts.class_names),
                stage.pool,
                side,
                remat=stage.remat,
                dtype=jnp.dtype(experiment.precision),
                rngs=rngs,
            )

        self.labels = ClassLabels(facts.class_names)
        self.problem = ClassifierProblem(
            build, second.problem.schedule, second.latents, dropout=stage.unet.dropout > 0
        )
        self.log_p = of_class(self.problem.model)
