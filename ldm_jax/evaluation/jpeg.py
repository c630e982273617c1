"""JPEG as a yardstick for a first stage: what is left of an image in as many bytes as its latent.

Both leave out what all images share: the weights of the decoder, the tables in JPEG's header.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from ldm_jax.evaluation.distortion import psnr

HIGHEST = 95  # the highest quality: above it JPEG spends bytes that nobody sees
EXACT = 60.0  # dB, as which an image without any error counts: its PSNR is infinite
_START_OF_SCAN = 0xDA


def jpeg_psnr(x: np.ndarray, most_bytes: int) -> np.ndarray:
    """PSNR in dB of each image as a JPEG of at most so many bytes: uint8 `[n, H, W, C]` -> `[n]`.

    Each image has the highest quality at which it fits, and the better of two ways to code colour:
    at full resolution, or at half of it. Where quality 1 does not fit either it is taken all the
    same, which is in favour of JPEG. An exact image counts 60 dB.
    """
    found = []
    for subsampling in ("4:2:0", "4:4:4")[: 1 + (x.shape[-1] == 3)]:
        coded = np.stack([_coded(image, most_bytes, subsampling) for image in x])
        found.append(psnr(x, coded))
    return np.minimum(np.max(found, axis=0), EXACT)


def _coded(image: np.ndarray, most_bytes: int, subsampling: str) -> np.ndarray:
    """An image `[H, W, C]` as JPEG shows it in at most `most_bytes`."""

    def file(quality: int) -> bytes:
        buffer = io.BytesIO()
        # Without `optimize`: the tables are then those of the standard, the same for all images.
        pixels = Image.fromarray(image.squeeze())
        pixels.save(buffer, format="jpeg", quality=quality, subsampling=subsampling)
        return buffer.getvalue()

    low, high, best = 1, HIGHEST, file(1)
    while low < high:  # the bytes grow with the quality
        middle = (low + high + 1) // 2
        tried = file(middle)
        if scan_bytes(tried) <= most_bytes:
            low, best = middle, tried
        else:
            high = middle - 1
    return np.asarray(Image.open(io.BytesIO(best))).reshape(image.shape)


def scan_bytes(file: bytes) -> int:
    """The bytes of a baseline JPEG that code pixels: all behind the header, but for its end."""
    place = 2  # behind the mark of its start
    while file[place + 1] != _START_OF_SCAN:
        place += 2 + int.from_bytes(file[place + 2 : place + 4], "big")
    place += 2 + int.from_bytes(file[place + 2 : place + 4], "big")
    return len(file) - place - 2
