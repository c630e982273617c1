"""The transformer encoder tau_theta of App. E.2.1, Eqs. (18)-(23), Table 17."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from ldm_jax.bounds import Depth, Width
from ldm_jax.layers import Array, Attention, embed, layer_norm, linear, run_block

HEAD_DIM = 64


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of tau_theta (Table 17: text 32 x 1280, layout 16 x 512)."""

    dim: Width = 1280
    """Width d_tau of the tokens."""
    depth: Depth = 32
    """Number of layers N."""
    heads: Width = 8
    """Attention heads, each of width 64."""


class Layer(nnx.Module):
    """One layer: Eqs. (19)-(22)."""

    def __init__(self, config: TransformerConfig, *, remat: bool, dtype, rngs: nnx.Rngs):
        kw = {"dtype": dtype, "rngs": rngs}
        self.remat = remat
        self.norm1 = layer_norm(config.dim, **kw)
        self.attention = Attention(config.dim, heads=config.heads, head_dim=HEAD_DIM, **kw)
        self.norm2 = layer_norm(config.dim, **kw)
        self.mlp_in = linear(config.dim, 4 * config.dim, **kw)
        self.mlp_out = linear(4 * config.dim, config.dim, **kw)

    def __call__(self, zeta: Array) -> Array:
        return run_block(Layer._forward, self, zeta, remat=self.remat)

    def _forward(self, zeta: Array) -> Array:
        zeta_1 = self.norm1(zeta)  # Eq. (19)
        zeta_2 = self.attention(zeta_1) + zeta  # Eq. (20)
        zeta_3 = self.norm2(zeta_2)  # Eq. (21)
        mlp = self.mlp_out(jax.nn.gelu(self.mlp_in(zeta_3), approximate=False))
        return mlp + zeta_2  # Eq. (22)


class TransformerEncoder(nnx.Module):
    """tau_theta: tokens y, int `[B, M]` -> zeta `[B, M, dim]`.

    There is no mask, as in the paper: padding is a token like any other.
    """

    def __init__(
        self,
        config: TransformerConfig,
        vocabulary_size: int,
        length: int,
        *,
        remat: bool = False,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        kw = {"dtype": dtype, "rngs": rngs}
        self.dtype = dtype
        self.tok_emb = embed(vocabulary_size, config.dim, std=0.02, rngs=rngs)
        self.pos_emb = embed(length, config.dim, std=0.02, rngs=rngs)
        self.layers = nnx.List([Layer(config, remat=remat, **kw) for _ in range(config.depth)])
        self.norm_out = layer_norm(config.dim, **kw)

    def __call__(self, y: Array) -> Array:
        zeta = self.tok_emb(y) + self.pos_emb(jnp.arange(y.shape[1]))[None]  # Eq. (18)
        zeta = zeta.astype(self.dtype)
        for layer in self.layers:
            zeta = layer(zeta)
        return self.norm_out(zeta)  # Eq. (23)
