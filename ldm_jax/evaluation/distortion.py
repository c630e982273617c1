"""PSNR and SSIM between images and their reconstructions (Tables 5, 8, 11)."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ldm_jax.errors import UserError

# Weights of the separable SSIM window along one axis; their sum is 1.
_WINDOW = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
_WINDOW /= _WINDOW.sum()


def psnr(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of each pair of images: uint8 `[n, H, W, C]` -> `[n]`.

    10 log10(255^2 / mean square error), the error in float64; infinite for equal images.
    """
    error = x.astype(np.float64) - y.astype(np.float64)
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(255.0**2 / np.mean(error**2, axis=(1, 2, 3)))


def ssim(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mean structural similarity of each pair of images: uint8 `[n, H, W, C]` -> `[n]`.

    Wang et al. 2004: means, variances and covariance under a Gaussian window of 11x11 pixels with
    standard deviation 1.5, whose weights sum to 1 (so the variances are not the unbiased ones);
    constants (0.01 * 255)^2 and (0.03 * 255)^2. The mean is over all positions of the window inside
    the image and over the channels; in float64, at full resolution. At most 1, for equal images.

    Raises:
      UserError: the images have a side of less than 11 pixels, or differ in shape.
    """
    if x.shape != y.shape:
        raise UserError(f"SSIM compares images of one shape, got {x.shape} and {y.shape}")
    if min(x.shape[1:3]) < len(_WINDOW):
        raise UserError(
            f"SSIM needs images of at least {len(_WINDOW)}x{len(_WINDOW)} pixels, "
            f"got {x.shape[2]}x{x.shape[1]}"
        )
    return np.array([_ssim_of_pair(*pair) for pair in zip(x, y, strict=True)], np.float64)


def _ssim_of_pair(x: np.ndarray, y: np.ndarray) -> float:
    """`ssim` of two images `[H, W, C]`; one pair at a time limits the memory."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    moments = np.stack([x, y, x * x, y * y, x * y])
    for axis in (1, 2):
        moments = sliding_window_view(moments, len(_WINDOW), axis) @ _WINDOW
    mu_x, mu_y, xx, yy, xy = moments
    c_1, c_2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mu_x * mu_y + c_1) * (2 * (xy - mu_x * mu_y) + c_2)
    similarity /= (mu_x**2 + mu_y**2 + c_1) * (xx - mu_x**2 + yy - mu_y**2 + c_2)
    return float(np.mean(similarity))
