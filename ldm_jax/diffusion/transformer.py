"""The spatial transformer, by which the UNet attends to condition tokens (Sec. 3.3, Table 16)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from ldm_jax.layers import Array, Attention, conv, group_norm, layer_norm, linear, run_block


class GatedFeedForward(nnx.Module):
    """GEGLU: value * gelu(gate) of width 4 dim, on `[B, N, dim]`, with the exact GELU (erf)."""

    def __init__(self, dim: int, *, dtype, rngs: nnx.Rngs):
        self.proj_in = linear(dim, 8 * dim, dtype=dtype, rngs=rngs)
        self.proj_out = linear(4 * dim, dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        value, gate = jnp.split(self.proj_in(x), 2, axis=-1)
        return self.proj_out(value * jax.nn.gelu(gate, approximate=False))


class TransformerBlock(nnx.Module):
    """Self-attention, cross-attention to the condition, feed-forward; each pre-norm and residual.

    This is the order of the published networks; Table 16 prints self-attention, MLP,
    cross-attention.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int,
        *,
        heads: int,
        remat: bool = False,
        dtype,
        rngs: nnx.Rngs,
    ):
        kw = {"dtype": dtype, "rngs": rngs}
        self.remat = remat
        head = {"heads": heads, "head_dim": dim // heads}
        self.norm1 = layer_norm(dim, **kw)
        self.self_attention = Attention(dim, **head, **kw)
        self.norm2 = layer_norm(dim, **kw)
        self.cross_attention = Attention(dim, context_dim, **head, **kw)
        self.norm3 = layer_norm(dim, **kw)
        self.feed_forward = GatedFeedForward(dim, **kw)

    def __call__(self, x: Array, context: Array) -> Array:
        return run_block(TransformerBlock._forward, self, x, context, remat=self.remat)

    def _forward(self, x: Array, context: Array) -> Array:
        x = x + self.self_attention(self.norm1(x))
        x = x + self.cross_attention(self.norm2(x), context)  # Q from phi(z_t), K and V from tau
        return x + self.feed_forward(self.norm3(x))


class SpatialTransformer(nnx.Module):
    """GroupNorm, 1x1 conv, `depth` blocks over the positions, zero-initialised 1x1 conv; a skip.

    x `[B, h, w, C]` and context tau_theta(y) `[B, M, d_tau]` -> `[B, h, w, C]`.
    """

    def __init__(
        self,
        channels: int,
        context_dim: int,
        *,
        heads: int,
        depth: int,
        groups: int,
        remat: bool = False,
        dtype,
        rngs: nnx.Rngs,
    ):
        kw = {"dtype": dtype, "rngs": rngs}
        self.norm = group_norm(channels, groups, 1e-6, **kw)
        self.proj_in = conv(channels, channels, 1, **kw)
        self.blocks = nnx.List(
            [
                TransformerBlock(channels, context_dim, heads=heads, remat=remat, **kw)
                for _ in range(depth)
            ]
        )
        self.proj_out = conv(channels, channels, 1, zero=True, **kw)

    def __call__(self, x: Array, context: Array) -> Array:
        b, h, w, c = x.shape
        y = self.proj_in(self.norm(x)).reshape(b, h * w, c)
        for block in self.blocks:
            y = block(y, context)
        return x + self.proj_out(y.reshape(b, h, w, c))
