"""Saturation of colours: strong guidance tends to make them garish."""

import numpy as np


def saturation(images: np.ndarray) -> np.ndarray:
    """Mean saturation of each image, in [0, 1]: float64 `[n]`.

    That of HSV: (largest - least) / largest of red, green and blue of a pixel, 0 for black; then
    the mean over the pixels. It does not depend on the brightness; noise raises it.

    Args:
      images: uint8 `[n, H, W, 3]`.
    """
    largest = images.max(axis=-1).astype(np.float64)
    spread = largest - images.min(axis=-1)
    return (spread / np.maximum(largest, 1)).mean(axis=(1, 2))
