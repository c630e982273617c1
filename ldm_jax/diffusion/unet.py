"""The time-conditional UNet eps_theta(z_t, t, tau_theta(y)) of Sec. 3.2 and 3.3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ldm_jax.bounds import Bounds, Depth, Factors, Fraction, Multipliers, Width
from ldm_jax.diffusion.transformer import SpatialTransformer
from ldm_jax.layers import (
    Array,
    BlockConfig,
    Downsample,
    ResBlock,
    SpatialSelfAttention,
    Upsample,
    avg_pool2x,
    conv,
    embed,
    group_norm,
    linear,
    upsample2x,
)

EPSILON = 1e-5  # of the GroupNorms here; in the autoencoder and the transformers it is 1e-6


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the UNet (Tables 12-15)."""

    channels: Width = 192
    """Channels at the latent's resolution."""
    channel_mult: Multipliers = (1, 2, 3, 5)
    """Channel multiplier of each level; every further level halves the resolution."""
    num_res_blocks: Depth = 2
    """ResBlocks in each level of the down path ("depth" in the tables); one more in the up path."""
    attention_factors: Factors = (2, 4, 8)
    """Downsampling factors of the levels with attention; the middle always has it."""
    head_channels: Width = 32
    """Channels of one attention head, where `heads` is 0."""
    heads: Annotated[int, Bounds(0, 2**16)] = 0
    """Attention heads of every level; 0: channels / `head_channels`."""
    transformer_depth: Depth = 1
    """Transformer blocks in each spatial transformer (T of Table 16)."""
    scale_shift: bool = False
    """The time step scales and shifts the ResBlocks' second norm; otherwise it is added."""
    resample_in_res_blocks: bool = False
    """ResBlocks change the resolution (as in BigGAN); otherwise convolutions do."""
    groups: Width = 32
    """Groups of every GroupNorm; must divide the channels of every level."""
    dropout: Fraction = 0.0
    """Dropout inside the ResBlocks."""

    @property
    def factor(self) -> int:
        """Downsampling factor at the lowest resolution; h and w must be multiples of it."""
        return 2 ** (len(self.channel_mult) - 1)

    def num_heads(self, channels: int) -> int:
        """Attention heads of a level with this number of channels."""
        return self.heads or channels // self.head_channels


def timestep_embedding(t: Array, dim: int) -> Array:
    """Sinusoids of t, cosines first: int `[B]` -> float32 `[B, dim]`.

    Always float32: bfloat16 could not tell step 998 from step 999.
    """
    frequency = np.exp(-np.log(10_000.0) * np.arange(dim // 2) / (dim // 2)).astype(np.float32)
    angle = t.astype(jnp.float32)[:, None] * frequency[None]
    embedding = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


class UNetBlock(nnx.Module):
    """A ResBlock, then optionally attention, then optionally a change of resolution."""

    def __init__(self, res: ResBlock, attention: nnx.Module | None, resample: nnx.Module | None):
        self.res = res
        self.attention = nnx.data(attention)
        self.resample = nnx.data(resample)

    def __call__(self, h: Array, emb: Array, context: Array | None, rngs) -> Array:
        h = self.res(h, emb, rngs)
        if isinstance(self.attention, SpatialTransformer):
            h = self.attention(h, context)
        elif self.attention is not None:
            h = self.attention(h)
        return h if self.resample is None else apply_resample(self.resample, h, emb, rngs)


def apply_resample(layer: nnx.Module, h: Array, emb: Array, rngs) -> Array:
    """Applies a change of resolution: a convolution, or a ResBlock, which also takes `emb`."""
    return layer(h, emb, rngs) if isinstance(layer, ResBlock) else layer(h)


class BlockFactory:
    """Makes the blocks of both halves of a UNet."""

    def __init__(self, config: UNetConfig, context_dim: int, *, remat: bool, dtype, rngs: nnx.Rngs):
        self.config, self.context_dim, self.rngs = config, context_dim, rngs
        self.block = BlockConfig(config.groups, EPSILON, config.dropout, remat, dtype)
        self.emb_dim = 4 * config.channels

    def res(self, c_in: int, c_out: int, resample=None) -> ResBlock:
        return ResBlock(
            c_in,
            c_out,
            self.block,
            emb_dim=self.emb_dim,
            scale_shift=self.config.scale_shift,
            resample=resample,
            zero_out=True,
            rngs=self.rngs,
        )

    def attention(self, c: int) -> nnx.Module:
        heads = self.config.num_heads(c)
        if not self.context_dim:
            return SpatialSelfAttention(c, self.block, heads=heads, zero_out=True, rngs=self.rngs)
        return SpatialTransformer(
            c,
            self.context_dim,
            heads=heads,
            depth=self.config.transformer_depth,
            groups=self.config.groups,
            remat=self.block.remat,
            dtype=self.block.dtype,
            rngs=self.rngs,
        )

    def level(self, level: int, c_in: int, c_out: int, resample=None) -> UNetBlock:
        attends = 2**level in self.config.attention_factors
        return UNetBlock(
            self.res(c_in, c_out), self.attention(c_out) if attends else None, resample
        )

    def down(self, c: int) -> nnx.Module:
        if self.config.resample_in_res_blocks:
            return self.res(c, c, avg_pool2x)
        return Downsample(c, (1, 1), dtype=self.block.dtype, rngs=self.rngs)

    def up(self, c: int) -> nnx.Module:
        if self.config.resample_in_res_blocks:
            return self.res(c, c, upsample2x)
        return Upsample(c, dtype=self.block.dtype, rngs=self.rngs)


class DownPath(nnx.Module):
    """The first half of a UNet: time embedding, down path and middle.

    Args:
      config: the sizes.
      in_channels: channels of z_t, plus those of a concatenated condition.
      context_dim: width d_tau of the condition tokens. 0: there is no cross-attention; plain
        self-attention replaces the transformers.
      num_classes: number of classes whose embedding is added to that of the time step; 0: none.
      remat: recompute the activations of the blocks in the backward pass instead of storing them.
      dtype: the type it computes in.
    """

    def __init__(
        self,
        config: UNetConfig,
        in_channels: int,
        context_dim: int = 0,
        num_classes: int = 0,
        *,
        remat: bool = False,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        kw = {"dtype": dtype, "rngs": rngs}
        make = BlockFactory(config, context_dim, remat=remat, **kw)
        self.dtype, self.channels = dtype, config.channels
        self.time_in = linear(config.channels, make.emb_dim, **kw)
        self.time_out = linear(make.emb_dim, make.emb_dim, **kw)
        self.label = nnx.data(
            embed(num_classes, make.emb_dim, std=1.0, rngs=rngs) if num_classes else None
        )
        self.conv_in = conv(in_channels, config.channels, **kw)
        c = config.channels
        skips = [c]  # channels of the skip connections
        down = []
        for level, mult in enumerate(config.channel_mult):
            if level > 0:
                down.append(make.down(c))
                skips.append(c)
            for _ in range(config.num_res_blocks):
                down.append(make.level(level, c, config.channels * mult))
                c = config.channels * mult
                skips.append(c)
        self.down, self.skip_channels = nnx.List(down), tuple(skips)
        self.mid = nnx.List([UNetBlock(make.res(c, c), make.attention(c), None), make.res(c, c)])

    def encode(
        self, z_t: Array, t: Array, context: Array | None, label: Array | None, rngs
    ) -> tuple[Array, list[Array], Array]:
        """(features at the lowest resolution, features for the skip connections, embedding)."""
        emb = self.time_out(nnx.silu(self.time_in(timestep_embedding(t, self.channels))))
        emb = emb.astype(jnp.float32)  # its gradient is the sum over all ResBlocks
        if self.label is not None:
            is_class = jnp.issubdtype(label.dtype, jnp.integer)
            emb = emb + (self.label(label) if is_class else label)
        h = self.conv_in(z_t.astype(self.dtype))
        skips = [h]
        for layer in self.down:
            if isinstance(layer, UNetBlock):
                h = layer(h, emb, context, rngs)
            else:
                h = apply_resample(layer, h, emb, rngs)
            skips.append(h)
        attend, res = self.mid
        return res(attend(h, emb, context, rngs), emb, rngs), skips, emb


class UNet(DownPath):
    """Down path, middle and up path of ResBlocks, with skip connections at equal resolutions.

    Args:
      config, in_channels, context_dim, num_classes, remat: see DownPath.
      out_channels: channels of the output, the c of the latent.
      dtype: the type it computes in; the output is float32.
    """

    def __init__(
        self,
        config: UNetConfig,
        in_channels: int,
        out_channels: int,
        context_dim: int = 0,
        num_classes: int = 0,
        *,
        remat: bool = False,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        kw = {"dtype": dtype, "rngs": rngs}
        super().__init__(config, in_channels, context_dim, num_classes, remat=remat, **kw)
        make = BlockFactory(config, context_dim, remat=remat, **kw)
        skips = list(self.skip_channels)
        c = config.channels * config.channel_mult[-1]
        up = []
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            c_out = config.channels * mult
            for i in range(config.num_res_blocks + 1):
                upsample = make.up(c_out) if level > 0 and i == config.num_res_blocks else None
                up.append(make.level(level, c + skips.pop(), c_out, upsample))
                c = c_out
        self.up = nnx.List(up)
        self.norm_out = group_norm(c, config.groups, EPSILON, **kw)
        self.conv_out = conv(c, out_channels, zero=True, dtype=jnp.float32, rngs=rngs)

    def __call__(
        self,
        z_t: Array,
        t: Array,
        context: Array | None = None,
        label: Array | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> Array:
        """The prediction for z_t.

        Args:
          z_t: `[B, h, w, in_channels]`, h and w multiples of `config.factor`.
          t: int `[B]`, 0..T-1.
          context: condition tokens tau_theta(y) `[B, M, d_tau]`.
          label: classes, int `[B]` (only with `num_classes`), or their embeddings by `self.label`,
            float `[B, 4 channels]`.
          rngs: keys for dropout while training; None: no dropout.

        Returns:
          float32 `[B, h, w, out_channels]`: eps, z_0 or v, whichever it was trained to predict.
        """
        h, skips, emb = self.encode(z_t, t, context, label, rngs)
        for layer in self.up:
            h = layer(jnp.concatenate([h, skips.pop()], axis=-1), emb, context, rngs)
        return self.conv_out(nnx.silu(self.norm_out(h)).astype(jnp.float32))
