"""The layers that the autoencoder and the UNet share: norm, convolution, ResBlock, attention.

Arrays are `[B, H, W, C]`. `dtype` is the type a module computes in. Parameters, the statistics of
GroupNorm and the softmax are always float32. Biases and the time step's shifts are added in float32
too: the gradient of what is broadcast is a sum over the positions, which bfloat16 cannot count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

Array = jax.Array

# The published networks were initialised by PyTorch's defaults: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
uniform_fan_in = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
zeros = nnx.initializers.zeros


@dataclass(frozen=True)
class BlockConfig:
    """What all blocks of one network have in common."""

    groups: int
    """Groups of every GroupNorm."""
    epsilon: float
    """Added to the variance in every GroupNorm."""
    dropout: float = 0.0
    """Dropout inside the ResBlocks."""
    remat: bool = False
    """Recompute the activations of a block in the backward pass instead of storing them."""
    dtype: DTypeLike = jnp.float32
    """The type the blocks compute in."""


def in_float32(f: Callable[..., Array], *arrays: Array) -> Array:
    """f of float32 copies, rounded to the type of the first array.

    So the gradient of an array that is broadcast in `f` is summed in float32.
    """
    return f(*(a.astype(jnp.float32) for a in arrays)).astype(arrays[0].dtype)


def _cast_all_but_bias(arrays: tuple, *, dtype: DTypeLike) -> tuple:
    """(inputs, kernel, bias), the first two in `dtype`; the bias keeps its float32."""
    inputs, kernel, bias = arrays
    return jnp.asarray(inputs, dtype), jnp.asarray(kernel, dtype), bias


class Conv(nnx.Conv):
    """nnx.Conv that adds its bias in float32 and rounds the sum to `dtype`."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options, promote_dtype=_cast_all_but_bias)

    def __call__(self, x: Array) -> Array:
        return super().__call__(x).astype(self.dtype)


class Linear(nnx.Linear):
    """nnx.Linear that adds its bias in float32 and rounds the sum to `dtype`."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options, promote_dtype=_cast_all_but_bias)

    def __call__(self, x: Array) -> Array:
        return super().__call__(x).astype(self.dtype)


def embed(entries: int, dim: int, *, std: float, rngs: nnx.Rngs) -> nnx.Embed:
    """A table of vectors drawn from N(0, std^2); int `[...]` -> float32 `[..., dim]`.

    Always float32, cast by the caller: the gradient of a row is a sum over all its uses.
    """
    return nnx.Embed(entries, dim, embedding_init=nnx.initializers.normal(std), rngs=rngs)


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
) -> Conv:
    """A 2-D convolution; `zero` starts the kernel at zero, so a residual branch adds 0 at first."""
    return Conv(
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
) -> Linear:
    """A dense layer on the last axis, initialised as `conv` is."""
    return Linear(
        c_in,
        c_out,
        use_bias=bias,
        kernel_init=zeros if zero else uniform_fan_in,
        dtype=dtype,
        rngs=rngs,
    )


class GroupNorm(nnx.GroupNorm):
    """nnx.GroupNorm on `[B, H, W, C]` with a two-pass variance: a one-pass one is less exact.

    Each mean is taken over the positions first and then over the channels of a group: on a CPU this
    is two to three times as fast as one mean over both.
    """

    def __call__(self, x: Array) -> Array:
        x = x.astype(jnp.float32)
        d = x - self._group_mean(jnp.mean(x, axis=(1, 2)))
        var = self._group_mean(jnp.mean(d**2, axis=(1, 2)))
        scale, bias = self.scale[...][None, None, None], self.bias[...][None, None, None]
        return (d * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias).astype(self.dtype)

    def _group_mean(self, a_bc: Array) -> Array:
        """The mean of each channel's group, `[B, C]` -> `[B, 1, 1, C]`."""
        a_bg = jnp.mean(a_bc.reshape(-1, self.num_groups, self.group_size), axis=-1)
        return jnp.repeat(a_bg, self.group_size, axis=-1)[:, None, None]


def group_norm(channels: int, groups: int, epsilon: float, *, dtype, rngs: nnx.Rngs) -> GroupNorm:
    """A GroupNorm whose scale starts at 1 and bias at 0."""
    return GroupNorm(channels, num_groups=groups, epsilon=epsilon, dtype=dtype, rngs=rngs)


def avg_pool2x(x: Array) -> Array:
    """Average pooling over 2x2 pixels: `[B, H, W, C]` -> `[B, H/2, W/2, C]`."""
    return nnx.avg_pool(x, (2, 2), strides=(2, 2))


def upsample2x(x: Array) -> Array:
    """Nearest-neighbour upsampling: `[B, H, W, C]` -> `[B, 2H, 2W, C]`."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def layer_norm(dim: int, *, dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm on the last axis, with a two-pass variance as in `GroupNorm`."""
    return nnx.LayerNorm(dim, epsilon=1e-5, use_fast_variance=False, dtype=dtype, rngs=rngs)


def run_block(forward: Callable[..., Array], block: nnx.Module, *inputs, remat: bool) -> Array:
    """forward(block, *inputs).

    With `remat` only the inputs are stored for the backward pass, which recomputes the activations.
    """
    return (jax.checkpoint(forward) if remat else forward)(block, *inputs)


class ResBlock(nnx.Module):
    """Twice GroupNorm, SiLU, conv, with a skip connection; `emb` enters between the two.

    `[B, H, W, c_in]` -> `[B, H, W, c_out]`, with `emb` `[B, emb_dim]` (the time step).

    Args:
      config: what all blocks of the network have in common.
      emb_dim: 0: no `emb`, as in the autoencoder.
      scale_shift: `emb` scales and shifts the output of the second norm; otherwise it is added to
        the input of that norm.
      resample: `avg_pool2x` or `upsample2x`, applied to both branches, in the residual one before
        its first convolution; None: the resolution does not change.
      zero_out: the last convolution starts at zero, as in the UNet.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        config: BlockConfig,
        *,
        emb_dim: int = 0,
        scale_shift: bool = False,
        resample: Callable[[Array], Array] | None = None,
        zero_out: bool = False,
        rngs: nnx.Rngs,
    ):
        kw = {"dtype": config.dtype, "rngs": rngs}
        self.scale_shift, self.resample, self.remat = scale_shift, resample, config.remat
        self.norm1 = group_norm(c_in, config.groups, config.epsilon, **kw)
        self.conv1 = conv(c_in, c_out, **kw)
        emb_out = 2 * c_out if scale_shift else c_out
        self.emb = nnx.data(linear(emb_dim, emb_out, **kw) if emb_dim else None)
        self.norm2 = group_norm(c_out, config.groups, config.epsilon, **kw)
        self.dropout = nnx.Dropout(config.dropout)
        self.conv2 = conv(c_out, c_out, zero=zero_out, **kw)
        self.skip = nnx.data(conv(c_in, c_out, 1, **kw) if c_in != c_out else None)

    def __call__(self, x: Array, emb: Array | None = None, rngs: nnx.Rngs | None = None) -> Array:
        # The key is drawn outside of jax.checkpoint, inside of which rngs could not count the draw.
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
            h = in_float32(lambda h, a, b: h * (1 + a) + b, self.norm2(h), scale, shift)
        else:
            h = self.norm2(h if self.emb is None else in_float32(jnp.add, h, shift))
        h = self.conv2(self.dropout(nnx.silu(h), deterministic=key is None, rngs=key))
        return h + (x if self.skip is None else self.skip(x))


class Attention(nnx.Module):
    """Multi-head attention, Softmax(Q K^T / sqrt(d)) V of Sec. 3.3, d the width of one head.

    The logits and the softmax are float32.

    Args:
      dim, context_dim: widths of the tokens that give Q, and of those that give K and V (None: the
        same).
      out_dim: width of the output; None: `dim`.
      qkv_bias: Q, K and V have a bias.

    Its attribute `record`, False until `set_attributes(record=True)`, keeps the probabilities of a
    call as `nnx.Intermediate`.
    """

    record = False

    def __init__(
        self,
        dim: int,
        context_dim: int | None = None,
        *,
        heads: int,
        head_dim: int,
        out_dim: int | None = None,
        qkv_bias: bool = False,
        dtype,
        rngs: nnx.Rngs,
    ):
        kw = {"dtype": dtype, "rngs": rngs}
        inner = heads * head_dim
        self.heads = heads
        self.q = linear(dim, inner, bias=qkv_bias, **kw)
        self.k = linear(context_dim or dim, inner, bias=qkv_bias, **kw)
        self.v = linear(context_dim or dim, inner, bias=qkv_bias, **kw)
        self.out = linear(inner, out_dim or dim, **kw)

    def __call__(
        self, x_bnc: Array, context_bmd: Array | None = None, *, causal: bool = False
    ) -> Array:
        """The tokens `x_bnc` attend to `context_bmd`; None: self-attention. -> `[B, N, out_dim]`.

        With `causal` a token attends to itself and to those before it.
        """
        context_bmd = x_bnc if context_bmd is None else context_bmd

        def split(a):  # [B, N, heads * d] -> [B, N, heads, d]
            return a.reshape(*a.shape[:2], self.heads, -1)

        q_bnhd = split(self.q(x_bnc))
        k_bmhd, v_bmhd = split(self.k(context_bmd)), split(self.v(context_bmd))
        if self.record:
            scale = q_bnhd.shape[-1] ** -0.5
            logits_bhnm = scale * jnp.einsum("bnhd,bmhd->bhnm", q_bnhd, k_bmhd)
            self.sow(nnx.Intermediate, "probabilities", jax.nn.softmax(logits_bhnm, axis=-1))
        y_bnhd = jax.nn.dot_product_attention(q_bnhd, k_bmhd, v_bmhd, is_causal=causal)
        return self.out(y_bnhd.reshape(*x_bnc.shape[:2], -1))


class SpatialSelfAttention(nnx.Module):
    """GroupNorm, then self-attention over the H*W positions, with a skip. `[B, H, W, C]`."""

    def __init__(
        self,
        channels: int,
        config: BlockConfig,
        *,
        heads: int = 1,
        zero_out: bool = False,
        rngs: nnx.Rngs,
    ):
        kw = {"dtype": config.dtype, "rngs": rngs}
        self.remat = config.remat
        self.norm = group_norm(channels, config.groups, config.epsilon, **kw)
        self.attention = Attention(
            channels,
            heads=heads,
            head_dim=channels // heads,
            qkv_bias=True,
            **kw,
        )
        if zero_out:  # so the block adds 0 at first
            kernel = self.attention.out.kernel
            kernel[...] = jnp.zeros_like(kernel[...])

    def __call__(self, x: Array) -> Array:
        return run_block(SpatialSelfAttention._forward, self, x, remat=self.remat)

    def _forward(self, x: Array) -> Array:
        b, h, w, c = x.shape
        y = self.attention(self.norm(x).reshape(b, h * w, c))
        return x + y.reshape(b, h, w, c)


class Upsample(nnx.Module):
    """Nearest-neighbour upsampling, then a 3x3 convolution. `[B, H, W, C]` -> `[B, 2H, 2W, C]`."""

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
