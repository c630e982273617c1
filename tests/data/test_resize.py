"""Resizing: the reference's numbers, MATLAB's images, Pillow, and weights worked out by hand.

`resize.npz` is computed by CompVis/latent-diffusion, as `golden.npz` is, with its restatement of
MATLAB's imresize: `in`, `down2`, `down4`, [H, W, C].
"""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.resize import resize, to_uint8, weights

DATA = Path(os.environ.get("LDM_JAX_TEST_DATA", Path(__file__).parents[3] / "shared/data"))
METHODS = ["bicubic", "linear", "cubic", "area"]


def image(*shape, seed=0):
    return (255 * np.random.default_rng(seed).random(shape)).astype(np.float32)


@pytest.mark.parametrize("factor", [2, 4])
def test_bicubic_equals_the_reference(factor):
    with np.load(Path(__file__).with_name("resize.npz")) as file:
        x, expected = file["in"], file[f"down{factor}"]
    y = resize(x, (16 // factor, 16 // factor))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected, atol=1e-6)


@pytest.mark.skipif(not (DATA / "set5").is_dir(), reason="needs Set5")
def test_bicubic_equals_matlab_on_photographs():
    """MATLAB rounds between the two axes too; how it treated these borders is not known."""
    for high in sorted((DATA / "set5").glob("*_HR.png")):
        x = np.asarray(Image.open(high).convert("RGB"))
        low = Image.open(str(high).replace("_HR", "_LR")).convert("RGB")
        y = to_uint8(resize(x, low.size[::-1])).astype(int)
        error = np.abs(y - np.asarray(low))[3:-3, 3:-3]
        assert error.max() <= 2 and error.mean() < 0.15, high.name


@pytest.mark.parametrize(
    ("method", "n", "m", "expected"),
    [
        # The kernel at 0.25, 0.75, 1.25, 1.75 is .8671875, .2265625, -.0703125, -.0234375; halved,
        # and what falls outside (pixels -1, -2, -3) is mirrored onto pixels 0, 1, 2.
        ("bicubic", 4, 2, [[0.546875, 0.3984375, 0.1015625, -0.046875]]),
        # The same kernel, not widened: the outputs lie a quarter before and after input 0.
        ("bicubic", 2, 4, [[1.09375, -0.09375], [0.796875, 0.203125]]),
        # Halfway between pixels: -3/32, 19/32, 19/32, -3/32; pixel -1 is pixel 0.
        ("cubic", 4, 2, [[16 / 32, 19 / 32, -3 / 32, 0]]),
        ("linear", 4, 2, [[0.5, 0.5, 0, 0]]),
        ("linear", 8, 2, [[0, 0.5, 0.5, 0, 0, 0, 0, 0]]),  # not antialiased
        ("linear", 2, 4, [[1, 0], [0.75, 0.25]]),
        ("linear", 3, 2, [[0.75, 0.25, 0]]),
        ("area", 3, 2, [[2 / 3, 1 / 3, 0]]),
        ("area", 6, 2, [[1 / 3, 1 / 3, 1 / 3, 0, 0, 0]]),
        ("area", 5, 2, [[0.4, 0.4, 0.2, 0, 0]]),
        ("area", 2, 3, [[1, 0], [0.5, 0.5]]),  # where it enlarges: not what 'linear' does
        ("area", 2, 4, [[1, 0], [1, 0]]),
    ],
)
def test_weights_by_hand(method, n, m, expected):
    matrix = weights(n, m, method)
    assert matrix.shape == (m, n)
    np.testing.assert_allclose(matrix[: len(expected)], expected, atol=1e-7)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-7)  # left is as right


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n", "m"), [(1, 5), (7, 1), (2, 9), (3, 100), (100, 3), (64, 17), (9, 9)])
def test_weights_sum_to_one_at_any_size(method, n, m):
    np.testing.assert_allclose(weights(n, m, method).sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_size_is_the_same_image(method):
    x = image(7, 12, 3)
    np.testing.assert_array_equal(resize(x, (7, 12), method), x)


def pillow(x, size, filter):
    """One channel in floating point, so that nothing is rounded."""
    return np.asarray(Image.fromarray(x[..., 0]).resize(size[::-1], filter))


@pytest.mark.parametrize(
    ("method", "filter", "size", "border"),
    [
        ("area", Image.Resampling.BOX, (10, 12), 0),  # integer factors
        ("area", Image.Resampling.BOX, (5, 24), 0),
        ("linear", Image.Resampling.BILINEAR, (97, 131), 0),  # enlarged: nothing to antialias
        # Both widen the kernel, but Pillow drops what lies outside of the image.
        ("bicubic", Image.Resampling.BICUBIC, (10, 12), 2),
        ("bicubic", Image.Resampling.BICUBIC, (17, 23), 2),
        ("bicubic", Image.Resampling.BICUBIC, (97, 131), 8),
    ],
)
def test_pillow_agrees_where_the_definitions_do(method, filter, size, border):
    x = image(40, 48, 1)
    ours, theirs = resize(x, size, method)[..., 0], pillow(x, size, filter)
    inside = (slice(border, -border or None),) * 2
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=2e-3)


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("method", ["bicubic", "area"])
def test_a_reduction_by_a_whole_factor_keeps_the_mean(method, factor):
    x = image(40, 56, 3)
    y = resize(x, (40 // factor, 56 // factor), method)
    np.testing.assert_allclose(y.mean(axis=(0, 1)), x.mean(axis=(0, 1)), rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "m"),
    [("bicubic", 15), ("linear", 15), ("area", 15), ("bicubic", 240), ("linear", 240)],
)
def test_nothing_moves(method, m):
    """A ramp of the pixels' centres stays one: (i + 1/2) n / m for output pixel i."""
    ramp = np.broadcast_to((np.arange(60) + 0.5)[None, :, None], (60, 60, 1))
    y = resize(ramp, (5, m), method)[2, :, 0]
    expected, rim = (np.arange(m) + 0.5) * 60 / m, max(2, 2 * m // 60)
    np.testing.assert_allclose(y[rim:-rim], expected[rim:-rim], atol=1e-4)


def test_the_axes_are_height_then_width_and_channels_stay_apart():
    x = np.zeros((4, 6, 2), np.float32)
    x[:2, :, 0] = 1
    x[:, 3:, 1] = 1
    y = resize(x, (2, 2), "area")
    np.testing.assert_allclose(y[..., 0], [[1, 1], [0, 0]], atol=1e-6)
    np.testing.assert_allclose(y[..., 1], [[0, 1], [0, 1]], atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_images(method):
    x = image(2, 3, 12, 16, 3)
    y = resize(x, (5, 9), method)
    assert y.shape == (2, 3, 5, 9, 3)
    for i in np.ndindex(2, 3):
        np.testing.assert_allclose(y[i], resize(x[i], (5, 9), method), atol=1e-4)


def test_uint8_is_rounded_and_clipped():
    x = np.array([-3.0, 0.4, 0.6, 254.4, 254.6, 300.0])
    y = to_uint8(x)
    assert y.dtype == np.uint8 and y.tolist() == [0, 0, 1, 254, 255, 255]
