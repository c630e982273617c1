"""The layers of the classifiers whose features are compared.

An architecture is written once, as a function of a `Conv`: `apply` gives it layers that compute,
`abstract_params` gives it layers that note the shapes of their parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from ldm_jax.layers import Array

Conv = Callable[..., Array]
"""(name, x, channels, size=1, stride=1, padding='SAME', depthwise=False) -> a convolution of x.

size: of the kernel, in pixels; one number, or (height, width). padding: 'VALID', or 'SAME' as in
TensorFlow: at stride 2 an even side is padded on its right or lower edge alone.
"""


def abstract_params(network: Callable[[Conv, Array], Array], size: int) -> dict:
    """Shapes of the parameters of a network: `{layer: {'kernel': [h, w, c_in, c], 'bias': [c]}}`.

    Batch norm is part of kernel and bias, because its statistics are constant. The kernel of a
    depthwise convolution has c_in = 1. All float32.

    Args:
      size: side of the network's input, in pixels.
    """
    params = {}

    def conv(name, x, channels, size=1, stride=1, padding="SAME", depthwise=False):
        kernel = jnp.zeros((*_pair(size), 1 if depthwise else x.shape[-1], channels))
        layer = {"kernel": kernel, "bias": jnp.zeros(channels)}
        params[name] = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.float32), layer)
        return _convolve(layer, x, stride, padding, depthwise)

    jax.eval_shape(
        lambda x: network(conv, x), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    )
    return params


def apply(network: Callable[[Conv, Array], Array], params: dict, x: Array) -> Array:
    """The output of a network for `[B, H, W, 3]`, with parameters as `abstract_params`."""

    def conv(name, x, channels, size=1, stride=1, padding="SAME", depthwise=False):
        return _convolve(params[name], x, stride, padding, depthwise)

    return network(conv, x)


def dense(params: dict, x: Array) -> Array:
    """A fully connected layer: `[B, c_in]` -> `[B, c]`; its kernel is `[1, 1, c_in, c]`."""
    return _convolve(params, x[:, None, None], 1, "VALID", False)[:, 0, 0]


def _convolve(params: dict, x: Array, stride: int, padding: str, depthwise: bool) -> Array:
    kernel, bias = params["kernel"], params["bias"][None, None, None]
    if depthwise:
        return _depthwise(kernel, x, stride, padding) + bias
    y = lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        # Accelerators would round to bfloat16 or TF32, and a distance between distributions would
        # depend on the device.
        precision=lax.Precision.HIGHEST,
    )
    return y + bias


def _depthwise(kernel: Array, x: Array, stride: int, padding: str) -> Array:
    """A depthwise convolution as a sum of shifted images: XLA's own is slow on a CPU."""
    height, width = kernel.shape[:2]
    strides = (stride, stride)
    pads = lax.padtype_to_pads(x.shape[1:3], (height, width), strides, padding)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    h, w = ((n - k) // stride + 1 for n, k in zip(x.shape[1:3], (height, width), strict=True))
    return sum(
        x[:, i : i + stride * (h - 1) + 1 : stride, j : j + stride * (w - 1) + 1 : stride]
        * kernel[i, j, 0][None, None, None]
        for i in range(height)
        for j in range(width)
    )


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
