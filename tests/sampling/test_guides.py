"""What guides: a class by a classifier, an image through the decoder; alone and together."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ldm_jax.autoencoder.perceptual import abstract_params, lpips
from ldm_jax.diffusion.classifier import log_likelihood
from ldm_jax.diffusion.schedule import ScheduleConfig, bcast, make_schedule
from ldm_jax.errors import UserError
from ldm_jax.sampling.guides import Guide, class_log_p, downsample, half_squared_error, image_log_p
from ldm_jax.sampling.inputs import SamplingInputs
from ldm_jax.sampling.sample import Sampler
from ldm_jax.sampling.settings import Geometry, SamplingSettings

SCHEDULE = make_schedule(ScheduleConfig(timesteps=100, beta_end=0.2))
CONSTANTS = {"contrast": jnp.float32(0.5)}
COLOURS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0]], np.float32)
N = 6
CLASSES = np.arange(N) % 4


def model(params):
    """Of latents that are standard normal, whatever is asked; a condition adds some red."""

    def predict(z_t, t, y=None):
        eps = bcast(SCHEDULE.sigma(t), z_t) * z_t
        if y is None:
            return params["is"] * eps
        return eps - 0.1 * y[:, None, None, None] * COLOURS[0][None, None, None]

    return predict


PARAMS = {"is": jnp.float32(1.0)}


def image(constants, z_0):
    return constants["contrast"] * jnp.repeat(jnp.repeat(z_0, 2, 1), 2, 2)


def classifier(weights):
    """It looks at the mean colour, the less the noisier the latent is."""

    def logits(z_t, t):
        return weights["sharpness"] * (1 - t[:, None] / 100) * z_t.mean((1, 2)) @ COLOURS.T

    return logits


BY_CLASS, BY_IMAGE = class_log_p(classifier), image_log_p(image, transform=partial(downsample, n=4))
SHARP = {"sharpness": jnp.float32(3.0)}
AIM = np.random.default_rng(0).uniform(-1, 1, (N, 2, 2, 3)).astype(np.float32)


def towards_class(scale, y=CLASSES):
    return Guide(BY_CLASS, SHARP, y, scale)


def towards_image(scale, y=AIM):
    return Guide(BY_IMAGE, (CONSTANTS, ()), y, scale)


@pytest.fixture(scope="module")
def draw():
    """Six images of an unconditional model, two at a time, or of a conditional one."""
    samplers = {}

    def run(*guides, condition=None, **settings):
        null = None if condition is None else np.int32(0)
        sampler = samplers.setdefault(null is None, Sampler(model, image, SCHEDULE, "eps", null))
        run.compiled_programs = sampler.compiled_programs
        settings = {"steps": 10, "guidance": 1.0, "batch_size": 2} | settings
        inputs = SamplingInputs(N, condition, guides=guides)
        geometry = Geometry(8, 8, (4, 4, 3))
        return sampler(PARAMS, CONSTANTS, inputs, SamplingSettings(**settings), geometry)

    return run


def as_floats(images):
    return images / 127.5 - 1.0


def log_p_of(images, y=CLASSES):
    z_0 = as_floats(images)[:, ::2, ::2] / CONSTANTS["contrast"]
    return np.asarray(log_likelihood(classifier(SHARP)(z_0, np.zeros(N)), y))


def distance_of(images):
    return np.asarray(half_squared_error((), AIM, downsample(as_floats(images), 4)))


def test_scale_0_is_the_unguided_image_to_the_last_bit_and_costs_nothing(draw):
    images, programs = draw(), draw.compiled_programs()
    np.testing.assert_array_equal(draw(towards_class(0.0), towards_image(0.0)), images)
    assert draw.compiled_programs() == programs
    nearly = draw(towards_class(1e-12), towards_image(1e-12))
    np.testing.assert_allclose(nearly.astype(int), images.astype(int), atol=1)


def test_the_larger_the_scale_the_larger_the_classifier_s_log_p(draw):
    log_ps = [log_p_of(draw(towards_class(s))) for s in (0.0, 2.0, 8.0)]
    assert (log_ps[0] < log_ps[1]).all() and (log_ps[1] < log_ps[2]).all()
    away = log_p_of(draw(towards_class(-2.0)))
    assert (away < log_ps[0]).all()


def test_the_larger_the_scale_the_nearer_the_image(draw):
    distances = [distance_of(draw(towards_image(s))) for s in (0.0, 0.3, 3.0)]
    assert (distances[0] > distances[1]).all() and (distances[1] > distances[2]).all()


def test_scales_and_aims_compile_nothing(draw):
    both = partial(draw, towards_image(1.0))
    images, programs = [both(towards_class(2.0))], draw.compiled_programs()
    for guide in (towards_class(3.0), towards_class(2.0, CLASSES[::-1])):
        images.append(both(guide))
    images.append(draw(towards_image(1.5, AIM[::-1]), towards_class(2.0)))
    assert draw.compiled_programs() == programs
    assert len({image.tobytes() for image in images}) == 4


def test_a_guide_leads_each_image_towards_its_own_aim_at_any_batch_size(draw):
    images = draw(towards_class(4.0), towards_image(0.5))
    for size in (3, 6):
        again = draw(towards_class(4.0), towards_image(0.5), batch_size=size)
        np.testing.assert_allclose(again.astype(int), images.astype(int), atol=1)
    other = draw(towards_class(4.0, np.append(CLASSES[:-1], 3)), towards_image(0.5))
    assert [np.array_equal(a, b) for a, b in zip(images, other, strict=True)] == [True] * 5 + [
        False
    ]


def test_a_condition_and_its_guidance_and_a_guide_all_act(draw):
    red = np.ones(N, np.int32)
    ways = {
        "condition": draw(condition=red),
        "guidance": draw(condition=red, guidance=3.0),
        "class": draw(towards_class(4.0), condition=red),
        "all": draw(towards_class(4.0), condition=red, guidance=3.0),
    }
    redness = {name: images[..., 0].mean() for name, images in ways.items()}
    assert redness["condition"] < redness["guidance"] and redness["class"] < redness["all"]
    for asked, led in (("condition", "class"), ("guidance", "all")):
        assert (log_p_of(ways[asked]) < log_p_of(ways[led])).all()


@pytest.mark.parametrize("sampler", ["ddpm", "plms", "dpmpp-2m", "dpmpp-2s", "heun"])
def test_every_solver_is_guided(sampler, draw):
    pair = [draw(*guides, sampler=sampler) for guides in ((), (towards_class(4.0),))]
    assert (log_p_of(pair[0]) < log_p_of(pair[1])).all()


def test_what_a_classifier_says_is_the_log_of_its_softmax():
    z_t, t = np.random.default_rng(1).normal(size=(N, 4, 4, 3)).astype(np.float32), np.arange(N)
    logits = np.asarray(classifier(SHARP)(z_t, t))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = np.log(p[np.arange(N), CLASSES])
    np.testing.assert_allclose(BY_CLASS(SHARP, CLASSES, z_t, t, None), expected, rtol=1e-5)


def test_what_an_image_says_is_half_the_squared_distance():
    """Eq. (17), with the mean of blocks for T."""
    z_0 = np.random.default_rng(1).normal(size=(N, 4, 4, 3)).astype(np.float32)
    log_p = image_log_p(image, transform=partial(downsample, n=4, how="mean"))
    x = 0.5 * z_0.reshape(N, 2, 2, 2, 2, 3).mean(axis=(2, 4))  # D repeats each latent 2 x 2 times
    expected = -0.5 * ((AIM - x) ** 2).sum(axis=(1, 2, 3))
    log_ps = log_p((CONSTANTS, ()), AIM, None, None, z_0)
    np.testing.assert_allclose(log_ps, expected, rtol=1e-5)


def test_lpips_can_stand_in_the_place_of_the_squared_error():
    rng = np.random.default_rng(0)
    weights = jax.tree.map(
        lambda a: np.abs(rng.normal(size=a.shape, scale=0.1)).astype(np.float32),
        abstract_params("squeezenet"),
    )

    def distance(weights, y, x):
        return lpips(weights, "squeezenet", y, x)

    log_p = image_log_p(lambda _, z_0: z_0, distance)
    x = rng.uniform(-1, 1, (2, 18, 18, 3)).astype(np.float32)
    y = x + np.array([0.0, 0.3], np.float32)[:, None, None, None]

    @jax.jit
    def value_and_gradient(x):
        value, pull = jax.vjp(lambda z_0: log_p(((), weights), y, None, None, z_0), x)
        return value, pull(jnp.ones(2))[0]

    value, gradient = value_and_gradient(x)
    assert abs(value[0]) < 1e-8 and value[1] < -1e-4
    nearer, _ = value_and_gradient(x + 1e-2 * gradient / np.abs(gradient).max())
    assert value[1] < nearer[1] < 0


@pytest.mark.parametrize("n", [2, 4, 8])
def test_downsampling_is_pillow_s_bicubic(n):
    x = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3)).astype(np.uint8)
    small = (48 // n, 32 // n)
    ours = np.asarray(downsample(jnp.asarray(x, jnp.float32), n))
    theirs = [
        np.asarray(Image.fromarray(image).resize(small, Image.Resampling.BICUBIC)) for image in x
    ]
    np.testing.assert_allclose(np.clip(ours, 0, 255), np.stack(theirs), atol=1.01)


def test_downsampling_by_1_is_the_image_and_the_mean_is_the_mean():
    x = np.random.default_rng(0).normal(size=(2, 6, 4, 1)).astype(np.float32)
    for how in ("bicubic", "mean"):
        np.testing.assert_allclose(downsample(x, 1, how), x, atol=1e-6)
    np.testing.assert_allclose(downsample(x, 2, "mean")[1, 2, 0], x[1, 4:6, 0:2].mean((0, 1)))


@pytest.mark.parametrize("n", [0, 4])
def test_an_image_that_does_not_divide_is_refused(n):
    with pytest.raises(UserError, match=f"6x4 pixels cannot be downsampled {n}-fold"):
        downsample(np.zeros((1, 6, 4, 3), np.float32), n)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_that_is_no_number_is_refused(scale):
    with pytest.raises(UserError, match=f"the scale of a guide is {scale}; it is a finite number"):
        towards_class(scale)
