"""The text encoder of CLIP ViT-L/14 (arXiv:2103.00020): tau_theta of Stable Diffusion v1."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from ldm_jax.layers import Array, Attention, embed, layer_norm, linear, run_block


@dataclass(frozen=True)
class ClipTextConfig:
    """Sizes of the encoder; the defaults are those of ViT-L/14."""

    dim: int = 768
    """Width of the tokens."""
    depth: int = 12
    """Number of layers."""
    heads: int = 12
    """Attention heads, of width dim / heads each."""
    vocabulary: int = 49_408
    """Number of tokens in the vocabulary."""
    length: int = 77
    """Maximum length of a caption in tokens, including the start and end tokens."""


def quick_gelu(x: Array) -> Array:
    """x sigmoid(1.702 x), the approximation of GELU that CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


class Layer(nnx.Module):
    """Causal self-attention and an MLP, each pre-norm and residual. `[B, M, dim]`."""

    def __init__(self, config: ClipTextConfig, *, remat: bool, dtype, rngs: nnx.Rngs):
        kw = {"dtype": dtype, "rngs": rngs}
        self.remat = remat
        dim, heads = config.dim, config.heads
        self.norm1 = layer_norm(dim, **kw)
        self.attention = Attention(dim, heads=heads, head_dim=dim // heads, qkv_bias=True, **kw)
        self.norm2 = layer_norm(dim, **kw)
        self.mlp_in = linear(dim, 4 * dim, **kw)
        self.mlp_out = linear(4 * dim, dim, **kw)

    def __call__(self, x: Array) -> Array:
        return run_block(Layer._forward, self, x, remat=self.remat)

    def _forward(self, x: Array) -> Array:
        x = x + self.attention(self.norm1(x), causal=True)
        return x + self.mlp_out(quick_gelu(self.mlp_in(self.norm2(x))))


class ClipTextTransformer(nnx.Module):
    """tau_theta of Stable Diffusion v1: tokens y, int `[B, M]` -> `[B, M, dim]`.

    The last hidden states after the final norm, including those of the padding, as in the training
    of the published UNet. CLIP's pooling and projection are not used.
    """

    def __init__(
        self,
        config: ClipTextConfig,
        *,
        remat: bool = False,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        kw = {"dtype": dtype, "rngs": rngs}
        self.dtype = dtype
        self.tok_emb = embed(config.vocabulary, config.dim, std=0.02, rngs=rngs)
        self.pos_emb = embed(config.length, config.dim, std=0.02, rngs=rngs)
        self.layers = nnx.List([Layer(config, remat=remat, **kw) for _ in range(config.depth)])
        self.norm_out = layer_norm(config.dim, **kw)

    def __call__(self, y: Array) -> Array:
        x = self.tok_emb(y) + self.pos_emb(jnp.arange(y.shape[1]))[None]
        x = x.astype(self.dtype)
        for layer in self.layers:
            x = layer(x)
        return self.norm_out(x)
