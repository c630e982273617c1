"""Image files: colour modes, orientation, transparency, more than 8 bits."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.decode import (
    highest_value,
    natural_channels,
    to_array,
    to_image,
    to_mode,
    upright,
    upright_size,
)

GRADIENT = np.linspace(0, 255, 16 * 12).reshape(12, 16).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def reopened(image, kind="PNG", **options) -> Image.Image:
    return Image.open(encoded(image, kind, **options))


def colourful() -> Image.Image:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
    return small.resize((16, 12), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_grey_or_colour(mode, channels):
    base = colourful().convert("P" if mode == "PA" else "RGB").convert(mode)
    x = to_array(to_mode(base, channels))
    assert x.shape == (12, 16, channels) and x.dtype == np.uint8
    if channels == 3 and mode not in ("1", "L", "LA"):
        assert np.abs(x.astype(int) - np.asarray(colourful()).astype(int)).mean() < 20


def test_grey_in_colour_has_equal_channels_and_keeps_its_values():
    x = to_array(to_mode(Image.fromarray(GRADIENT), 3))
    np.testing.assert_array_equal(x, np.repeat(GRADIENT[..., None], 3, axis=-1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
    deep = GRADIENT.astype(np.uint16) * 257
    image = reopened(Image.fromarray(deep), kind)
    np.testing.assert_array_equal(to_array(to_mode(image, 1))[..., 0], GRADIENT)
    assert natural_channels(image) == 1
    wide = Image.fromarray(deep.astype(np.int32))  # how older Pillow opens 16 bits
    np.testing.assert_array_equal(to_array(to_mode(wide, 1))[..., 0], GRADIENT)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_scan_of_12_bits_has_its_own_range(kind):
    scan = np.linspace(0, 4095, 12 * 16).reshape(12, 16).astype(np.uint16)
    image = reopened(Image.fromarray(scan), kind)
    assert to_array(to_mode(image, 1)).max() == 16  # nearly black
    x = to_array(to_mode(reopened(Image.fromarray(scan), kind), 1, (0, 4095)))[..., 0]
    np.testing.assert_array_equal(x, np.rint(scan / 4095 * 255))
    x = to_array(to_mode(reopened(Image.fromarray(scan), kind), 1, (1000, 2000)))[..., 0]
    assert (x[scan <= 1000] == 0).all() and (x[scan >= 2000] == 255).all()
    assert highest_value(reopened(Image.fromarray(scan), kind)) == 4095
    assert highest_value(reopened(colourful(), kind)) is None


def test_floating_point_images_need_a_range():
    x = Image.fromarray(GRADIENT.astype(np.float32) / 255)
    with pytest.raises(ValueError, match="range"):
        to_mode(x, 1)
    np.testing.assert_array_equal(to_array(to_mode(x, 1, (0, 1)))[..., 0], GRADIENT)
    assert natural_channels(x) == 1
    with pytest.raises(ValueError, match="NaN"):
        to_mode(Image.fromarray(np.full((2, 2), np.nan, np.float32)), 1, (0, 1))


def png_of_16_bit_colour(x: np.ndarray) -> Image.Image:
    """uint16 [H, W, 3] as a PNG, which Pillow itself cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in x)
    size = struct.pack(">IIBBBBB", x.shape[1], x.shape[0], 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", size), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts)))


def test_16_bit_colour_has_no_range_of_its_own():
    x = np.full((2, 3, 3), 4095, np.uint16)
    assert to_array(to_mode(png_of_16_bit_colour(x), 3)).max() == 15
    assert highest_value(png_of_16_bit_colour(x)) == 15 * 257
    with pytest.raises(ValueError, match="save colour with 8 bits"):
        to_mode(png_of_16_bit_colour(x), 3, (0, 4095))


def test_transparency_is_laid_over_a_background():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 0] = 200
    rgba[0, :, 3] = [0, 255, 128]
    x = to_array(to_mode(reopened(Image.fromarray(rgba)), 3))[0].astype(int)
    np.testing.assert_array_equal(x[:2], [[255, 255, 255], [200, 0, 0]])
    np.testing.assert_allclose(x[2], [227, 127, 127], atol=1)
    x = to_array(to_mode(reopened(Image.fromarray(rgba)), 3, background="black"))[0].astype(int)
    np.testing.assert_allclose(x, [[0, 0, 0], [200, 0, 0], [100, 0, 0]], atol=1)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_colour_becomes_white(kind):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    x = to_array(to_mode(reopened(image, kind, transparency=0), 3))
    np.testing.assert_array_equal(x[0], [[255, 255, 255], [40, 50, 60]])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, kind):
    # What a camera would have stored for an upright image, by the definition of the tag: row 0
    # and column 0 of the stored image are which sides of the upright one.
    upright = GRADIENT
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = reopened(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif)
    np.testing.assert_array_equal(to_array(to_mode(image, 1))[..., 0], upright)


def test_to_image_undoes_to_array():
    for channels in (1, 3):
        x = to_array(to_mode(colourful(), channels))
        np.testing.assert_array_equal(to_array(to_image(x)), x)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_upright_size_is_known_without_decoding(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = reopened(Image.new("L", (9, 5)), kind, exif=exif)
    want = to_mode(reopened(Image.new("L", (9, 5)), kind, exif=exif), 1).size
    assert upright_size(image) == want == ((9, 5) if orientation < 5 else (5, 9))
    assert upright(image).size == want
    assert upright_size(reopened(Image.new("L", (9, 5)), kind)) == (9, 5)
