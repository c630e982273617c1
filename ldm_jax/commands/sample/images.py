"""Images, masks and semantic maps that a command names, from their files."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from etils import epath
from PIL import Image

from ldm_jax.commands.sample.command import EditOptions
from ldm_jax.data.decode import WHOLE_RANGE, Range, to_array, to_mode, upright
from ldm_jax.data.images import resize_map
from ldm_jax.data.maps import decode_map
from ldm_jax.errors import UserError
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.paths import user_path

ALPHA = "alpha"  # as --mask: the transparency of --image


def open_image(option: str, file: epath.PathLike, model: LatentDiffusion) -> Image.Image:
    """The image in a file, upright, in grey or colour as the model's images are.

    Raises:
      UserError: it cannot be read; `option` is what named it.
    """
    values = getattr(model.config.data, "value_range", WHOLE_RANGE)
    return _opened(option, file, model.info.channels, values)


def _opened(
    option: str,
    file: epath.PathLike,
    channels: int,
    values: Range = WHOLE_RANGE,
    background: str = "white",
) -> Image.Image:
    def read(content) -> Image.Image:
        return to_mode(Image.open(content), channels, values, background)

    return _read(option, file, read)


def _read(option: str, file: epath.PathLike, read: Callable) -> Image.Image:
    try:
        with user_path(file).open("rb") as content:
            return read(content)
    except Exception as error:  # Pillow raises whatever a damaged file leads to
        raise UserError(f"{option} {file} cannot be read as an image: {error}") from error


def middle(wide_high: tuple[int, int], height: int, width: int) -> tuple[int, int, int, int]:
    """The largest part in the middle with the proportions of height and width.

    Left, top, right, bottom in pixels.
    """
    scale = min(wide_high[0] / width, wide_high[1] / height)
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (wide_high[0] - w) // 2, (wide_high[1] - h) // 2
    return left, top, left + w, top + h


def fitted(image: Image.Image, height: int, width: int) -> np.ndarray:
    """Its middle, as much of it as has these proportions, resized: uint8 `[height, width, C]`."""
    part = image.crop(middle(image.size, height, width))
    return to_array(part.resize((width, height), Image.Resampling.BICUBIC))


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


Size = tuple[int | None, int | None]
"""Height and width; None: that of the file."""


def sized(option: str, image: Image.Image, size: Size, multiple: int) -> np.ndarray:
    """An image of this size, or else its middle with sides that are multiples: `[H, W, C]`."""
    if None in size:
        return to_array(image.crop(largest_crop(option, image.size, multiple)))
    return fitted(image, *size)


def open_map(option: str, file: str, size: Size, multiple: int) -> np.ndarray:
    """The semantic map in a file, class numbers `[H, W]`, cut as `sized` cuts its image.

    Raises:
      UserError: it cannot be read, or is no map.
    """
    try:
        with user_path(file).open("rb") as content:
            semantic = decode_map(content)
    except Exception as error:  # Pillow raises whatever a damaged file leads to
        raise UserError(f"{option} {file} cannot be read as a map: {error}") from error
    wide_high = semantic.shape[::-1]
    if None in size:
        left, top, right, bottom = largest_crop(option, wide_high, multiple)
        return semantic[top:bottom, left:right]
    left, top, right, bottom = middle(wide_high, *size)
    return resize_map(semantic[top:bottom, left:right], size[1], size[0])


def open_mask(
    edit: EditOptions, image: Image.Image, cut: Callable[[Image.Image], np.ndarray]
) -> np.ndarray:
    """Where --mask says that `image`, the opened --image, is to be filled: bool `[height, width]`.

    That is where the mask is white, at least by half; what is transparent in it is kept. With
    --mask alpha it is wherever --image is not opaque.

    Args:
      cut: cuts and resizes the mask as the image is: an image -> uint8 `[height, width, C]`.

    Raises:
      UserError: it cannot be read, is not as wide and as high as its image, or would fill all of
        the image or nothing.
    """
    if edit.mask == ALPHA:
        what, mask = f"--mask alpha: {edit.image}", _transparency(edit.image)
        # Where it is resized, a pixel that is opaque in part has the colour of what lies beside it.
        whole, least, white = np.asarray(mask) > 0, 1, "transparent"
    else:
        what = f"--mask {edit.mask}"
        mask = _opened("--mask", edit.mask, 1, background="black")
        whole, least, white = np.asarray(mask) >= 128, 128, "white (128 to 255)"
        if mask.size != image.size:
            raise UserError(
                f"{what} has {mask.width}x{mask.height} pixels, its image "
                f"{image.width}x{image.height}; they must be of one size"
            )
    fill = cut(mask)[..., 0] >= least
    if not fill.any():
        where = " in the middle, which is used" if whole.any() else ""
        raise UserError(
            f"{what} has nothing {white}{where}, so there is nothing to fill"
            + ("" if edit.mask == ALPHA else ": paint it white; black and transparency are kept")
        )
    if fill.all():
        where = "" if whole.all() else " in the middle, which is used"
        raise UserError(f"{what} is {white} everywhere{where}, so nothing of the image is kept")
    return fill


def _transparency(file: str) -> Image.Image:
    """How transparent an image is: mode L, 0 where it is opaque."""

    def read(content) -> Image.Image:
        image = upright(Image.open(content))
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        return Image.fromarray(255 - alpha)

    return _read("--image", file, read)
