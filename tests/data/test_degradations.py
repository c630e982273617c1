"""Degradations: each step against its definition, the plan's chances, and the whole."""

from collections import Counter

import numpy as np
import pytest

from ldm_jax.data.degradations import (
    Blur,
    Decimate,
    Jpeg,
    Noise,
    Resize,
    bicubic,
    bsrgan,
    convolve,
    degrade,
    gaussian,
    plan,
    upscale,
)
from ldm_jax.data.scenes import ScenesConfig, ScenesSource
from ldm_jax.errors import UserError

rng = np.random.default_rng


def image(*shape, seed=0):
    return rng(seed).integers(0, 256, shape, np.uint8)


def psnr(x, y):
    return 10 * np.log10(255**2 / np.mean((x.astype(float) - y) ** 2))


@pytest.fixture(scope="module")
def scenes():
    return ScenesSource(ScenesConfig(64, "full", count=8)).read(np.arange(8))["image"]


# Bicubic


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("shape", [(32, 32, 3), (16, 40, 1), (2, 3, 24, 8, 3)])
def test_bicubic_keeps_a_constant_image_and_gives_the_size(factor, shape):
    *batch, height, width, channels = shape
    for value in (0, 1, 128, 254, 255):
        x = np.full(shape, value, np.uint8)
        down, up = bicubic(x, factor), upscale(x, factor)
        assert down.dtype == up.dtype == np.uint8
        assert down.shape == (*batch, height // factor, width // factor, channels)
        assert up.shape == (*batch, height * factor, width * factor, channels)
        assert (down == value).all() and (up == value).all()


def test_bicubic_of_a_batch_is_that_of_its_images():
    x = image(4, 16, 24, 3)
    np.testing.assert_array_equal(bicubic(x, 4), np.stack([bicubic(one, 4) for one in x]))


def test_bicubic_overshoots_are_clipped_not_wrapped():
    x = np.zeros((32, 32, 1), np.uint8)
    x[:, 14:] = 255
    row = bicubic(x, 2)[0, :, 0].astype(int)
    assert (row[:6] == 0).all() and (row[9:] == 255).all() and (np.diff(row) >= 0).all()


def test_an_enlarged_image_reduced_is_the_image(scenes):
    """Only roughly: neither kernel is ideal. A shift of half a pixel would cost 10 dB."""
    assert psnr(bicubic(upscale(scenes, 4), 4), scenes) > 35


# Steps


def directly(x, kernel):
    """The sum that a convolution is: y[i] = sum_j k[j] x[i + n // 2 - j], x mirrored."""
    n, (height, width, _) = len(kernel), x.shape
    around = ((n, n), (n, n), (0, 0))
    padded, y = np.pad(x.astype(float), around, "reflect"), np.zeros(x.shape)
    for a in range(n):
        for b in range(n):
            top, left = n + n // 2 - a, n + n // 2 - b
            y += kernel[a, b] * padded[top : top + height, left : left + width]
    return y


@pytest.mark.parametrize("n", [1, 4, 7, 25])
def test_convolve_is_the_sum(n):
    x, kernel = image(30, 37, 3).astype(np.float32), rng(1).random((n, n))
    kernel = (kernel / kernel.sum()).astype(np.float32)
    y = convolve(x, kernel)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, directly(x, kernel), atol=2e-3)


def test_convolve_takes_images_smaller_than_the_kernel():
    kernel = gaussian(25, 4 * np.eye(2))
    for shape in [(4, 2, 3), (1, 1, 1)]:
        y = convolve(np.full(shape, 7, np.float32), kernel)
        assert y.shape == shape
        np.testing.assert_allclose(y, 7, rtol=1e-5)


@pytest.mark.parametrize("size", [25, 24])
def test_a_gaussian_has_its_covariance(size):
    covariance = np.array([[4.0, 1.5], [1.5, 2.0]])
    kernel, at = gaussian(size, covariance).astype(float), np.arange(size) - (size - 1) / 2
    assert kernel.sum() == pytest.approx(1)
    x, y = np.meshgrid(at, at)
    moments = [[(kernel * a * b).sum() for b in (x, y)] for a in (x, y)]
    np.testing.assert_allclose(moments, covariance, rtol=1e-3)


def test_the_narrowest_gaussian_is_a_point():
    assert gaussian(7, 1e-8 * np.eye(2))[3, 3] == 1
    np.testing.assert_allclose(gaussian(6, 1e-8 * np.eye(2))[2:4, 2:4], 0.25)
    x = image(9, 9, 3).astype(np.float32)
    np.testing.assert_allclose(Blur(7, (0.0, 0.0))(x), x, atol=1e-3)


def test_a_blur_lies_along_its_first_axis():
    point = np.zeros((31, 31, 1), np.float32)
    point[15, 15] = 1

    def spread(theta):
        y = Blur(25, (6.0, 0.5), theta)(point)[..., 0]
        down, across = np.mgrid[-15:16, -15:16]
        return [(y * across**2).sum(), (y * down**2).sum(), (y * across * down).sum()]

    np.testing.assert_allclose(spread(0.0), [6, 0.5, 0], atol=0.06)
    np.testing.assert_allclose(spread(np.pi / 2), [0.5, 6, 0], atol=0.06)
    np.testing.assert_allclose(spread(np.pi / 4), [3.25, 3.25, 2.75], atol=0.06)  # to lower right


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_decimation_does_not_move_the_image(factor):
    """A ramp's pixels are seen at the centres of the blocks that they stand for."""
    ramp = np.broadcast_to(np.arange(96, dtype=np.float32)[None, :, None], (96, 96, 1))
    y = Decimate(factor, 1.0)(ramp)
    assert y.shape == (96 // factor, 96 // factor, 1)
    rim = 24 // factor  # as far as the border reaches
    inside = slice(rim, -rim)
    expected = (np.arange(96 // factor) + 0.5) * factor - 0.5
    np.testing.assert_allclose(y[3, inside, 0], expected[inside], atol=1e-3)
    np.testing.assert_allclose(
        Decimate(factor, 1.0)(ramp.transpose(1, 0, 2)), y.transpose(1, 0, 2), atol=1e-3
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_noise_has_its_covariance(seed):
    root = rng(seed).normal(size=(3, 3))
    covariance = 100 * root @ root.T
    noise = Noise("correlated", tuple(map(tuple, covariance)), seed)
    x = np.full((200, 200, 3), 90, np.float32)
    found = (noise(x) - x).reshape(-1, 3)
    error = np.cov(found.T) - covariance
    assert np.abs(error).max() < 0.03 * np.trace(covariance)
    np.testing.assert_array_equal(noise(x), noise(x))
    # A grey image's noise is that of the first channel.
    np.testing.assert_allclose(noise(x[..., :1]), noise(x)[..., :1], rtol=1e-6)


def test_grey_noise_is_the_same_in_all_channels():
    noise = Noise("grey", ((25.0,) * 3,) * 3, 0)(np.zeros((100, 100, 3), np.float32))
    np.testing.assert_allclose(noise, np.repeat(noise[..., :1], 3, axis=-1), atol=1e-4)
    assert noise.std() == pytest.approx(5, rel=0.03)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_loses_more_at_lower_quality(scenes, channels):
    x = scenes[0][..., :channels].astype(np.float32)
    found = [psnr(x, Jpeg(quality)(x)) for quality in (30, 60, 95)]
    assert 20 < found[0] < found[1] < found[2]
    assert Jpeg(30)(x).shape == x.shape


# The plan

DRAWS = 4000


@pytest.fixture(scope="module", params=[False, True], ids=["full", "light"])
def plans(request):
    generator = rng(0)
    return request.param, [plan((64, 96), 4, generator, request.param) for _ in range(DRAWS)]


def within(count, draws, probability):
    """Whether a count is within 5 standard deviations of what a binomial law expects."""
    return abs(count - draws * probability) < 5 * (draws * probability * (1 - probability)) ** 0.5


def of_kind(steps, kind):
    return [step for step in steps if isinstance(step, kind)]


def halved(steps):
    return isinstance(steps[0], Resize) and steps[0].size == (32, 48) and len(sizes(steps)) == 3


def sizes(steps):
    """Every change of size, a decimation as its factor."""
    return [getattr(s, "size", None) or s.factor for s in steps if isinstance(s, Resize | Decimate)]


def last_place(steps, kind):
    return max(i for i, step in enumerate(steps) if isinstance(step, kind))


def test_every_plan_ends_with_the_size_and_jpeg(plans):
    light, drawn = plans
    for steps in drawn:
        assert isinstance(steps[-1], Jpeg)
        assert sizes(steps)[-1] == (16, 24)
        assert len(of_kind(steps, Blur)) == (1 if light else 2)
        assert len(of_kind(steps, Noise)) == 1
        assert len(of_kind(steps, Jpeg)) in (1, 2)
        assert len(sizes(steps)) == (3 if halved(steps) else 2)


def test_the_chances_are_those_of_the_table(plans):
    light, drawn = plans
    halves = [steps for steps in drawn if halved(steps)]
    assert within(len(halves), DRAWS, 0.25)
    methods = Counter(steps[0].method for steps in halves)
    assert within(methods["bicubic"], len(halves), 0.5)
    for method in ("linear", "cubic", "area"):
        assert within(methods[method], len(halves), 1 / 6)

    decimated = sum(bool(of_kind(steps, Decimate)) for steps in drawn)
    assert within(decimated, DRAWS, 0.2 if light else 0.25)
    last = Counter(of_kind(steps, Resize)[-1].method for steps in drawn)
    assert all(within(last[method], DRAWS, 1 / 3) for method in ("linear", "cubic", "area"))

    kinds = Counter(of_kind(steps, Noise)[0].kind for steps in drawn)
    for kind, probability in (("colour", 0.4), ("grey", 0.4), ("correlated", 0.2)):
        assert within(kinds[kind], DRAWS, probability)
    assert within(sum(len(of_kind(steps, Jpeg)) == 2 for steps in drawn), DRAWS, 0.9)
    blurs = [blur for steps in drawn for blur in of_kind(steps, Blur)]
    round_ones = sum(blur.variances[0] == blur.variances[1] for blur in blurs)
    assert within(round_ones, len(blurs), 0.5)


def test_the_order_is_random(plans):
    light, drawn = plans
    drawn = [steps for steps in drawn if len(of_kind(steps, Jpeg)) == 2]
    middles = [steps[1 if halved(steps) else 0 : -1] for steps in drawn]
    count = 5 if light else 6
    for kind in (Noise, Jpeg):
        places = Counter(last_place(steps, kind) for steps in middles)
        assert sum(places.values()) == len(middles) and len(places) == count
        assert all(within(n, len(middles), 1 / count) for n in places.values())
    # The target size comes last of two among `count` steps: never first.
    places = Counter(last_place(steps, Resize) for steps in middles)
    assert places[0] == 0
    for place in range(1, count):
        assert within(places[place], len(middles), place / (count * (count - 1) / 2))


def test_the_ranges_are_those_of_the_table(plans):
    """With factor 4 (halved images follow): the widths are 4 + f and 2 + f / 5."""
    light, drawn = plans
    ranges = {False: (8.0, 2.8, range(30, 96)), True: (2.0, 0.7, range(80, 96))}
    widest, roundest, qualities = ranges[light]
    oval, level, first = set(), set(), []
    rounds, variances, deviations, sigmas, thetas = set(), [], [], [], []
    for steps in drawn:
        if halved(steps):
            continue
        for blur in of_kind(steps, Blur):
            if blur.variances[0] == blur.variances[1]:
                rounds.add(blur.size)
                deviations.append(blur.variances[0] ** 0.5)
            else:
                oval.add(blur.size)
                variances += blur.variances
                thetas.append(blur.theta)
        noise = of_kind(steps, Noise)[0]
        if noise.kind != "correlated":
            level.add(noise.covariance[0][0] ** 0.5)
        if of_kind(steps, Decimate):
            sigmas.append(of_kind(steps, Decimate)[0].sigma)
        else:
            first.append(sizes(steps)[0])
    assert {jpeg.quality for steps in drawn for jpeg in of_kind(steps, Jpeg)} == set(qualities)
    assert oval == (set(range(5, 15)) if light else set(range(7, 26, 2)))
    assert rounds == ({5, 6, 7} if light else set(range(7, 26, 2)))
    assert level == (set(range(1, 3)) if light else set(range(2, 26)))
    assert 0.95 * widest < max(variances) <= widest and min(variances) < 0.05 * widest
    assert 0.95 * roundest < max(deviations) <= roundest and min(deviations) < 0.05 * roundest
    assert 0 <= min(thetas) < 0.1 and np.pi - 0.1 < max(thetas) < np.pi
    assert 0.1 <= min(sigmas) < 0.2 and 2.2 < max(sigmas) <= 2.4
    heights = [height for height, _ in first]
    assert min(heights) == 64 // 8 and 60 < max(heights) <= 64
    assert max(abs(width / height - 1.5) for height, width in first) < 0.2


def test_a_halved_image_follows_factor_two(plans):
    light, drawn = plans
    drawn = [steps for steps in drawn if halved(steps)]
    share = 0.25 if light else 1
    blurs = [blur for steps in drawn for blur in of_kind(steps, Blur)]
    oval = [blur.variances for blur in blurs if blur.variances[0] != blur.variances[1]]
    deviation = [b.variances[0] ** 0.5 for b in blurs if b.variances[0] == b.variances[1]]
    assert 0.95 * 6 * share < np.max(oval) <= 6 * share
    assert 0.95 * 2.4 * share < max(deviation) <= 2.4 * share
    decimations = [step for steps in drawn for step in of_kind(steps, Decimate)]
    assert {step.factor for step in decimations} == {2}
    assert 1.1 < max(step.sigma for step in decimations) <= 1.2
    heights = [sizes(steps)[1][0] for steps in drawn if not of_kind(steps, Decimate)]
    assert min(heights) == 32 // 4 and 30 < max(heights) <= 32


def test_correlated_noise_is_of_the_greatest_level_times_a_share(plans):
    light, drawn = plans
    level = 2 if light else 25
    correlated = [of_kind(s, Noise)[0] for s in drawn if of_kind(s, Noise)[0].kind == "correlated"]
    covariance = np.array([noise.covariance for noise in correlated])
    assert (covariance >= 0).all()
    # Eigenvalues of uniform shares: their sum has the mean 3/2 and the variance 3/12.
    trace = np.trace(covariance, axis1=1, axis2=2) / level**2
    assert abs(trace.mean() - 1.5) < 5 * (0.25 / len(trace)) ** 0.5
    assert np.linalg.eigvalsh(covariance).min() > -1e-9 * level**2


def test_only_factor_four_halves_first():
    for factor in (2, 3, 8):
        generator = rng(0)
        drawn = [plan((48, 48), factor, generator) for _ in range(200)]
        assert all(len(sizes(steps)) == 2 for steps in drawn)
        assert all(sizes(steps)[-1] == (48 // factor,) * 2 for steps in drawn)


# The whole


@pytest.mark.parametrize("kind", ["bicubic", "bsrgan", "bsrgan-light"])
@pytest.mark.parametrize(
    ("shape", "factor"),
    [((32, 32, 3), 2), ((40, 24, 3), 4), ((16, 48, 1), 8), ((9, 15, 3), 3), ((4, 8, 1), 4)],
)
def test_sizes_kinds_and_grey(kind, shape, factor):
    for seed in range(6):
        y = degrade(kind, image(*shape), factor, rng(seed))
        assert y.shape == (shape[0] // factor, shape[1] // factor, shape[2])
        assert y.dtype == np.uint8


@pytest.mark.parametrize("light", [False, True])
def test_the_seed_decides(scenes, light):
    x = scenes[0].copy()
    one, again, other = (bsrgan(x, 4, rng(seed), light) for seed in (3, 3, 4))
    assert one.tobytes() == again.tobytes() and (one != other).any()
    np.testing.assert_array_equal(x, scenes[0])  # the image itself is left alone


def test_an_image_is_degraded_as_planned():
    """Patches in black and white, so that clipping after each step counts."""
    image = 255 * rng(0).integers(0, 2, (4, 4, 3), np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    for seed in range(10):
        x = image.astype(np.float32)
        for step in plan((64, 64), 4, rng(seed)):
            x = step(x).clip(0, 255)
        np.testing.assert_array_equal(bsrgan(image, 4, rng(seed)), np.rint(x))


def test_light_degrades_less(scenes):
    """Against the antialiased reduction, over 8 scenes with 4 draws each."""
    found = {
        kind: np.mean(
            [
                psnr(degrade(kind, x, 4, rng(10 * i + j)), bicubic(x, 4))
                for i, x in enumerate(scenes)
                for j in range(4)
            ]
        )
        for kind in ("bsrgan", "bsrgan-light")
    }
    assert 15 < found["bsrgan"] < found["bsrgan-light"] - 2 and found["bsrgan-light"] < 40


def test_a_poor_image_still_shows_the_same_thing(scenes):
    """Nothing is moved or turned: it is most like its own scene."""
    small = bicubic(scenes, 4).astype(float)
    for i, x in enumerate(scenes):
        y = bsrgan(x, 4, rng(i))
        alike = [np.corrcoef(one.ravel(), y.ravel())[0, 1] for one in small]
        assert np.argmax(alike) == i


@pytest.mark.parametrize(
    ("kind", "shape", "factor", "words"),
    [
        ("bicubic", (30, 32, 3), 4, "multiples of the factor 4, got 30 x 32"),
        ("bsrgan", (32, 30, 3), 4, "multiples of the factor 4, got 32 x 30"),
        ("bsrgan-light", (32, 32, 3), 1, "at least 2, got 1"),
        ("bicubic", (32, 32, 3), 0, "at least 2, got 0"),
        ("bicubic", (32, 32), 2, r"uint8 \[height, width, channels\], got uint8 of"),
        ("bsrgan", (2, 32, 32, 3), 2, r"got the shape \(2, 32, 32, 3\)"),
        ("bsrgan", (32, 32, 4), 2, r"got the shape \(32, 32, 4\)"),
        ("lanczos", (32, 32, 3), 2, "one of bicubic, bsrgan, bsrgan-light, got 'lanczos'"),
    ],
)
def test_what_cannot_be_degraded_is_refused(kind, shape, factor, words):
    with pytest.raises(UserError, match=words):
        degrade(kind, image(*shape), factor, rng(0))


def test_images_in_floating_point_and_no_enlargement_are_refused():
    with pytest.raises(UserError, match="uint8"):
        bicubic(np.zeros((8, 8, 3), np.float32), 2)
    with pytest.raises(UserError, match="at least 2"):
        upscale(image(8, 8, 3), 1)
