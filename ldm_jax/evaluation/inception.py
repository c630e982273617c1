"""InceptionV3 as FID and the Inception Score use it.

The network is the TensorFlow graph of 2015-12-05 (arXiv:1512.00567), from which Heusel et al.
(arXiv:1706.08500) take the features of FID: another one than torchvision's. It has 1008 outputs,
its average pooling counts no padding, and the last block pools by the maximum. Layers have the
names of the published file, which `ldm_jax.pretrained.feature_networks` reads.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ldm_jax.evaluation import convolutions
from ldm_jax.evaluation.convolutions import Conv
from ldm_jax.layers import Array

SIZE = 299  # side of the network's input, in pixels
DIMENSION = 2048  # of the features
CLASSES = 1008


def abstract_params() -> dict:
    """Shapes of the parameters: `{layer: {'kernel': [h, w, c_in, c], 'bias': [c]}}`, float32."""
    head = {"kernel": (1, 1, DIMENSION, CLASSES), "bias": (CLASSES,)}
    fc = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in head.items()}
    return convolutions.abstract_params(_network, SIZE) | {"fc": fc}


def features(params: dict, images: Array) -> Array:
    """The features of FID (`pool3`): `[n, H, W, 3]` of 0..255 -> float32 `[n, 2048]`.

    Images are resized to 299x299 as in TensorFlow 1 (`resize`), and scaled by (x - 128) / 128.
    """
    x = (resize(jnp.asarray(images, jnp.float32), SIZE) - 128) / 128
    return convolutions.apply(_network, params, x)


def logits(params: dict, features: Array) -> Array:
    """Scores of the 1008 outputs, of which the Inception Score takes the softmax: `[n, 1008]`.

    Without the bias of the last layer, which the original Inception Score leaves out
    (arXiv:1606.03498); torch-fidelity calls these `logits_unbiased`.
    """
    kernel = params["fc"]["kernel"]
    return convolutions.dense({"kernel": kernel, "bias": jnp.zeros(CLASSES)}, features)


def resize(x: Array, size: int) -> Array:
    """Bilinear resizing of TensorFlow 1: `[n, H, W, C]` -> `[n, size, size, C]`.

    Output pixel i is at i * H / size, so the corners of pixels coincide, not the images: the result
    is shifted. A reduction is not antialiased. Without this grid, values of FID differ.
    """
    rows, columns = (_bilinear(n, size) for n in x.shape[1:3])
    return jnp.einsum(
        "yh,nhwc,xw->nyxc", rows, x, columns, precision=lax.Precision.HIGHEST, optimize=True
    )


@functools.lru_cache(maxsize=32)
def _bilinear(n: int, size: int) -> np.ndarray:
    """float32 `[size, n]`: the weights of n pixels in each pixel of the result."""
    place = np.arange(size) * (n / size)
    low = np.floor(place).astype(int)
    matrix = np.zeros((size, n))
    np.add.at(matrix, (np.arange(size), low), 1 - (place - low))
    np.add.at(matrix, (np.arange(size), np.minimum(low + 1, n - 1)), place - low)
    return matrix.astype(np.float32)


def _network(conv: Conv, x: Array) -> Array:
    """`[n, 299, 299, 3]` in [-1, 1] -> `[n, 2048]`."""

    def layer(*args, **kwargs):
        return jax.nn.relu(conv(*args, **kwargs))

    x = layer("Conv2d_1a_3x3", x, 32, 3, 2, "VALID")
    x = layer("Conv2d_2a_3x3", x, 32, 3, 1, "VALID")
    x = layer("Conv2d_2b_3x3", x, 64, 3)
    x = _max_pool(x)
    x = layer("Conv2d_3b_1x1", x, 80)
    x = layer("Conv2d_4a_3x3", x, 192, 3, 1, "VALID")
    x = _max_pool(x)
    for name, width in (("5b", 32), ("5c", 64), ("5d", 64)):
        x = _block_35(functools.partial(_named, layer, name), x, width)
    x = _reduction_17(functools.partial(_named, layer, "6a"), x)
    for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        x = _block_17(functools.partial(_named, layer, name), x, width)
    x = _reduction_8(functools.partial(_named, layer, "7a"), x)
    x = _block_8(functools.partial(_named, layer, "7b"), x, _average_pool)
    x = _block_8(functools.partial(_named, layer, "7c"), x, functools.partial(_max_pool, stride=1))
    return x.mean(axis=(1, 2))


def _named(layer: Conv, block: str, name: str, *args, **kwargs) -> Array:
    return layer(f"Mixed_{block}.branch{name}", *args, **kwargs)


def _block_35(layer: Conv, x: Array, width: int) -> Array:
    """On 35x35 positions; width: channels of the branch that pools."""
    by_5 = layer("5x5_1", x, 48)
    by_5 = layer("5x5_2", by_5, 64, 5)
    twice = layer("3x3dbl_1", x, 64)
    twice = layer("3x3dbl_2", twice, 96, 3)
    twice = layer("3x3dbl_3", twice, 96, 3)
    return _concatenate(layer("1x1", x, 64), by_5, twice, layer("_pool", _average_pool(x), width))


def _reduction_17(layer: Conv, x: Array) -> Array:
    """From 35x35 positions to 17x17."""
    twice = layer("3x3dbl_1", x, 64)
    twice = layer("3x3dbl_2", twice, 96, 3)
    twice = layer("3x3dbl_3", twice, 96, 3, 2, "VALID")
    return _concatenate(layer("3x3", x, 384, 3, 2, "VALID"), twice, _max_pool(x))


def _block_17(layer: Conv, x: Array, width: int) -> Array:
    """On 17x17 positions; width: channels inside of the branches of 7x7."""
    once = layer("7x7_1", x, width)
    once = layer("7x7_2", once, width, (1, 7))
    once = layer("7x7_3", once, 192, (7, 1))
    twice = layer("7x7dbl_1", x, width)
    twice = layer("7x7dbl_2", twice, width, (7, 1))
    twice = layer("7x7dbl_3", twice, width, (1, 7))
    twice = layer("7x7dbl_4", twice, width, (7, 1))
    twice = layer("7x7dbl_5", twice, 192, (1, 7))
    return _concatenate(layer("1x1", x, 192), once, twice, layer("_pool", _average_pool(x), 192))


def _reduction_8(layer: Conv, x: Array) -> Array:
    """From 17x17 positions to 8x8."""
    once = layer("3x3_1", x, 192)
    once = layer("3x3_2", once, 320, 3, 2, "VALID")
    by_7 = layer("7x7x3_1", x, 192)
    by_7 = layer("7x7x3_2", by_7, 192, (1, 7))
    by_7 = layer("7x7x3_3", by_7, 192, (7, 1))
    by_7 = layer("7x7x3_4", by_7, 192, 3, 2, "VALID")
    return _concatenate(once, by_7, _max_pool(x))


def _block_8(layer: Conv, x: Array, pool) -> Array:
    """On 8x8 positions."""
    once = layer("3x3_1", x, 384)
    twice = layer("3x3dbl_1", x, 448)
    twice = layer("3x3dbl_2", twice, 384, 3)
    return _concatenate(
        layer("1x1", x, 320),
        layer("3x3_2a", once, 384, (1, 3)),
        layer("3x3_2b", once, 384, (3, 1)),
        layer("3x3dbl_3a", twice, 384, (1, 3)),
        layer("3x3dbl_3b", twice, 384, (3, 1)),
        layer("_pool", pool(x), 192),
    )


def _concatenate(*branches: Array) -> Array:
    return jnp.concatenate(branches, axis=-1)


def _max_pool(x: Array, stride: int = 2) -> Array:
    """The maximum of 3x3; stride 1 keeps the size."""
    padding = "VALID" if stride == 2 else "SAME"
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, stride, stride, 1), padding)


def _average_pool(x: Array) -> Array:
    """The mean of those of 3x3 positions that are inside; it keeps the size."""

    def total(y):
        return lax.reduce_window(y, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")

    return total(x) / total(jnp.ones((1, *x.shape[1:3], 1), x.dtype))
