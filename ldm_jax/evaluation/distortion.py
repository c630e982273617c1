"""How far a reconstruction is from its picture."""

from __future__ import annotations

import numpy as np


def psnr(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of each pair of pictures: bytes `[n, H, W, C]` -> `[n]`.

    10 log10(255^2 / mean square error), the error in float64; infinite for equal pictures.
    """
    error = x.astype(np.float64) - y.astype(np.float64)
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(255.0**2 / np.mean(error**2, axis=(1, 2, 3)))
