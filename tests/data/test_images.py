"""Images: square crops and borders, and maps cropped alike."""

import io

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import images
from ldm_jax.data.decode import decode, to_image, to_mode
from ldm_jax.data.images import WHOLE, Preprocessor, fit, resize_map, shrink
from ldm_jax.errors import UserError

GRADIENT = np.linspace(0, 255, 16 * 12).reshape(12, 16).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def colourful() -> Image.Image:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
    return small.resize((16, 12), Image.Resampling.BICUBIC)


def test_crop_is_the_centred_square():
    x = np.zeros((4, 10, 3), np.uint8)
    x[:, 3:7] = 255
    assert (fit(Image.fromarray(x), 4, "crop") == 255).all()
    assert (fit(Image.fromarray(x.transpose(1, 0, 2).copy()), 2, "crop") == 255).all()


@pytest.mark.parametrize("how", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(5, 5), (30, 7), (7, 300), (1, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_fit_gives_the_size_asked_for(how, size, channels):
    x = fit(to_mode(Image.new("RGB", size, (9, 9, 9)), channels), 8, how)
    assert x.shape == (8, 8, channels) and (x == 9).all()


def test_reducing_is_antialiased():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    for how in ("crop", "stretch"):
        x = fit(Image.fromarray(stripes), 16, how)[:, 1:-1].astype(int)
        assert np.abs(x - 127).max() <= 3


def test_crop_keeps_an_image_of_the_right_size_exactly():
    np.testing.assert_array_equal(
        fit(Image.fromarray(GRADIENT[:, :12]), 12)[..., 0], GRADIENT[:, :12]
    )


def test_pad_puts_mnist_on_its_background():
    digit = np.zeros((28, 28), np.uint8)
    digit[4:24, 4:24] = np.random.default_rng(0).integers(1, 256, (20, 20))
    x = fit(Image.fromarray(digit), 32, "pad")[..., 0]
    np.testing.assert_array_equal(x, np.pad(digit, 2))


def test_pad_reduces_a_wide_image_and_takes_the_border_from_its_edge():
    x = np.full((20, 40, 3), (200, 220, 240), np.uint8)
    x[5:15, 10:30] = 0
    y = fit(Image.fromarray(x), 20, "pad")
    assert (y[:5] == (200, 220, 240)).all() and (y[15:] == (200, 220, 240)).all()
    assert y[10, 10].max() == 0


def random_crop(image: Image.Image, size: int, min_crop: float, seed: int) -> np.ndarray:
    preprocessor = Preprocessor(size, crop="random", min_crop=min_crop)
    return preprocessor(image, np.random.default_rng(seed)).image


def test_random_crop_lies_inside_and_has_the_size_drawn():
    # Columns hold their own number, so a crop tells where it was taken and how wide it was.
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8), (100, 200)).copy()
    lefts, widths = [], []
    for seed in range(60):
        x = random_crop(Image.fromarray(ramp), 50, 0.5, seed)
        assert x.shape == (50, 50, 1)
        lefts.append(int(x[0, 0, 0]))
        widths.append(int(x[0, -1, 0]) - int(x[0, 0, 0]))
    assert 45 <= min(widths) < 60 and 90 < max(widths) <= 100
    assert min(lefts) < 20 and max(lefts) > 100


def test_random_crop_is_a_function_of_the_generator():
    image = colourful()
    a, b, c = (random_crop(image, 6, 0.3, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_shrink_reduces_the_short_side_and_never_enlarges():
    assert shrink(Image.new("L", (40, 100)), 20).size == (20, 50)
    assert shrink(Image.new("L", (100, 7)), 20).size == (100, 7)


def test_a_large_jpeg_decodes_to_about_the_same_image():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize((1600, 1200))
    file = encoded(image, "JPEG", quality=95)
    small = decode(file, 3, short_side=64)
    assert 128 <= min(small.size) < 1200
    direct = fit(image, 64).astype(int)
    assert np.abs(fit(small, 64).astype(int) - direct).mean() < 2


def test_crops_are_random_only_when_configured_and_given_a_generator():
    image, rng = colourful(), np.random.default_rng
    centre = Preprocessor(6, 3)
    random = Preprocessor(6, 3, crop="random", min_crop=0.4)
    central = centre(image).image
    np.testing.assert_array_equal(centre(image, rng(0)).image, central)
    np.testing.assert_array_equal(random(image).image, central)
    assert (random(image, rng(0)).image != random(image, rng(1)).image).any()
    assert (centre.short_side, random.short_side) == (6, 15)
    assert random.is_random and not centre.is_random


@pytest.mark.parametrize("crop", ["centre", "random"])
def test_cached_pixels_are_enough_for_the_preprocessor(crop):
    preprocessor = Preprocessor(8, 3, crop=crop, min_crop=0.5)
    big = colourful().resize((160, 120))
    cached = preprocessor.to_cache(encoded(big, "PNG"))
    assert cached.nbytes <= preprocessor.cached_bytes(160, 120) < cached.nbytes + 400
    want, got = (
        preprocessor(image, np.random.default_rng(3)).image for image in (big, to_image(cached))
    )
    assert got.shape == (8, 8, 3) and np.abs(got.astype(int) - want.astype(int)).mean() < 8


def places(w: int, h: int) -> tuple[Image.Image, np.ndarray]:
    """An image whose pixels are red = column, green = row, and a map of both."""
    y, x = np.mgrid[:h, :w]
    return Image.fromarray(np.stack([x, y, x * 0], -1).astype(np.uint8)), (x + 256 * y).astype(int)


@pytest.mark.parametrize(
    ("preprocessor", "size", "crop"),
    [
        (Preprocessor(20, 3), (60, 20), (1 / 3, 0, 2 / 3, 1)),
        (Preprocessor(20, 3), (20, 40), (0, 0.25, 1, 0.75)),
        (Preprocessor(20, 3, "stretch"), (20, 20), WHOLE),
        (Preprocessor(20, 3, "pad"), (20, 10), (0, -0.5, 1, 1.5)),
        (Preprocessor(20, 3, "pad"), (8, 16), (-0.75, -0.125, 1.75, 1.125)),
    ],
)
def test_a_preprocessed_image_has_its_crop_and_its_map(preprocessor, size, crop):
    image, semantic = places(*size)
    example = preprocessor(image, None, semantic)
    np.testing.assert_allclose(example.crop, crop, atol=1e-12)
    np.testing.assert_array_equal(example.image, preprocessor(image).image)
    # None of these is resized, so each pixel tells where it comes from; the border is 0.
    x, y = example.image[..., 0].astype(int), example.image[..., 1].astype(int)
    np.testing.assert_array_equal(example.semantic, x + 256 * y)


def test_a_random_crop_is_reported():
    image, semantic = places(100, 60)
    preprocessor = Preprocessor(30, 3, crop="random", min_crop=0.5, max_crop=0.5)
    for seed in range(20):
        example = preprocessor(image, np.random.default_rng(seed), semantic)
        x, y = example.image[..., 0].astype(int), example.image[..., 1].astype(int)
        np.testing.assert_array_equal(example.semantic, x + 256 * y)
        corners = (x[0, 0] / 100, y[0, 0] / 60, (x[-1, -1] + 1) / 100, (y[-1, -1] + 1) / 60)
        np.testing.assert_allclose(example.crop, corners)


def test_the_map_of_a_large_jpeg_is_shown_as_the_image_although_that_is_decoded_smaller():
    blocks = np.kron(np.random.default_rng(0).integers(0, 2, (6, 8)), np.ones((200, 200)))
    image = Image.fromarray((blocks * 255).astype(np.uint8))
    file = encoded(image, "JPEG", quality=95)
    preprocessor = Preprocessor(64, 1, crop="random", min_crop=0.4)
    for seed in range(5):
        example = preprocessor.read(file, np.random.default_rng(seed), blocks.astype(np.uint8))
        assert ((example.image[..., 0] > 127) == example.semantic).mean() > 0.97


def test_resize_map_takes_pixels_as_they_are():
    x = np.arange(6, dtype=np.uint8).reshape(2, 3)
    np.testing.assert_array_equal(resize_map(x, 3, 2), x)
    np.testing.assert_array_equal(resize_map(x, 6, 4), np.kron(x, np.ones((2, 2))))
    np.testing.assert_array_equal(resize_map(x, 1, 1, (2 / 3, 0.5, 1, 1)), [[5]])
    np.testing.assert_array_equal(resize_map(x, 2, 2, (-1 / 3, 0.5, 1 / 3, 1.5)), [[0, 3], [0, 0]])
    assert resize_map(x.astype(np.int32), 2, 2).dtype == np.int32


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"size": 0}, "size"),
        ({"channels": 4}, "channels"),
        ({"fit": "squeeze"}, "crop, pad, stretch"),
        ({"crop": "left"}, "centre, random"),
        ({"min_crop": 0}, "min_crop"),
        ({"min_crop": 1.5}, "min_crop"),
        ({"crop": "random", "fit": "pad"}, "fit 'crop'"),
        ({"value_range": (4095, 0)}, "value_range .* got 4095 0"),
    ],
)
def test_an_invalid_preprocessor_is_refused(options, word):
    with pytest.raises(UserError, match=word):
        Preprocessor(**{"size": 8, **options})


def test_in_threads_keeps_the_order_and_raises():
    assert images.in_threads(lambda a, b: a - b, range(100), [1] * 100) == list(range(-1, 99))
    assert images.in_threads(str, []) == []
    with pytest.raises(ZeroDivisionError):
        images.in_threads(lambda a: 1 / a, [1, 0, 1])
