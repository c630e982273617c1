"""The encoder of semantic maps: downsampling to the size of the latent, then a 1x1 convolution."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from ldm_jax.errors import UserError
from ldm_jax.layers import Array, avg_pool2x, uniform_fan_in


class SpatialRescaler(nnx.Module):
    """tau_theta for a semantic map that enters by concatenation (Sec. 4.3.2).

    `[B, H, W, c_in]` -> `[B, H / 2^stages, W / 2^stages, c_out]`: `stages` times bilinear
    downsampling by 2, then a 1x1 convolution without bias. Bilinear downsampling without
    antialiasing, with pixel centres at half-integers, is the mean of 2x2 pixels.

    Raises:
      UserError: when called, if H or W is not a multiple of 2^stages.
    """

    def __init__(self, stages: int, c_in: int, c_out: int, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.stages = stages
        self.conv = nnx.Conv(
            c_in,
            c_out,
            (1, 1),
            use_bias=False,
            kernel_init=uniform_fan_in,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, x: Array) -> Array:
        height, width = x.shape[1:3]
        if height % 2**self.stages or width % 2**self.stages:
            raise UserError(
                f"the sides of a map must be multiples of {2**self.stages}, got {height} x {width}"
            )
        for _ in range(self.stages):
            x = avg_pool2x(x)
        return self.conv(x)
