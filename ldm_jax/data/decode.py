"""From an image file to 8 bits of grey or colour: orientation, modes, transparency, ranges."""

from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps

Range = tuple[float, float]
"""The stored values that are black and white, in an image of more than 8 bits a channel."""
WHOLE_RANGE: Range = (0.0, 65535.0)

# Where a PNG says how it is turned. Pillow finds these before the pixels, or else decodes all of
# the image in search of them.
_PNG_EXIF = ("exif", "Raw profile type exif", "XML:com.adobe.xmp")


def natural_channels(image: Image.Image) -> int:
    """1 for an image stored in grey, 3 for every other (palettes count as colour)."""
    return 1 if image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I") else 3


def is_turned(image: Image.Image) -> bool:
    """Whether an image that is not decoded yet has an EXIF orientation to be applied.

    That of a PNG counts if it stands before the pixels.
    """
    known = image.format != "PNG" or any(key in image.info for key in _PNG_EXIF)
    return known and image.getexif().get(ExifTags.Base.Orientation, 1) != 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height once the EXIF orientation is applied, without decoding the image."""
    if not is_turned(image) or image.getexif()[ExifTags.Base.Orientation] < 5:
        return image.size
    if image.format == "TIFF":  # whose `size` is upright already in some versions of Pillow
        return image.tag_v2[ExifTags.Base.ImageLength], image.tag_v2[ExifTags.Base.ImageWidth]
    return image.size[::-1]


def upright(image: Image.Image) -> Image.Image:
    """The image, decoded, as its EXIF orientation says. Pillow turns a TIFF when it decodes it."""
    turned = is_turned(image)
    image.load()
    return ImageOps.exif_transpose(image) if turned else image


def is_deep(image: Image.Image) -> bool:
    """Whether an image that is not decoded yet is stored with more than 8 bits a channel."""
    return image.mode[0] in "IF" or any(
        ";16" in str(tile[3]) for tile in getattr(image, "tile", ())
    )


def highest_value(image: Image.Image) -> int | None:
    """The highest value of a 16-bit image, from 0 to 65535; None for one of 8 bits or of floats."""
    if not is_deep(image) or image.mode == "F":
        return None
    if image.mode.startswith("I"):
        return int(np.asarray(image).max())
    return int(np.asarray(image.convert("RGB")).max()) * 257  # Pillow keeps 8 of the bits


def to_mode(
    image: Image.Image, channels: int, values: Range = WHOLE_RANGE, background: str = "white"
) -> Image.Image:
    """An upright 8-bit image in grey (channels 1, mode 'L') or colour (channels 3, mode 'RGB').

    EXIF orientation is applied, and transparency is laid over `background`. Grey of more than 8
    bits, and floats, are scaled: `values` become 0 and 255.

    Raises:
      ValueError: floats without `values`, as they carry no scale, or that are not finite; or
        `values` for 16-bit colour, of which Pillow reads 8 bits.
    """
    deep = is_deep(image)
    image = upright(image)
    if image.mode == "F" and values == WHOLE_RANGE:
        raise ValueError(
            "floating-point images have no range of their own: train with --data.value-range LOW "
            "HIGH, or save them with 8 bits"
        )
    if image.mode[0] in "IF":  # Pillow would clip at 255, not scale
        low, high = values
        stored = np.asarray(image).astype(np.float32)
        if not np.isfinite(stored).all():
            raise ValueError("it has pixels that are no number (NaN or infinite)")
        grey = (stored - low) * (255 / (high - low))
        image = Image.fromarray(np.rint(np.clip(grey, 0, 255)).astype(np.uint8))
    elif deep and values != WHOLE_RANGE:
        raise ValueError("a range of values is for grey images; save colour with 8 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    return image.convert("L" if channels == 1 else "RGB")


def decode(
    file: IO[bytes], channels: int, short_side: int, values: Range = WHOLE_RANGE
) -> Image.Image:
    """Decodes an image file to grey or colour, as `to_mode` does.

    short_side: the short side in pixels that is needed. A JPEG at least four times as large is
    decoded at 1/2, 1/4 or 1/8 of its size (never below twice `short_side`), which is several times
    faster. Raises whatever Pillow raises for a damaged file.
    """
    image = Image.open(file)
    image.draft(None, (2 * short_side, 2 * short_side))
    return to_mode(image, channels, values)


def to_array(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 1] of a grey image, [H, W, 3] of a colour one."""
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


def to_image(array: np.ndarray) -> Image.Image:
    """The inverse of `to_array`."""
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
