"""In bfloat16 every kind of layer has nearly the gradients that it has in float32.

What is broadcast (biases, the time step's shifts, rows of an embedding) has the sum over all its
uses as its gradient. bfloat16 counts ones up to 256; there are more here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldm_jax.autoencoder.discriminator import Discriminator, DiscriminatorConfig
from ldm_jax.conditioning.class_label import ClassEmbedder
from ldm_jax.conditioning.clip_text import ClipTextConfig, ClipTextTransformer
from ldm_jax.conditioning.transformer import TransformerConfig, TransformerEncoder
from ldm_jax.diffusion.classifier import AttentionPool
from ldm_jax.diffusion.transformer import SpatialTransformer
from ldm_jax.diffusion.unet import UNet, UNetConfig
from ldm_jax.layers import (
    Attention,
    BlockConfig,
    Downsample,
    ResBlock,
    SpatialSelfAttention,
    Upsample,
    conv,
    group_norm,
    layer_norm,
    linear,
)

SIDE = 32


def in_both(a):
    """Numbers that bfloat16 can hold, as float32: what is compared is how it computes."""
    return np.asarray(a).astype(jnp.bfloat16).astype(np.float32)


def normal(*shape):
    return in_both(np.random.default_rng(0).normal(size=shape))


def block(dtype):
    return BlockConfig(groups=2, epsilon=1e-5, dtype=dtype)


IMAGES, EMB = normal(4, SIDE, SIDE, 4), normal(4, 6)
WORDS = np.random.default_rng(0).integers(512, size=(512, 8))  # where few recur, errors would too
CLASSES = np.arange(2048) % 3
TEXT, CLIP = TransformerConfig(dim=8, depth=1, heads=1), ClipTextConfig(8, 1, 2, 512, 8)
UNET = UNetConfig(4, (1,), 1, (), head_channels=4, groups=2)
SLOW = ("spatial transformer", "UNet with classes", "text", "CLIP", "attention pooling")
# Name: (the layer that computes in a type, what it is called with)
LAYERS = {
    "conv": (lambda dtype, rngs: conv(4, 4, dtype=dtype, rngs=rngs), [IMAGES]),
    "linear": (lambda dtype, rngs: linear(4, 4, dtype=dtype, rngs=rngs), [IMAGES]),
    "group norm": (lambda dtype, rngs: group_norm(4, 2, 1e-5, dtype=dtype, rngs=rngs), [IMAGES]),
    "layer norm": (lambda dtype, rngs: layer_norm(4, dtype=dtype, rngs=rngs), [IMAGES]),
    "ResBlock": (
        lambda dtype, rngs: ResBlock(4, 8, block(dtype), emb_dim=6, rngs=rngs),
        [IMAGES, EMB],
    ),
    "ResBlock, scale and shift": (
        lambda dtype, rngs: ResBlock(4, 4, block(dtype), emb_dim=6, scale_shift=True, rngs=rngs),
        [IMAGES, EMB],
    ),
    "attention": (
        lambda dtype, rngs: Attention(
            4, heads=1, head_dim=4, qkv_bias=True, dtype=dtype, rngs=rngs
        ),
        [normal(128, 16, 4)],
    ),
    "spatial self-attention": (
        lambda dtype, rngs: SpatialSelfAttention(4, block(dtype), rngs=rngs),
        [normal(128, 4, 4, 4)],
    ),
    "spatial transformer": (
        lambda dtype, rngs: SpatialTransformer(
            4, 3, heads=1, depth=1, groups=2, dtype=dtype, rngs=rngs
        ),
        [normal(128, 4, 4, 4), normal(128, 2, 3)],
    ),
    "upsampling": (lambda dtype, rngs: Upsample(4, dtype=dtype, rngs=rngs), [IMAGES]),
    "downsampling": (lambda dtype, rngs: Downsample(4, (1, 1), dtype=dtype, rngs=rngs), [IMAGES]),
    "UNet with classes": (
        lambda dtype, rngs: UNet(UNET, 4, 4, num_classes=3, dtype=dtype, rngs=rngs),
        [normal(512, 4, 4, 4), CLASSES[:512], None, CLASSES[:512]],
    ),
    "class": (lambda dtype, rngs: ClassEmbedder(3, 4, dtype=dtype, rngs=rngs), [CLASSES]),
    "text": (
        lambda dtype, rngs: TransformerEncoder(TEXT, 512, 8, dtype=dtype, rngs=rngs),
        [WORDS],
    ),
    "CLIP": (lambda dtype, rngs: ClipTextTransformer(CLIP, dtype=dtype, rngs=rngs), [WORDS]),
    "attention pooling": (
        lambda dtype, rngs: AttentionPool(16, 4, 3, heads=1, dtype=dtype, rngs=rngs),
        [normal(512, 4, 4, 4)],
    ),
    "discriminator": (
        lambda dtype, rngs: Discriminator(DiscriminatorConfig(4, 1), 4, dtype=dtype, rngs=rngs),
        [IMAGES],  # batch normalisation cancels nearly all of the first bias's gradient
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in LAYERS]
)
def test_gradients_are_those_of_float32(name, drawn):
    make, inputs = LAYERS[name]

    def gradients(dtype):
        graph, params = drawn(lambda rngs: make(dtype, rngs))
        params = jax.tree.map(in_both, params)

        def loss(params):
            y = nnx.merge(graph, params)(*inputs).astype(jnp.float32)
            return jnp.sum(y + 0.5 * y**2)

        return jax.jit(jax.grad(loss))(params)

    exact, rounded = gradients(jnp.float32), gradients(jnp.bfloat16)
    for (path, g), other in zip(
        jax.tree_util.tree_leaves_with_path(exact), jax.tree.leaves(rounded), strict=True
    ):
        assert other.dtype == jnp.float32
        of, is_bias = jax.tree_util.keystr(path), path[-1].key == "bias"
        if of.endswith("['k']['bias']"):  # which moves all logits alike: the gradient is zero
            continue
        error = np.linalg.norm(other - g) / np.linalg.norm(g)
        assert error < (0.01 if is_bias and name != "discriminator" else 0.03), (of, error)
