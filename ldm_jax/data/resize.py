"""Resizing by separable weights: MATLAB's bicubic, and OpenCV's three interpolations.

An image is resized by one matrix per axis, `rows @ x @ columns.T`, so each method is defined by
the weights of the input pixels in an output pixel. Pixel i covers [i, i + 1], so its
centre is at i + 1/2 in both images.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np

Method = Literal["bicubic", "linear", "cubic", "area"]


def cubic_kernel(x: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel at distance x, zero from 2 on (Keys 1981).

    a: its slope at distance 1: -1/2 is exact for quadratics (MATLAB, Pillow), -3/4 is sharper
    (OpenCV, torch).
    """
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def triangle_kernel(x: np.ndarray) -> np.ndarray:
    """The kernel of linear interpolation at distance x, zero from 1 on."""
    return np.clip(1 - np.abs(x), 0, None)


def _mirrored(index, n):  # ... 1 0 | 0 1 ... n-1 | n-1 n-2 ...
    index = index % (2 * n)
    return np.minimum(index, 2 * n - 1 - index)


def _repeated(index, n):  # ... 0 0 | 0 1 ... n-1 | n-1 n-1 ...
    return np.clip(index, 0, n - 1)


def _interpolation(n: int, m: int, kernel: Callable, radius: float, border: Callable) -> np.ndarray:
    """[m, n] weights: the kernel around the centre of each output pixel, scaled to sum 1.

    radius: where the kernel ends, in input pixels. border: maps indices outside of the image
    to pixels inside.
    """
    centre = (np.arange(m) + 0.5) * n / m - 0.5
    index = np.floor(centre - radius).astype(int)[:, None] + np.arange(int(2 * radius) + 2)
    taps = kernel(centre[:, None] - index)
    taps /= taps.sum(axis=1, keepdims=True)
    matrix = np.zeros((m, n))
    np.add.at(matrix, (np.arange(m)[:, None], border(index, n)), taps)
    return matrix


def _area(n: int, m: int) -> np.ndarray:
    """[m, n] weights: the fraction of each output pixel that each input pixel covers."""
    low, high = np.arange(m)[:, None] * n / m, np.arange(1, m + 1)[:, None] * n / m
    pixel = np.arange(n)
    return np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None) * m / n


@lru_cache(maxsize=128)
def weights(n: int, m: int, method: Method) -> np.ndarray:
    """The float32 [m, n] matrix that resizes n pixels to m; do not write to it.

    bicubic  MATLAB's imresize: a = -1/2; a reduction widens the kernel by n / m, which makes it
             antialiased; the image is mirrored at its border.
    linear, cubic  OpenCV's: two or four neighbours however strong the reduction (not antialiased),
             cubic with a = -3/4; the last pixel is repeated at the border.
    area     OpenCV's: the exact mean over the output pixel's extent, also where it enlarges.
    """
    if method == "bicubic":
        wide = max(1.0, n / m)
        matrix = _interpolation(n, m, lambda x: cubic_kernel(x / wide, -0.5), 2 * wide, _mirrored)
    elif method == "cubic":
        matrix = _interpolation(n, m, lambda x: cubic_kernel(x, -0.75), 2, _repeated)
    elif method == "linear":
        matrix = _interpolation(n, m, triangle_kernel, 1, _repeated)
    else:
        matrix = _area(n, m)
    matrix = matrix.astype(np.float32)
    matrix.setflags(write=False)  # every caller gets the same array
    return matrix


def resize(x: np.ndarray, size: tuple[int, int], method: Method = "bicubic") -> np.ndarray:
    """[..., H, W, C] -> float32 [..., *size, C]; size is (height, width), any numbers from 1 on.

    The result is neither rounded nor clipped: cubic kernels overshoot at edges.
    """
    *batch, height, width, channels = x.shape
    x = np.asarray(x, np.float32)
    # Rows first: all columns and channels of an image in one product. Then columns.
    x = weights(height, size[0], method) @ x.reshape(*batch, height, width * channels)
    return weights(width, size[1], method) @ x.reshape(*batch, size[0], width, channels)


def to_uint8(x: np.ndarray) -> np.ndarray:
    """Values in 0..255, rounded and clipped."""
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)
