"""The blocks that the autoencoder and the UNet share: norm, convolution, ResBlock, attention.

Arrays are `[B, H, W, C]`. Every module takes `dtype`, the type it computes in; parameters are
float32, and so are GroupNorm statistics and the softmax, whatever `dtype` is.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

Array = jax.Array

# The published networks were initialised by PyTorch's defaults: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
uniform_fan_in = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
zeros = nnx.initializers.zeros


def conv(
    c_in: int,
    c_out: int,
    size: int = 3,
    *,
    stride: int = 1,
    padding="SAME",
    zero: bool = False,
    dtype,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A 2-D convolution; `zero` starts it at zero, so that a residual branch starts as nothing."""
    return nnx.Conv(
        c_in,
        c_out,
        (size, size),
        strides=stride,
        padding=padding,
        kernel_init=zeros if zero else uniform_fan_in,
        dtype=dtype,
        rngs=rngs,
    )


def linear(
    c_in: int, c_out: int, *, bias: bool = True, zero: bool = False, dtype, rngs: nnx.Rngs
) -> nnx.Linear:
    """A dense layer on the last axis, initialised as `conv` is."""
    return nnx.Linear(
        c_in,
        c_out,
        use_bias=bias,
        kernel_init=zeros if zero else uniform_fan_in,
        dtype=dtype,
        rngs=rngs,
    )


class GroupNorm(nnx.GroupNorm):
    """nnx.GroupNorm on `[B, H, W, C]` by the exact two passes: the fast one loses small variances.

    Each mean is first taken over the positions and then over the few channels of a group, which a
    CPU does two to three times as fast as over both at once.
    """

    def __call__(self, x: Array) -> Array:
        x = x.astype(jnp.float32)
        d = x - self._of_group(jnp.mean(x, axis=(1, 2)))
        var = self._of_group(jnp.mean(d**2, axis=(1, 2)))
        scale, bias = self.scale[...][None, None, None], self.bias[...][None, None, None]
        return (d * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias).astype(self.dtype)

    def _of_group(self, a_bc: Array) -> Array:
        """The mean over a group for each of its channels, `[B, C]` -> `[B, 1, 1, C]`."""
        a_bg = jnp.mean(a_bc.reshape(-1, self.num_groups, self.group_size), axis=-1)
        return jnp.repeat(a_bg, self.group_size, axis=-1)[:, None, None]


def group_norm(channels: int, groups: int, epsilon: float, *, dtype, rngs: nnx.Rngs) -> GroupNorm:
    """A GroupNorm whose scale starts at 1 and bias at 0."""
    return GroupNorm(channels, num_groups=groups, epsilon=epsilon, dtype=dtype, rngs=rngs)


def avg_pool2x(x: Array) -> Array:
    """Means of 2x2 squares: `[B, H, W, C]` -> `[B, H/2, W/2, C]`."""
    return nnx.avg_pool(x, (2, 2), strides=(2, 2))


def upsample2x(x: Array) -> Array:
    """Every pixel twice along each axis: `[B, H, W, C]` -> `[B, 2H, 2W, C]`."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def layer_norm(dim: int, *, dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm on the last axis, with the exact two-pass variance as in `group_norm`."""
    return nnx.LayerNorm(dim, epsilon=1e-5, use_fast_variance=False, dtype=dtype, rngs=rngs)


def run_block(forward: Callable[..., Array], block: nnx.Module, *inputs, remat: bool) -> Array:
    """forward(block, *inputs); with `remat` it keeps nothing else for the backward pass.

    What was computed inside is then computed there again.
    """
    return (jax.checkpoint(forward) if remat else forward)(block, *inputs)


class ResBlock(nnx.Module):
    """GroupNorm, SiLU, conv, twice, around a skip; `emb` (the time step) enters in the middle.

    The autoencoder has no `emb` (`emb_dim=0`) and starts its last convolution at random; the UNet
    starts it at zero. `[B, H, W, c_in]` -> `[B, H, W, c_out]`.

    Args:
      scale_shift: `emb` scales and shifts the second norm's output instead of being added before.
      resample: `avg_pool2x` or `upsample2x`, applied to both branches, the residual one just before
        its first convolution: a change of resolution that needs no layer of its own.
      remat: see `run_block`.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        emb_dim: int = 0,
        scale_shift: bool = False,
        resample: Callable[[Array], Array] | None = None,
        groups: int,
        epsilon: float,
        dropout: float = 0.0,
        zero_out: bool = False,
        remat: bool = False,
        dtype,
        rngs: nnx.Rngs,
    ):
        kw = {"dtype": dtype, "rngs": rngs}
        self.scale_shift, self.resample, self.remat = scale_shift, resample, remat
        self.norm1 = group_norm(c_in, groups, epsilon, **kw)
        self.conv1 = conv(c_in, c_out, **kw)
        emb_out = 2 * c_out if scale_shift else c_out
        self.emb = nnx.data(linear(emb_dim, emb_out, **kw) if emb_dim else None)
        self.norm2 = group_norm(c_out, groups, epsilon, **kw)
        self.dropout = nnx.Dropout(dropout)
        self.conv2 = conv(c_out, c_out, zero=zero_out, **kw)
        self.skip = nnx.data(conv(c_in, c_out, 1, **kw) if c_in != c_out else None)

    def __call__(self, x: Array, emb: Array | None = None, rngs: nnx.Rngs | None = None) -> Array:
        # The key is drawn out here: what counts the draws would not move on inside.
        key = None if rngs is None else rngs.dropout()
        return run_block(ResBlock._forward, self, x, emb, key, remat=self.remat)

    def _forward(self, x: Array, emb: Array | None, key: Array | None) -> Array:
        h = nnx.silu(self.norm1(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv1(h)
        if self.emb is not None:
            shift = self.emb(nnx.silu(emb))[:, None, None, :]
        if self.scale_shift:
            scale, shift = jnp.split(shift, 2, axis=-1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h if self.emb is None else h + shift)
        h = self.conv2(self.dropout(nnx.silu(h), deterministic=key is None, rngs=key))
        return h + (x if self.skip is None else self.skip(x))


class Attention(nnx.Module):
    """Multi-head attention of tokens `x_bnc` on `context_bmd` (on themselves if it is None).

    Softmax(Q K^T / sqrt(d)) V of Sec. 3.3, d the width of one head. The logits and the softmax are
    float32. `qkv_bias` and `zero_out` follow the caller: the UNet's transformer has no bias there.
    With `causal` a token sees itself and those before it.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int | None = None,
        *,
        heads: int,
        head_dim: int,
        out_dim: int | None = None,
        qkv_bias: bool = False,
        zero_out: bool = False,
        causal: bool = False,
        dtype,
        rngs: nnx.Rngs,
    ):
        kw = {"dtype": dtype, "rngs": rngs}
        inner = heads * head_dim
        self.heads, self.causal = heads, causal
        self.q = linear(dim, inner, bias=qkv_bias, **kw)
        self.k = linear(context_dim or dim, inner, bias=qkv_bias, **kw)
        self.v = linear(context_dim or dim, inner, bias=qkv_bias, **kw)
        self.out = linear(inner, out_dim or dim, zero=zero_out, **kw)

    def __call__(self, x_bnc: Array, context_bmd: Array | None = None) -> Array:
        context_bmd = x_bnc if context_bmd is None else context_bmd

        def split(a):  # [B, N, heads * d] -> [B, N, heads, d]
            return a.reshape(*a.shape[:2], self.heads, -1)

        q_bnhd = split(self.q(x_bnc))
        k_bmhd, v_bmhd = split(self.k(context_bmd)), split(self.v(context_bmd))
        y_bnhd = jax.nn.dot_product_attention(q_bnhd, k_bmhd, v_bmhd, is_causal=self.causal)
        return self.out(y_bnhd.reshape(*x_bnc.shape[:2], -1))


class SpatialSelfAttention(nnx.Module):
    """GroupNorm, then self-attention over the H*W positions, around a skip. `[B, H, W, C]`."""

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 1,
        groups: int,
        epsilon: float,
        zero_out: bool = False,
        remat: bool = False,
        dtype,
        rngs: nnx.Rngs,
    ):
        kw = {"dtype": dtype, "rngs": rngs}
        self.remat = remat
        self.norm = group_norm(channels, groups, epsilon, **kw)
        self.attention = Attention(
            channels,
            heads=heads,
            head_dim=channels // heads,
            qkv_bias=True,
            zero_out=zero_out,
            **kw,
        )

    def __call__(self, x: Array) -> Array:
        return run_block(SpatialSelfAttention._forward, self, x, remat=self.remat)

    def _forward(self, x: Array) -> Array:
        b, h, w, c = x.shape
        y = self.attention(self.norm(x).reshape(b, h * w, c))
        return x + y.reshape(b, h, w, c)


class Upsample(nnx.Module):
    """Nearest-neighbour x2, then a 3x3 convolution. `[B, H, W, C]` -> `[B, 2H, 2W, C]`."""

    def __init__(self, channels: int, *, dtype, rngs: nnx.Rngs):
        self.conv = conv(channels, channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.conv(upsample2x(x))


class Downsample(nnx.Module):
    """A 3x3 convolution with stride 2. `[B, H, W, C]` -> `[B, H/2, W/2, C]`.

    The two networks pad differently: the autoencoder by (0, 1) on each axis, the UNet by (1, 1).
    """

    def __init__(self, channels: int, padding: tuple[int, int], *, dtype, rngs: nnx.Rngs):
        self.conv = conv(
            channels, channels, stride=2, padding=[padding, padding], dtype=dtype, rngs=rngs
        )

    def __call__(self, x: Array) -> Array:
        return self.conv(x)
