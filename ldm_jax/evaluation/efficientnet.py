"""EfficientNet-Lite0, a small classifier of ImageNet whose weights are a Python package.

Tan and Le (arXiv:1905.11946), without squeeze-and-excitation and with ReLU6. Layers have the names
of the package's file, which `ldm_jax.pretrained.feature_networks` reads.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ldm_jax.evaluation import convolutions
from ldm_jax.evaluation.convolutions import Conv
from ldm_jax.layers import Array

SIZE = 224  # side of the network's input, in pixels
DIMENSION = 1280  # of the features
CLASSES = 1000


class _Stage(NamedTuple):
    repeats: int
    size: int
    """Of the depthwise kernel, in pixels."""
    stride: int
    """Of the first block."""
    expansion: int
    """How many times as many channels a block has inside."""
    channels: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


def abstract_params() -> dict:
    """Shapes of the parameters: `{layer: {'kernel': [h, w, c_in, c], 'bias': [c]}}`, float32."""
    head = {"kernel": (1, 1, DIMENSION, CLASSES), "bias": (CLASSES,)}
    fc = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in head.items()}
    return convolutions.abstract_params(_network, SIZE) | {"_fc": fc}


def features(params: dict, images: Array) -> Array:
    """Means over the positions of the last layer: `[n, H, W, 3]` of 0..255 -> float32 `[n, 1280]`.

    Images are resized by `resize` and scaled by (x - 127) / 128.
    """
    x = (resize(jnp.asarray(images, jnp.float32), SIZE) - 127) / 128
    return convolutions.apply(_network, params, x)


def logits(params: dict, features: Array) -> Array:
    """Scores of the 1000 classes of ImageNet, in its usual order: `[n, 1000]`."""
    return convolutions.dense(params["_fc"], features)


def resize(x: Array, size: int) -> Array:
    """Bicubic and antialiased, as Pillow: `[n, H, W, C]` -> `[n, size, size, C]`, not rounded."""
    n, _, _, c = x.shape
    return jax.image.resize(x, (n, size, size, c), "bicubic", precision=lax.Precision.HIGHEST)


def _network(conv: Conv, x: Array) -> Array:
    """`[n, 224, 224, 3]` in [-1, 1] -> `[n, 1280]`."""

    def layer(*args, **kwargs):
        return jax.nn.relu6(conv(*args, **kwargs))

    x = layer("_conv_stem", x, 32, 3, 2)
    block = 0
    for stage in _STAGES:
        for repeat in range(stage.repeats):
            name, c_in = f"_blocks.{block}", x.shape[-1]
            stride = stage.stride if repeat == 0 else 1
            inside = c_in * stage.expansion
            h = layer(f"{name}._expand_conv", x, inside) if stage.expansion > 1 else x
            h = layer(f"{name}._depthwise_conv", h, inside, stage.size, stride, depthwise=True)
            h = conv(f"{name}._project_conv", h, stage.channels)
            x = x + h if (stride, c_in) == (1, stage.channels) else h
            block += 1
    return layer("_conv_head", x, DIMENSION).mean(axis=(1, 2))
