"""From an experiment to its two networks: what both training and sampling build on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ldm_jax.autoencoder.kl import sample_posterior, split_moments
from ldm_jax.autoencoder.step import AutoencoderProblem, to_bytes, to_model_range
from ldm_jax.conditioning.class_label import ClassEmbedder
from ldm_jax.conditioning.model import ConditionalModel, drop_condition
from ldm_jax.conditioning.tokenizer import Tokenizer
from ldm_jax.conditioning.transformer import TransformerEncoder
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.step import DiffusionProblem
from ldm_jax.diffusion.unet import UNet
from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.data import condition_encoder
from ldm_jax.experiments.run_dir import DataFacts
from ldm_jax.sampling.generate import Generator

Array = jax.Array


class FirstStage:
    """The autoencoder as the second stage sees it: pure functions of its parameters."""

    def __init__(self, experiment: Experiment, channels: int):
        stage = experiment.autoencoder
        self.problem = AutoencoderProblem(
            stage.network,
            stage.loss,
            stage.discriminator,
            channels,
            dtype=jnp.dtype(experiment.precision),
        )
        side = experiment.data.size // stage.network.f
        self.latent_shape = (side, side, stage.network.z_channels)

    def encode(self, params: dict, image: Array) -> Array:
        """Bytes `[B, H, W, C]` -> moments of q_E(z|x), `[B, h, w, 2c]`."""
        return self.problem.autoencoder(params).encode(to_model_range(image))

    def decode(self, params: dict, z: Array) -> Array:
        """z `[B, h, w, c]` -> bytes `[B, H, W, C]`."""
        return to_bytes(self.problem.autoencoder(params).decode(z))

    def reconstruct(self, params: dict, image: Array) -> Array:
        """D(E(x)) from the posterior's mean: bytes -> bytes, `[B, H, W, C]`."""
        mean, _ = split_moments(self.encode(params, image))
        return self.decode(params, mean)


class SecondStage:
    """The diffusion model on the first stage's latents, and the sampler for it.

    The constants of its training state are `autoencoder`, the parameters of the frozen first stage,
    and `scale_factor`, so that a checkpoint of the second stage is all that sampling needs.
    """

    def __init__(self, experiment: Experiment, facts: DataFacts):
        stage = experiment.diffusion
        self.first = FirstStage(experiment, facts.channels)
        self.encoder = condition_encoder(facts)
        null = None if self.encoder is None else self.encoder.null
        dtype = jnp.dtype(experiment.precision)
        c = experiment.autoencoder.network.z_channels

        def build(rngs: nnx.Rngs) -> ConditionalModel:
            kw = {"dtype": dtype, "rngs": rngs}
            tau, context_dim = None, 0
            if isinstance(self.encoder, Tokenizer):
                context_dim = stage.text.dim
                tau = TransformerEncoder(stage.text, self.encoder.size, self.encoder.length, **kw)
            elif self.encoder is not None:
                context_dim = stage.class_dim
                tau = ClassEmbedder(len(self.encoder.names) + 1, context_dim, **kw)
            return ConditionalModel(UNet(stage.unet, c, c, context_dim, **kw), tau)

        def drop(key: Array, y: Array) -> Array:
            return drop_condition(key, y, jnp.asarray(null), stage.drop_probability)

        self.problem = DiffusionProblem(
            build,
            make_schedule(stage.schedule),
            stage.prediction,
            self.latents,
            None if null is None else drop,
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
        """z_0 = scale_factor * a sample of q_E(z|x) (App. G), from `moments` or else `image`."""
        if "moments" in batch:
            moments = batch["moments"]
        else:
            moments = self.first.encode(constants["autoencoder"], batch["image"])
        return constants["scale_factor"] * sample_posterior(moments, key)

    def decode(self, constants: dict, z_0: Array) -> Array:
        """z_0 as the diffusion model sees it -> bytes `[B, H, W, C]`."""
        return self.first.decode(constants["autoencoder"], z_0 / constants["scale_factor"])


def scale_factor(moments: np.ndarray) -> np.float32:
    """1 / sigma_hat of App. G: one scalar, the standard deviation of the latents' samples.

    moments `[n, h, w, 2c]`. The variance of samples is that of the means plus the mean variance, so
    nothing need be drawn. The mean is not subtracted from the latents, as in the paper.
    """
    mean, logvar = (np.asarray(a, np.float64) for a in split_moments(jnp.asarray(moments)))
    return np.float32(1.0 / np.sqrt(np.var(mean) + np.mean(np.exp(logvar))))
