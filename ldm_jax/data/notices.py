"""What people should know of their images before they train: what is cut off, bits not in use."""

from collections.abc import Sequence

import numpy as np

from ldm_jax.data.decode import WHOLE_RANGE
from ldm_jax.data.images import ImageConfig

LOOKED_AT = 32  # images that are decoded to see how many of their bits are in use
_DARK = 2**14  # 16-bit images with no higher value are at most a quarter as bright as they could be


def some(n: int, most: int = LOOKED_AT) -> list[int]:
    """At most so many of the numbers below n, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(int)).tolist()


def cut_off(sizes: Sequence[tuple[int, int]], config: ImageConfig) -> list[str]:
    """What crops cut off of images of these sizes (width, height); a sentence each."""
    if config.fit != "crop":
        return []
    lost = np.array([1 - min(size) / max(size) for size in sizes])
    said = []
    if (oblong := lost[lost > 0.01]).size:
        where = "the middle" if config.crop == "centre" else "a square at a random place"
        said.append(
            f"{oblong.size / lost.size:.0%} of the images are not square: {where} is used, and "
            f"{oblong.mean():.0%} of each is cut off on average (--data.fit pad keeps all of it)"
        )
    if config.crop == "random" and config.min_crop < 1:
        said.append(
            f"random crops show {config.min_crop:.0%} to {config.max_crop:.0%} of the short side: "
            "what lies at the border is cut, in samples too (--data.crop centre does not)"
        )
    return said


def unused_bits(highest: Sequence[int | None], config: ImageConfig) -> str:
    """A warning where the highest values of 16-bit images are low; '' for none.

    highest: of some images, see `decode.highest_value`.
    """
    known = [value for value in highest if value is not None]
    if not known or config.value_range != WHOLE_RANGE or max(known) >= _DARK:
        return ""
    bits = next(bits for bits in (8, 10, 12, 14) if max(known) < 2**bits)
    return (
        f"images of 16 bits have no value above {max(known)} (white is 65535), so they are read "
        f"nearly black; if they hold {bits} bits: --data.value-range 0 {2**bits - 1} "
        "(for grey images; save others with 8 bits)"
    )


def only_8_bits(colour: int, of: int) -> str:
    """A warning where so many images are in colour with 16 bits a channel; '' for none."""
    if not colour:
        return ""
    return f"{colour} of {of} images are in colour with 16 bits a channel; 8 of them are read"
