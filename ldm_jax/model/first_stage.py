"""The first stage as the second one uses it: pure functions of the autoencoder's parameters."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.autoencoder.kl import sample_posterior, split_moments
from ldm_jax.autoencoder.step import AutoencoderObjective, to_bytes, to_model_range
from ldm_jax.errors import UserError
from ldm_jax.experiments.config import AutoencoderStage
from ldm_jax.training.sharding import ROWS_PER_DEVICE

Array = jax.Array
LARGEST_BYTES = 2**30  # of an array, where fewer images at a time make it smaller


class FirstStage:
    """Encoder, bottleneck and decoder of Sec. 3.1.

    With bottleneck none (LDM-1) there is no first stage: latents are the pixels, and there are no
    parameters.

    Args:
      channels: of the images. dtype: computing type.
    """

    def __init__(self, config: AutoencoderStage, channels: int, dtype: str = "float32"):
        self.network, self.channels = config.network, channels
        self.bottleneck, self.f = config.network.bottleneck, config.network.f
        self.objective = AutoencoderObjective(
            config.network,
            config.loss,
            config.discriminator,
            channels,
            remat=config.remat,
            dtype=jnp.dtype(dtype),
            init_gain=config.init_gain,
            freeze_encoder=config.freeze_encoder,
        )

    @property
    def latent_channels(self) -> int:
        """Channels c of the latents."""
        return self.channels if self.bottleneck == "none" else self.network.z_channels

    def latent_bytes(self, height: int, width: int) -> int:
        """Bytes of the latent of an image of so many pixels: a byte a number, or its codes' bits.

        A KL latent is real numbers, of which 8 bits each are kept in this count.
        """
        codes = (height // self.f) * (width // self.f)
        if self.bottleneck == "vq":
            return math.ceil(codes * math.ceil(math.log2(self.network.codebook_size)) / 8)
        return codes * self.latent_channels

    def rows_at_once(self, height: int, width: int, most: int = ROWS_PER_DEVICE) -> int:
        """How many images of so many pixels a device encodes or decodes at a time, up to `most`.

        One takes 1 GiB with f = 2 at 256x256, for the attention between 128x128 positions.
        """
        each = 4 * self.network.largest_array(height, width)
        return max(1, min(most, LARGEST_BYTES // max(1, each)))

    def checked(self, images: np.ndarray) -> np.ndarray:
        """One image or several: `[n, H, W, C]`, uint8 or float32. UserError for other shapes."""
        images = np.asarray(images)
        images = images[None] if images.ndim == 3 else images
        sides, c = images.shape[1:3], self.channels
        if images.ndim != 4 or images.shape[-1] != c or any(side % self.f for side in sides):
            raise UserError(
                f"images are [n, H, W, {c}] with sides that are multiples of {self.f}, "
                f"not {list(images.shape)}"
            )
        return images if images.dtype == np.uint8 else images.astype(np.float32)

    def encode(self, params: dict, image: Array) -> Array:
        """Images -> moments of q_E(z|x) `[B, h, w, 2c]`, or with VQ z `[B, h, w, c]`.

        Args:
          image: `[B, H, W, C]`, bytes, or floats in [-1, 1].
        """
        x = to_model_range(image) if image.dtype == jnp.uint8 else image
        return x if self.bottleneck == "none" else self.objective.autoencoder(params).encode(x)

    def sample(self, encoded: Array, key: Array) -> Array:
        """What the diffusion model learns: a sample of q_E(z|x), or z before it is quantised."""
        return sample_posterior(encoded, key) if self.bottleneck == "kl" else encoded

    def mean(self, encoded: Array) -> Array:
        """The latent without noise: the mean of q_E(z|x), or z."""
        return split_moments(encoded)[0] if self.bottleneck == "kl" else encoded

    def decode_float(self, params: dict, z: Array) -> Array:
        """D(z): z `[B, h, w, c]` -> floats `[B, H, W, C]`, nominally in [-1, 1], not clipped."""
        return z if self.bottleneck == "none" else self.objective.autoencoder(params).decode(z)

    def decode(self, params: dict, z: Array) -> Array:
        """z `[B, h, w, c]` -> bytes `[B, H, W, C]`."""
        return to_bytes(self.decode_float(params, z))

    def reconstruct(self, params: dict, image: Array) -> Array:
        """D(E(x)) from the posterior's mean: images as for `encode` -> bytes `[B, H, W, C]`."""
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
