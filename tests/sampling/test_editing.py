"""Editing: where a walk begins, what is kept, ways between two latents, and the way back up."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.process import target
from ldm_jax.diffusion.schedule import ScheduleConfig, bcast, make_schedule
from ldm_jax.errors import UserError
from ldm_jax.sampling.editing import (
    add_noise,
    composite,
    first_step,
    invert,
    known_cells,
    lerp,
    replace_known,
    slerp,
    with_border,
)
from ldm_jax.sampling.noise import image_keys, noise_like
from ldm_jax.sampling.sample import ReverseProcess, denoiser, sample
from ldm_jax.sampling.solvers import SOLVERS
from ldm_jax.sampling.timesteps import timestep_grid

# Compiling takes longer than computing here.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SCHEDULE = make_schedule(ScheduleConfig())
SHAPE = (4, 4, 3)
MEAN, STD = 1.5, 0.5


def gaussian(z_t, t, schedule=SCHEDULE):
    """The best possible eps for data that are N(MEAN, STD^2)."""
    alpha, sigma = bcast(schedule.alpha(t), z_t), bcast(schedule.sigma(t), z_t)
    return sigma * (z_t - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)


def images(n=3, seed=0):
    """Latents that such data have."""
    normal = np.random.default_rng(seed).normal(size=(n, *SHAPE))
    return jnp.asarray(MEAN + STD * normal, jnp.float32)


@pytest.mark.parametrize(
    "strength, S, walked",
    [(1, 50, 50), (0.6, 50, 30), (0.07, 100, 7), (0.001, 50, 1), (0.5, 1, 1), (0.999, 50, 50)],
)
def test_strength_is_the_share_of_the_steps_that_are_walked_and_one_at_least(strength, S, walked):
    assert S - first_step(strength, S) == walked


@pytest.mark.parametrize("strength", [0, -0.5, 1.01, float("nan")])
def test_other_strengths_are_refused(strength):
    with pytest.raises(UserError, match="strength is .*above 0 .*up to 1"):
        first_step(strength, 50)


def from_image(z_0, strength, S=50, sampler="ddim"):
    """Image to image: the last steps from the noised image."""
    keys, grid = image_keys(0, jnp.arange(len(z_0))), timestep_grid("uniform", S, SCHEDULE)
    first = first_step(strength, S)
    z_t = add_noise(SCHEDULE, z_0, jnp.asarray(grid[first]), keys)
    denoise = denoiser(gaussian, SCHEDULE, "eps")
    process = ReverseProcess(SCHEDULE, SOLVERS[sampler], grid[first:])
    return sample(denoise, process, z_t, keys)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp-2m"])
def test_the_less_strength_the_more_of_the_image_stays(sampler):
    z_0 = images()
    strengths = (0.02, 0.2, 0.9)
    run = jit(partial(from_image, sampler=sampler), static_argnums=1)
    errors = [float(jnp.abs(run(z_0, strength) - z_0).mean()) for strength in strengths]
    assert errors == sorted(errors) and errors[0] < 0.2 < 0.5 < errors[-1], errors


def test_a_noised_image_has_the_noise_of_its_z_T():
    keys, z_0 = image_keys(3, jnp.arange(2)), images(2)
    t = jnp.int32(400)
    z_t = np.asarray(add_noise(SCHEDULE, z_0, t, keys), np.float64)
    alpha_bar = SCHEDULE.alpha_bar[400]
    eps = (z_t - np.sqrt(alpha_bar) * np.asarray(z_0)) / np.sqrt(1 - alpha_bar)
    np.testing.assert_allclose(eps, noise_like(keys, SHAPE), atol=1e-5)


def test_a_latent_is_known_if_all_of_its_pixels_are():
    fill = np.zeros((8, 12), bool)
    fill[3, 4] = fill[4:, 8:] = True
    expected = np.array([[1, 0, 1], [1, 1, 0]], bool)
    np.testing.assert_array_equal(known_cells(fill, 4), expected[..., None])
    np.testing.assert_array_equal(known_cells(fill, 1)[..., 0], ~fill)


def test_known_parts_are_put_in_noised_and_the_rest_is_left_alone():
    z_0, z_t, eps = images(2), images(2, 1), images(2, 2)
    known = np.random.default_rng(0).random((2, 4, 4, 1)) < 0.5
    out = np.asarray(replace_known(SCHEDULE, known, z_0, z_t, jnp.int32(700), eps))
    alpha_bar = SCHEDULE.alpha_bar[700]
    noisy = np.sqrt(alpha_bar) * np.asarray(z_0) + np.sqrt(1 - alpha_bar) * np.asarray(eps)
    where = np.broadcast_to(known, out.shape)
    np.testing.assert_array_equal(out[~where], np.asarray(z_t)[~where])
    np.testing.assert_allclose(out[where], noisy[where], atol=1e-6)


def test_in_painting_continues_what_is_known():
    """All values of an image are the same, but which is unknown: the known half says."""
    z_0 = jnp.array([-2.0, 0.5, 2.0])[:, None, None, None] * jnp.ones((3, *SHAPE))
    known = jnp.arange(4)[None, :, None, None] < 2 * jnp.ones((3, 1, 1, 1))
    known = jnp.broadcast_to(known, (3, 4, 4, 1))
    prior = 2.0**2  # of the one value, whose best estimate from z_t is linear in its mean

    def predict(z_t, t):
        alpha, sigma = bcast(SCHEDULE.alpha(t), z_t), bcast(SCHEDULE.sigma(t), z_t)
        mean, n = z_t.mean((1, 2, 3), keepdims=True), z_t[0].size
        return (z_t - alpha * alpha * prior * mean / (alpha**2 * prior + sigma**2 / n)) / sigma

    keys, grid = image_keys(0, jnp.arange(3)), timestep_grid("uniform", 250, SCHEDULE)

    def blend(z_t, t, keys):
        return replace_known(SCHEDULE, known, z_0, z_t, t, noise_like(keys, SHAPE))

    denoise, z_T = denoiser(predict, SCHEDULE, "eps"), noise_like(keys, SHAPE)
    run = partial(sample, denoise, ReverseProcess(SCHEDULE, SOLVERS["ddpm"], grid))
    drawn, free = (np.asarray(jit(partial(run, blend=b))(z_T, keys)) for b in (blend, None))
    assert np.abs(drawn[:, 2:] - z_0[:, 2:]).max() < 0.5 < np.abs(free - z_0).mean()


def test_composite_keeps_known_pixels_exactly():
    rng = np.random.default_rng(0)
    image, drawn = (rng.integers(0, 256, (n, 6, 8, 3), np.uint8) for n in (1, 5))
    fill = rng.random((6, 8)) < 0.5
    out = composite(fill, drawn, image[0])
    assert out.dtype == np.uint8
    for i in range(5):
        np.testing.assert_array_equal(out[i][~fill], image[0][~fill])
        np.testing.assert_array_equal(out[i][fill], drawn[i][fill])


def test_a_border_is_to_be_filled_and_mirrors_the_image():
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    canvas, fill = with_border(image, 1, 2, 3, 9)
    assert canvas.shape == (8, 17, 3) and fill.shape == (8, 17)
    np.testing.assert_array_equal(canvas[1:5, 9:15], image)
    np.testing.assert_array_equal(canvas[0, 9:15], image[0])
    np.testing.assert_array_equal(canvas[1:5, 15:], image[:, :-3:-1])
    assert not fill[1:5, 9:15].any() and fill.sum() == 8 * 17 - 4 * 6


def restated(a, b, u):
    """The great circle, drawn by an orthonormal basis of the plane of a and b."""
    a, b = np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)
    radius = np.linalg.norm(a)
    e = a / radius
    side = b - (b @ e) * e
    side /= np.linalg.norm(side)
    angle = u * np.arccos(b @ e / np.linalg.norm(b))
    return radius * (np.cos(angle) * e + np.sin(angle) * side)


def test_slerp_goes_along_the_great_circle_at_even_speed():
    a, b = (jax.random.normal(jax.random.key(i), (3, *SHAPE)) for i in (0, 1))
    norm_a, norm_b = (jnp.linalg.norm(x.reshape(3, -1), axis=1) for x in (a, b))
    b = b * bcast(norm_a / norm_b, b)
    for u in (0.0, 0.25, 0.5, 0.9, 1.0):
        out = np.asarray(slerp(a, b, u))
        for i in range(3):
            np.testing.assert_allclose(out[i].ravel(), restated(a[i], b[i], u), atol=1e-5)
            assert np.linalg.norm(out[i]) == pytest.approx(float(jnp.linalg.norm(a[i])), rel=1e-5)
    np.testing.assert_allclose(slerp(a, b, 0.0), a, atol=1e-6)
    np.testing.assert_allclose(slerp(a, b, 1.0), b, atol=1e-6)


@pytest.mark.parametrize("length", [1.0, 3.0])
def test_both_ends_are_met_whatever_their_lengths(length):
    a, b = (jax.random.normal(jax.random.key(i), (2, *SHAPE)) for i in (0, 1))
    for way in (slerp, lerp):
        np.testing.assert_allclose(way(a, length * b, 0.0), a, atol=1e-6)
        np.testing.assert_allclose(way(a, length * b, 1.0), length * b, atol=1e-6)


def test_a_straight_line_loses_the_norm_that_slerp_keeps():
    a, b = (jax.random.normal(jax.random.key(i), (8, 16, 16, 4)) for i in (0, 1))
    assert np.std(lerp(a, b, 0.5)) == pytest.approx(0.5**0.5, rel=0.05)
    assert np.std(slerp(a, b, 0.5)) == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("factor, middle", [(1.0, 1.0), (3.0, 2.0), (-1.0, 0.0)])
def test_where_there_is_no_single_circle_slerp_is_straight(factor, middle):
    a = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    out = slerp(a, factor * a, 0.5)
    np.testing.assert_allclose(out, middle * a, atol=1e-5)


def quantile(z, t, schedule=SCHEDULE):
    """Constant along a solution of the ODE, for Gaussian data."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return (z - alpha * MEAN) / jnp.sqrt(alpha**2 * STD**2 + sigma**2)


def test_inversion_is_of_first_order():
    """Half the step, half the error; float64, and a schedule fine enough for whole timesteps."""
    with jax.enable_x64(True):
        schedule = make_schedule(ScheduleConfig("linear", 16_384, 1e-6, 2e-3))
        predict = partial(gaussian, schedule=schedule)
        z = jnp.linspace(0.0, 3.0, 7).reshape(7, 1, 1, 1)
        run = jit(lambda grid: invert(predict, schedule, "eps", grid, z))
        errors = []
        for S in (256, 512, 1024):
            grid = jnp.linspace(15_360, 2_048, S + 1).astype(int)
            z_T = run(grid)
            error = quantile(z_T, grid[0], schedule) - quantile(z, grid[-1], schedule)
            errors.append(float(jnp.abs(error).max()))
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 1, atol=0.15)
    assert errors[-1] < 3e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    "prediction, spacing", [("eps", "uniform"), ("z_0", "log-snr"), ("v", "compvis")]
)
def test_an_image_comes_back_the_better_the_more_steps_there_are(prediction, spacing):
    z_0 = images()

    def predict(z_t, t):
        eps = gaussian(z_t, t)
        alpha, sigma = bcast(SCHEDULE.alpha(t), z_t), bcast(SCHEDULE.sigma(t), z_t)
        return target(SCHEDULE, prediction, (z_t - sigma * eps) / alpha, t, eps)

    @jit
    def up_and_down(grid):
        z_T = invert(predict, SCHEDULE, prediction, grid, z_0)
        denoise, keys = denoiser(predict, SCHEDULE, prediction), image_keys(0, jnp.arange(3))
        process = ReverseProcess(SCHEDULE, SOLVERS["ddim"], grid)
        again = sample(denoise, process, z_T, keys)
        return jnp.abs(again - z_0).max()

    errors = [float(up_and_down(timestep_grid(spacing, S, SCHEDULE))) for S in (20, 200)]
    assert errors[0] > 5 * errors[1] and errors[1] < 0.1, errors


def test_the_noise_that_is_found_looks_like_noise():
    z_0 = images(64)
    grid = timestep_grid("uniform", 250, SCHEDULE)
    z_T = np.asarray(jit(partial(invert, gaussian, SCHEDULE, "eps"))(grid, z_0))
    assert abs(z_T.mean()) < 0.06 and z_T.std() == pytest.approx(1.0, abs=0.06)


def test_the_network_is_asked_once_a_step_and_never_about_clean_data():
    asked = []

    def predict(z_t, t):
        jax.debug.callback(lambda t: asked.append(t.tolist()), t, ordered=True)
        return z_t

    grid = jnp.array([999, 600, 200, -1])
    jit(partial(invert, predict, SCHEDULE, "eps"))(grid, images(2))
    jax.effects_barrier()
    assert asked == [[0, 0], [200, 200], [600, 600]]
