"""The convolutional encoder E and decoder D of Sec. 3.1: z = E(x), x_hat = D(z)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import jax.numpy as jnp
from flax import nnx

from ldm_jax.autoencoder.vq import codebook_init, quantise, straight_through
from ldm_jax.bounds import Bounds, Depth, Factors, Fraction, Multipliers, Width
from ldm_jax.layers import (
    Array,
    BlockConfig,
    Downsample,
    ResBlock,
    SpatialSelfAttention,
    Upsample,
    conv,
    group_norm,
)

EPSILON = 1e-6  # of every GroupNorm here; in the UNet's ResBlocks it is 1e-5


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of the first stage (Table 8); f = 2 ** (len(channel_mult) - 1)."""

    channels: Width = 128
    """Channels at full resolution."""
    channel_mult: Multipliers = (1, 2, 4)
    """Channel multiplier of each level; every further level halves the resolution."""
    num_res_blocks: Depth = 2
    """ResBlocks in each level of the encoder; the decoder has one more in each."""
    attention_factors: Factors = ()
    """Downsampling factors at which each ResBlock is followed by self-attention."""
    mid_attention: bool = True
    """Self-attention between the two ResBlocks at the lowest resolution."""
    z_channels: Width = 3
    """Channels c of the latent."""
    bottleneck: Literal["kl", "vq", "none"] = "kl"
    """How the latents are regularised. kl: a small KL penalty towards N(0, 1); vq: a codebook;
    none: there is no first stage, and the diffusion model works on pixels (LDM-1)."""
    codebook_size: Annotated[int, Bounds(1, 2**20)] = 8192
    """Number of codes |Z| of a VQ bottleneck."""
    groups: Width = 32
    """Groups of every GroupNorm; must divide the channels of every level."""
    dropout: Fraction = 0.0
    """Dropout inside the ResBlocks."""

    @property
    def f(self) -> int:
        """Downsampling factor f = H/h = W/w (Sec. 3.1)."""
        return 1 if self.bottleneck == "none" else 2 ** (len(self.channel_mult) - 1)

    def largest_array(self, height: int, width: int) -> int:
        """Numbers in the largest array that E or D computes of an image of so many pixels.

        That is features, or what each position pays to each other one where there is attention.
        """
        if self.bottleneck == "none":
            return 0
        deeper = [*self.channel_mult[1:], self.channel_mult[-1]]  # D upsamples, then narrows
        widths = map(max, self.channel_mult, deeper)
        positions = [height * width // 4**level for level in range(len(self.channel_mult))]
        attends = {*self.attention_factors, *([self.f] if self.mid_attention else [])}
        pairs = [n**2 for level, n in enumerate(positions) if 2**level in attends]
        features = [self.channels * w * n for w, n in zip(widths, positions, strict=True)]
        return max(features + pairs)


def _block_config(config: AutoencoderConfig, remat: bool, dtype) -> BlockConfig:
    return BlockConfig(config.groups, EPSILON, config.dropout, remat, dtype)


def _mid(c: int, attends: bool, block: BlockConfig, rngs: nnx.Rngs) -> nnx.List:
    attention = [SpatialSelfAttention(c, block, rngs=rngs)] if attends else []
    return nnx.List(
        [ResBlock(c, c, block, rngs=rngs), *attention, ResBlock(c, c, block, rngs=rngs)]
    )


def _run(layer, x: Array, rngs: nnx.Rngs | None) -> Array:
    return layer(x, rngs=rngs) if isinstance(layer, ResBlock) else layer(x)


class Encoder(nnx.Module):
    """x `[B, H, W, C]` -> features `[B, H/f, W/f, z_out]`."""

    def __init__(
        self,
        config: AutoencoderConfig,
        in_channels: int,
        z_out: int,
        *,
        remat: bool,
        dtype,
        rngs: nnx.Rngs,
    ):
        kw = {"dtype": dtype, "rngs": rngs}
        block = _block_config(config, remat, dtype)
        c = config.channels
        self.conv_in = conv(in_channels, c, **kw)
        layers = []
        for level, mult in enumerate(config.channel_mult):
            if level > 0:
                layers.append(Downsample(c, (0, 1), **kw))
            for _ in range(config.num_res_blocks):
                layers.append(ResBlock(c, config.channels * mult, block, rngs=rngs))
                c = config.channels * mult
                if 2**level in config.attention_factors:
                    layers.append(SpatialSelfAttention(c, block, rngs=rngs))
        self.down = nnx.List(layers)
        self.mid = _mid(c, config.mid_attention, block, rngs)
        self.norm_out = group_norm(c, config.groups, EPSILON, **kw)
        self.conv_out = conv(c, z_out, **kw)

    def __call__(self, x: Array, rngs: nnx.Rngs | None = None) -> Array:
        h = self.conv_in(x)
        for layer in (*self.down, *self.mid):
            h = _run(layer, h, rngs)
        return self.conv_out(nnx.silu(self.norm_out(h)))


class Decoder(nnx.Module):
    """Features `[B, h, w, c]` -> x_hat `[B, f h, f w, C]`.

    `features` and `conv_out` are separate: the adaptive weight of the adversary needs gradients
    with respect to the kernel of `conv_out` alone (autoencoder/loss.py).
    """

    def __init__(
        self,
        config: AutoencoderConfig,
        out_channels: int,
        z_in: int,
        *,
        remat: bool,
        dtype,
        rngs: nnx.Rngs,
    ):
        kw = {"dtype": dtype, "rngs": rngs}
        block = _block_config(config, remat, dtype)
        c = config.channels * config.channel_mult[-1]
        self.conv_in = conv(z_in, c, **kw)
        self.mid = _mid(c, config.mid_attention, block, rngs)
        layers = []
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for _ in range(config.num_res_blocks + 1):
                layers.append(ResBlock(c, config.channels * mult, block, rngs=rngs))
                c = config.channels * mult
                if 2**level in config.attention_factors:
                    layers.append(SpatialSelfAttention(c, block, rngs=rngs))
            if level > 0:
                layers.append(Upsample(c, **kw))
        self.up = nnx.List(layers)
        self.norm_out = group_norm(c, config.groups, EPSILON, **kw)
        # The image is always float32.
        self.conv_out = conv(c, out_channels, dtype=jnp.float32, rngs=rngs)

    def features(self, z: Array, rngs: nnx.Rngs | None = None) -> Array:
        """Input of the last convolution, `[B, H, W, channels]`."""
        h = self.conv_in(z)
        for layer in (*self.mid, *self.up):
            h = _run(layer, h, rngs)
        return nnx.silu(self.norm_out(h)).astype(jnp.float32)

    def __call__(self, z: Array, rngs: nnx.Rngs | None = None) -> Array:
        return self.conv_out(self.features(z, rngs))


class Autoencoder(nnx.Module):
    """E, D, the 1x1 convolutions before and after the bottleneck, and the codebook (VQ only).

    Args:
      config: the sizes.
      channels: image channels C, any number.
      remat: recompute the activations of the blocks in the backward pass instead of storing them.
      dtype: the type it computes in; latents and images are float32.
    """

    def __init__(
        self,
        config: AutoencoderConfig,
        channels: int,
        *,
        remat: bool = False,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        kw = {"dtype": dtype, "rngs": rngs}
        c = config.z_channels
        is_vq = config.bottleneck == "vq"
        encoded = c if is_vq else 2 * c
        self.encoder = Encoder(config, channels, encoded, remat=remat, **kw)
        self.quant_conv = conv(encoded, encoded, 1, dtype=jnp.float32, rngs=rngs)
        self.codebook = nnx.data(
            nnx.Param(codebook_init(rngs.params(), (config.codebook_size, c))) if is_vq else None
        )
        self.post_quant_conv = conv(c, c, 1, **kw)
        self.decoder = Decoder(config, channels, c, remat=remat, **kw)

    def encode(self, x: Array, rngs: nnx.Rngs | None = None) -> Array:
        """E(x) for x `[B, H, W, C]` in [-1, 1]; h = H/f.

        Returns:
          float32: the moments of q_E(z|x) `[B, h, w, 2c]` (KL), or z before quantisation
          `[B, h, w, c]` (VQ).
        """
        return self.quant_conv(self.encoder(x, rngs))

    def decode_features(self, z: Array, rngs: nnx.Rngs | None = None) -> Array:
        """z `[B, h, w, c]`, quantised if VQ -> the input of D's last convolution."""
        return self.decoder.features(self.post_quant_conv(z), rngs)

    def decode(self, z: Array, rngs: nnx.Rngs | None = None) -> Array:
        """x_hat = D(z): `[B, h, w, c]` -> `[B, H, W, C]`, nominally in [-1, 1], not clipped.

        With a codebook, z is quantised here: D quantises first (App. G). The gradient ignores the
        quantisation.
        """
        if self.codebook is not None:
            z = straight_through(z, quantise(z, self.codebook[...]))
        return self.decoder.conv_out(self.decode_features(z, rngs))
