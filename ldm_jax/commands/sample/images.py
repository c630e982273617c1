"""Images that a command names, from their files."""

from __future__ import annotations

import numpy as np
from etils import epath
from PIL import Image

from ldm_jax.data.images import fit, to_array, to_mode
from ldm_jax.errors import UserError
from ldm_jax.paths import user_path


def open_image(option: str, file: epath.PathLike, channels: int) -> Image.Image:
    """The image in a file, upright, grey (channels 1) or in colour (3).

    Raises:
      UserError: it cannot be read; `option` is what named it.
    """
    try:
        with user_path(file).open("rb") as content:
            return to_mode(Image.open(content), channels)
    except Exception as error:  # Pillow raises whatever a damaged file leads to
        raise UserError(f"{option} {file} cannot be read as an image: {error}") from error


def fitted(image: Image.Image, height: int, width: int) -> np.ndarray:
    """Its middle, as much of it as has these proportions, resized: uint8 `[height, width, C]`."""
    if height == width:
        return fit(image, height)
    scale = min(image.width / width, image.height / height)
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (image.width - w) // 2, (image.height - h) // 2
    middle = image.crop((left, top, left + w, top + h))
    return to_array(middle.resize((width, height), Image.Resampling.BICUBIC))


def largest_crop(
    option: str, wide_high: tuple[int, int], multiple: int
) -> tuple[int, int, int, int]:
    """The largest part in the middle with sides that are multiples: left, top, right, bottom.

    Raises:
      UserError: there is none.
    """
    (width, height), (w, h) = wide_high, (side - side % multiple for side in wide_high)
    if not (w and h):
        raise UserError(
            f"{option} has {width}x{height} pixels; this model takes {multiple}x{multiple} at least"
        )
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def open_mask(
    option: str, file: str, wide_high: tuple[int, int], height: int, width: int
) -> np.ndarray:
    """Where a mask is white, brought to this size as `fitted` does: bool `[height, width]`.

    Raises:
      UserError: it cannot be read, is not as wide and as high as its image, or has no white.
    """
    mask = open_image(option, file, 1)
    check_mask(option, file, mask, wide_high)
    return white(option, file, fitted(mask, height, width))


def check_mask(option: str, file: str, mask: Image.Image, wide_high: tuple[int, int]) -> None:
    """Raises UserError for a mask that is not as wide and as high as its image."""
    if mask.size != wide_high:
        raise UserError(
            f"{option} {file} has {mask.width}x{mask.height} pixels, its image "
            f"{wide_high[0]}x{wide_high[1]}; they must be of one size"
        )


def white(option: str, file: str, mask: np.ndarray) -> np.ndarray:
    """Where bytes `[H, W, 1]` are white, at least by half: bool `[H, W]`.

    Raises:
      UserError: nowhere.
    """
    hole = mask[..., 0] >= 128
    if not hole.any():
        raise UserError(f"{option} {file} has nothing white, so there is nothing to fill")
    return hole
