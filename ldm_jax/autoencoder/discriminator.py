"""The patch discriminator D_psi of App. G, Eq. (25), and its two hinge losses."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from ldm_jax.bounds import Depth, Width
from ldm_jax.layers import Array, Conv

_normal = nnx.initializers.normal(0.02)


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Sizes of the PatchGAN; each logit depends on a patch (70 pixels wide with three layers)."""

    channels: Width = 64
    """Channels of the first layer."""
    layers: Depth = 3
    """Number of stride-2 layers; each one after the first doubles the channels, up to 8x."""

    @property
    def smallest_size(self) -> int:
        """Smallest image side that gives a logit."""
        return 2**self.layers * 3


def _scale_init(key, shape, dtype=jnp.float32):
    return 1.0 + 0.02 * jax.random.normal(key, shape, dtype)


class BatchNorm(nnx.Module):
    """Batch normalisation by the statistics of the batch, in float32.

    There are no running averages: a discriminator is applied only to training batches. Under data
    parallelism the statistics are those of the global batch.
    """

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.scale = nnx.Param(_scale_init(rngs.params(), (channels,)))
        self.bias = nnx.Param(jnp.zeros((channels,)))

    def __call__(self, x: Array) -> Array:
        dtype, x = x.dtype, x.astype(jnp.float32)
        mean = jnp.mean(x, axis=(0, 1, 2), keepdims=True)
        var = jnp.mean((x - mean) ** 2, axis=(0, 1, 2), keepdims=True)
        y = (x - mean) * jax.lax.rsqrt(var + 1e-5) * self.scale[None, None, None]
        return (y + self.bias[None, None, None]).astype(dtype)


class Discriminator(nnx.Module):
    """x `[B, H, W, C]` in [-1, 1] -> one logit per patch, `[B, H', W', 1]`, float32."""

    def __init__(
        self, config: DiscriminatorConfig, channels: int, *, dtype=jnp.float32, rngs: nnx.Rngs
    ):
        def conv4(c_in, c_out, stride, bias, dtype=dtype):
            return Conv(
                c_in,
                c_out,
                (4, 4),
                strides=stride,
                padding=1,
                use_bias=bias,
                kernel_init=_normal,
                dtype=dtype,
                rngs=rngs,
            )

        c = config.channels
        self.conv_in = conv4(channels, c, 2, True)
        convs, norms = [], []
        for n in range(1, config.layers + 1):
            c_next = config.channels * min(2**n, 8)
            convs.append(conv4(c, c_next, 2 if n < config.layers else 1, False))
            norms.append(BatchNorm(c_next, rngs=rngs))
            c = c_next
        self.convs, self.norms = nnx.List(convs), nnx.List(norms)
        self.conv_out = conv4(c, 1, 1, True, dtype=jnp.float32)

    def __call__(self, x: Array) -> Array:
        h = nnx.leaky_relu(self.conv_in(x), 0.2)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = nnx.leaky_relu(norm(conv(h)), 0.2)
        return self.conv_out(h.astype(jnp.float32))


def hinge_generator(logits_fake: Array) -> Array:
    """-L_adv of Eq. (25) for the autoencoder, non-saturating hinge form: -mean D(x_hat)."""
    return -jnp.mean(logits_fake)


def hinge_discriminator(logits_real: Array, logits_fake: Array) -> Array:
    """Hinge loss of D_psi, Eq. (25); 1 if it cannot distinguish real from fake."""
    return 0.5 * (
        jnp.mean(jax.nn.relu(1.0 - logits_real)) + jnp.mean(jax.nn.relu(1.0 + logits_fake))
    )
