"""The perceptual distance LPIPS, which the first stage adds to its L1 error (Sec. 3.1, App. G).

It compares the features of two images in a network trained to classify photographs (Zhang et al.,
arXiv:1801.03924). The weights are constant: a dictionary of arrays that is never trained.
`ldm_jax.pretrained.lpips` reads the published ones.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ldm_jax.errors import UserError
from ldm_jax.layers import Array

PerceptualNetwork = Literal["vgg16", "squeezenet"]

# Normalises [-1, 1] by the statistics of ImageNet, as in the training of the networks.
SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)


class _Architecture(NamedTuple):
    stages: tuple[dict[str, int], ...]
    """The layers of each stage: name -> output channels. LPIPS taps the output of each stage."""
    pooled: range
    """Stages that begin with max-pooling of stride 2."""
    window: int
    """Window of the max-pooling, in pixels."""
    smallest_size: int
    """Smallest image side for which the last stage has one position."""


_ARCHITECTURES = {
    "vgg16": _Architecture(  # arXiv:1409.1556, configuration D
        stages=(
            {"conv1_1": 64, "conv1_2": 64},
            {"conv2_1": 128, "conv2_2": 128},
            {"conv3_1": 256, "conv3_2": 256, "conv3_3": 256},
            {"conv4_1": 512, "conv4_2": 512, "conv4_3": 512},
            {"conv5_1": 512, "conv5_2": 512, "conv5_3": 512},
        ),
        pooled=range(1, 5),
        window=2,
        smallest_size=16,
    ),
    "squeezenet": _Architecture(  # arXiv:1602.07360, version 1.1: pools earlier than the paper's
        stages=(
            {"conv1": 64},
            {"fire2": 128, "fire3": 128},
            {"fire4": 256, "fire5": 256},
            {"fire6": 384},
            {"fire7": 384},
            {"fire8": 512},
            {"fire9": 512},
        ),
        pooled=range(1, 4),
        window=3,
        smallest_size=17,
    ),
}
SMALLEST_SIZE = {
    network: architecture.smallest_size for network, architecture in _ARCHITECTURES.items()
}


def abstract_params(network: PerceptualNetwork) -> dict:
    """Shapes of the parameters of `lpips`, all float32.

    `{layer: {'kernel': [h, w, c_in, c_out], 'bias': [c_out]}}`, a fire module holds three such
    layers, and `{'heads': {layer: [c_out]}}`: for the last layer of each stage the non-negative
    weight of each channel.
    """

    def array(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def conv(size, c_in, c_out):
        return {"kernel": array(size, size, c_in, c_out), "bias": array(c_out)}

    params, c_in = {"heads": {}}, 3
    for stage in _ARCHITECTURES[network].stages:
        for name, c_out in stage.items():
            if name.startswith("fire"):
                params[name] = {
                    "squeeze": conv(1, c_in, c_out // 8),
                    "expand1x1": conv(1, c_out // 8, c_out // 2),
                    "expand3x3": conv(3, c_out // 8, c_out // 2),
                }
            else:
                params[name] = conv(3, c_in, c_out)
            c_in = c_out
        params["heads"][name] = array(c_out)
    return params


def _conv_relu(params: dict, x: Array, stride: int = 1, padding: str = "SAME") -> Array:
    kernel, bias = (jnp.asarray(params[name], x.dtype) for name in ("kernel", "bias"))
    y = lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.relu(y + bias[None, None, None])


def _layer(name: str, params: dict, x: Array) -> Array:
    if name == "conv1":  # the first layer of SqueezeNet has a stride and no padding
        return _conv_relu(params, x, 2, "VALID")
    if name.startswith("fire"):
        h = _conv_relu(params["squeeze"], x)
        expanded = [_conv_relu(params[part], h) for part in ("expand1x1", "expand3x3")]
        return jnp.concatenate(expanded, axis=-1)
    return _conv_relu(params, x)


def _max_pool(x: Array, window: int) -> Array:
    # VGG drops an odd last row. In SqueezeNet the last window may extend one row beyond the image
    # ("ceil mode"); without that LPIPS would differ by 10 %.
    extension = [(0, (n - window) % 2 if window == 3 else 0) for n in x.shape[1:3]]
    padding = ((0, 0), *extension, (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, window, window, 1), (1, 2, 2, 1), padding)


def stages(
    params: dict, network: PerceptualNetwork, x: Array, dtype=jnp.float32
) -> dict[str, Array]:
    """What the network makes of images: name of the last layer of each stage -> `[B, h, w, c]`.

    Args:
      params: as `abstract_params(network)`.
      x: `[B, H, W, 3]` in [-1, 1], no side below `SMALLEST_SIZE[network]`.
      dtype: the type the network computes in.
    """
    x = ((x - SHIFT[None, None, None]) / SCALE[None, None, None]).astype(dtype)
    architecture, found = _ARCHITECTURES[network], {}
    for i, stage in enumerate(architecture.stages):
        if i in architecture.pooled:
            x = _max_pool(x, architecture.window)
        for name in stage:
            x = _layer(name, params[name], x)
        found[name] = x
    return found


def _unit(h: Array) -> Array:
    """Features divided by their norm over the channels, float32; zero vectors stay zero.

    The original divides by sqrt(sum h^2) + 1e-10. This gives the same values, but the gradient at
    a zero vector is 0, where the square root has no derivative.
    """
    h = h.astype(jnp.float32)
    square = jnp.sum(h**2, axis=-1, keepdims=True)
    nonzero = square > 0
    length = jnp.sqrt(jnp.where(nonzero, square, 1.0))
    return jnp.where(nonzero, h / (length + 1e-10), 0.0)


def _grey(x: Array) -> Array:
    """Each channel as a separate grey image (three equal channels): `[B * C, H, W, 3]`."""
    b, h, w, c = x.shape
    return jnp.repeat(x.transpose(0, 3, 1, 2).reshape(b * c, h, w, 1), 3, axis=-1)


def lpips(
    params: dict, network: PerceptualNetwork, x: Array, x_hat: Array, dtype=jnp.float32
) -> Array:
    """LPIPS of each pair of images, float32 `[B]`: 0 for equal images, larger for less similar.

    Three channels are red, green and blue. With any other number, each channel is compared as a
    grey image (three equal channels), and the distances are averaged.

    Args:
      params: as `abstract_params(network)`. Pass them as an argument of a jitted function: the 15
        million numbers of VGG16 are too many for a constant in the program.
      x, x_hat: `[B, H, W, C]` in [-1, 1].
      dtype: the type the network computes in; distances between features are float32.

    Raises:
      UserError: the shapes differ, or a side is below `SMALLEST_SIZE[network]`.
    """
    if x.shape != x_hat.shape:
        raise UserError(f"LPIPS compares images of one shape, not {x.shape} with {x_hat.shape}")
    b, height, width, c = x.shape
    if min(height, width) < SMALLEST_SIZE[network]:
        raise UserError(
            f"LPIPS with {network} needs images of {SMALLEST_SIZE[network]} pixels a side "
            f"or more, not {height}x{width}"
        )
    if c != 3:
        return lpips(params, network, _grey(x), _grey(x_hat), dtype).reshape(b, c).mean(axis=1)

    # Two passes instead of one batch: training needs no gradient for x, so the pass for x stores no
    # activations.
    h, h_hat = (stages(params, network, y, dtype) for y in (x, x_hat))
    distance = jnp.zeros(b, jnp.float32)
    for name, head in params["heads"].items():
        difference = (_unit(h[name]) - _unit(h_hat[name])) ** 2
        # A sum: accelerators may round a matrix product to bfloat16.
        distance += jnp.sum(difference * head[None, None, None], axis=-1).mean(axis=(1, 2))
    return distance
