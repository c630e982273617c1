"""The time-conditional UNet eps_theta(z_t, t, tau_theta(y)) of Sec. 3.2 and 3.3."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ldm_jax.diffusion.transformer import SpatialTransformer
from ldm_jax.layers import (
    Array,
    Downsample,
    ResBlock,
    SpatialSelfAttention,
    Upsample,
    conv,
    group_norm,
    linear,
)

EPSILON = 1e-5  # of the GroupNorms here; the autoencoder and the transformers have 1e-6


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the UNet (Tables 12-15)."""

    channels: int = 192
    """Channels at the latent's resolution."""
    channel_mult: tuple[int, ...] = (1, 2, 3, 5)
    """Channel multiplier of each level; every further level halves the resolution."""
    num_res_blocks: int = 2
    """ResBlocks a level on the way down; the way up has one more ("depth" in the tables)."""
    attention_factors: tuple[int, ...] = (2, 4, 8)
    """Downsampling factors of the levels that attend; the middle always does."""
    head_channels: int = 32
    """Channels of one attention head; 0: a single head."""
    transformer_depth: int = 1
    """Transformer blocks in each spatial transformer (T of Table 16)."""
    groups: int = 32
    """Groups of every GroupNorm; must divide the channels of every level."""
    dropout: float = 0.0
    """Dropout inside the ResBlocks."""

    @property
    def factor(self) -> int:
        """By how much the UNet halves its input at most; h and w must be multiples of it."""
        return 2 ** (len(self.channel_mult) - 1)


def timestep_embedding(t: Array, dim: int) -> Array:
    """Sinusoids of t, cosines first: int `[B]` -> float32 `[B, dim]`.

    Always float32: bfloat16 could not tell step 998 from step 999.
    """
    frequency = np.exp(-np.log(10_000.0) * np.arange(dim // 2) / (dim // 2)).astype(np.float32)
    angle = t.astype(jnp.float32)[:, None] * frequency[None]
    embedding = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


class Level(nnx.Module):
    """A ResBlock, then attention where the level has it, then a change of resolution or none."""

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
        return h if self.resample is None else self.resample(h)


class UNet(nnx.Module):
    """Encoder, middle and decoder of ResBlocks with skips between equal resolutions.

    Args:
      config: the sizes.
      in_channels: of z_t, plus those of a concatenated condition.
      out_channels: of the latent, c.
      context_dim: d_tau of the condition tokens. 0: no cross-attention, and plain self-attention
        in place of the transformers.
      dtype: computing type; the output is float32.
    """

    def __init__(
        self,
        config: UNetConfig,
        in_channels: int,
        out_channels: int,
        context_dim: int = 0,
        *,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        kw = {"dtype": dtype, "rngs": rngs}
        norm = {"groups": config.groups, "epsilon": EPSILON, **kw}
        emb_dim = 4 * config.channels
        self.dtype, self.channels = dtype, config.channels
        self.time_in = linear(config.channels, emb_dim, **kw)
        self.time_out = linear(emb_dim, emb_dim, **kw)
        self.conv_in = conv(in_channels, config.channels, **kw)

        def res_block(c_in, c_out):
            return ResBlock(
                c_in, c_out, emb_dim=emb_dim, dropout=config.dropout, zero_out=True, **norm
            )

        def attention(c):
            heads = c // config.head_channels if config.head_channels else 1
            if not context_dim:
                return SpatialSelfAttention(c, heads=heads, zero_out=True, **norm)
            return SpatialTransformer(
                c,
                context_dim,
                heads=heads,
                depth=config.transformer_depth,
                groups=config.groups,
                **kw,
            )

        def attends(level):
            return 2**level in config.attention_factors

        c = config.channels
        skips = [c]  # channels of what each decoder block will be given beside its input
        down = []
        last = len(config.channel_mult) - 1
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                c_out = config.channels * mult
                block = res_block(c, c_out)
                down.append(Level(block, attention(c_out) if attends(level) else None, None))
                c = c_out
                skips.append(c)
            if level < last:
                down.append(Downsample(c, (1, 1), **kw))
                skips.append(c)
        self.down = nnx.List(down)
        self.middle = nnx.List([Level(res_block(c, c), attention(c), None), res_block(c, c)])
        up = []
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for i in range(config.num_res_blocks + 1):
                c_out = config.channels * mult
                block = res_block(c + skips.pop(), c_out)
                grow = level > 0 and i == config.num_res_blocks
                up.append(
                    Level(
                        block,
                        attention(c_out) if attends(level) else None,
                        Upsample(c_out, **kw) if grow else None,
                    )
                )
                c = c_out
        self.up = nnx.List(up)
        self.norm_out = group_norm(c, config.groups, EPSILON, **kw)
        self.conv_out = conv(c, out_channels, zero=True, dtype=jnp.float32, rngs=rngs)

    def __call__(
        self, z_t: Array, t: Array, context: Array | None = None, rngs: nnx.Rngs | None = None
    ) -> Array:
        """The prediction for z_t.

        Args:
          z_t: `[B, h, w, in_channels]`, h and w multiples of `config.factor`.
          t: int `[B]`, 0..T-1.
          context: condition tokens tau_theta(y) `[B, M, d_tau]`.
          rngs: a source of dropout masks while training; None: no dropout.

        Returns:
          float32 `[B, h, w, out_channels]`: eps, z_0 or v, as it was trained.
        """
        emb = self.time_out(nnx.silu(self.time_in(timestep_embedding(t, self.channels))))
        h = self.conv_in(z_t.astype(self.dtype))
        skips = [h]
        for layer in self.down:
            h = layer(h, emb, context, rngs) if isinstance(layer, Level) else layer(h)
            skips.append(h)
        attend, res = self.middle
        h = res(attend(h, emb, context, rngs), emb, rngs)
        for layer in self.up:
            h = layer(jnp.concatenate([h, skips.pop()], axis=-1), emb, context, rngs)
        return self.conv_out(nnx.silu(self.norm_out(h)).astype(jnp.float32))
