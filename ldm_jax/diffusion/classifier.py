"""The classifier of noisy latents, p_Phi(y|z_t) of App. C: the first half of a UNet and a head."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from ldm_jax.diffusion.unet import EPSILON, DownPath, UNetConfig
from ldm_jax.layers import Array, Attention, group_norm, linear


class AttentionPool(nnx.Module):
    """Attention pooling: the mean token attends to itself and all positions (as in CLIP).

    `[B, h, w, C]` -> `[B, outputs]`. The positions have learned embeddings, so h * w must be
    `positions`.
    """

    def __init__(
        self, positions: int, channels: int, outputs: int, *, heads: int, dtype, rngs: nnx.Rngs
    ):
        init = nnx.initializers.normal(channels**-0.5)
        self.position = nnx.Param(init(rngs.params(), (positions + 1, channels)))
        self.attention = Attention(
            channels,
            out_dim=outputs,
            heads=heads,
            head_dim=channels // heads,
            qkv_bias=True,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, h: Array) -> Array:
        tokens_bnc = h.reshape(h.shape[0], -1, h.shape[-1])
        mean_b1c = jnp.mean(tokens_bnc, axis=1, keepdims=True)
        tokens_bnc = jnp.concatenate([mean_b1c, tokens_bnc], axis=1) + self.position[...][None]
        return self.attention(tokens_bnc[:, :1], tokens_bnc)[:, 0]


class NoisyLatentClassifier(DownPath):
    """Predicts the class y of a noisy latent, for classifier guidance (App. C, Table 10).

    Args:
      config: the sizes, those of the diffusion model's UNet.
      in_channels: channels of z_t.
      classes: number of classes.
      pool: how the positions become one vector: their mean, or attention (which is part of the 506M
        parameters of LDM-8-G in Table 10).
      latent_side: h = w of the latents; only attention pooling needs it.
      remat: see DownPath.
      dtype: the type it computes in; the output is float32.
    """

    def __init__(
        self,
        config: UNetConfig,
        in_channels: int,
        classes: int,
        pool: Literal["mean", "attention"],
        latent_side: int,
        *,
        remat: bool = False,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        kw = {"dtype": dtype, "rngs": rngs}
        super().__init__(config, in_channels, remat=remat, **kw)
        c = config.channels * config.channel_mult[-1]
        self.norm_out = group_norm(c, config.groups, EPSILON, **kw)
        if pool == "attention":
            positions = (latent_side // config.factor) ** 2
            self.head = AttentionPool(positions, c, classes, heads=config.num_heads(c), **kw)
        else:
            self.head = linear(c, classes, zero=True, **kw)
        self.pool = pool

    def __call__(self, z_t: Array, t: Array, rngs: nnx.Rngs | None = None) -> Array:
        """Logits float32 `[B, classes]` for z_t `[B, h, w, c]` at steps t, int `[B]`."""
        h, _, _ = self.encode(z_t, t, None, None, rngs)
        h = nnx.silu(self.norm_out(h))
        logits = self.head(h if self.pool == "attention" else jnp.mean(h, axis=(1, 2)))
        return logits.astype(jnp.float32)


def log_likelihood(logits: Array, y: Array) -> Array:
    """log p_Phi(y|z_t): logits `[B, classes]` and y, int `[B]` -> `[B]`."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1)[:, 0]
