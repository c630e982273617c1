"""The sampling loop: models whose answer is known, noise that depends on the picture alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.process import target
from ldm_jax.diffusion.schedule import ScheduleConfig, bcast, make_schedule
from ldm_jax.sampling.sample import noise_like, picture_keys, sample
from ldm_jax.sampling.solvers import SOLVERS, ddim_step, ddpm_step
from ldm_jax.sampling.timesteps import uniform_timesteps

SCHEDULE = make_schedule(ScheduleConfig())
SHAPE = (8, 8, 4)


def draw(predict, step, S, n=3, prediction="eps", seed=0, **kwargs):
    """n latents by S steps."""
    keys = picture_keys(seed, jnp.arange(n))
    tau = jnp.asarray(uniform_timesteps(S, 1000))
    run = jax.jit(partial(sample, predict, SCHEDULE, prediction, step, shape=SHAPE, **kwargs))
    return run(tau, keys)


def oracle(z_0, prediction):
    """What a network says that knows z_0."""

    def predict(z_t, t):
        eps = (z_t - bcast(SCHEDULE.alpha(t), z_t) * z_0) / bcast(SCHEDULE.sigma(t), z_t)
        return target(SCHEDULE, prediction, z_0, t, eps)

    return predict


@pytest.mark.parametrize(
    "prediction, S, solver, eta",
    [
        ("eps", 1, "ddim", 0.0),
        ("v", 7, "ddpm", 0.0),
        ("eps", 50, "ddim", 1.0),
        ("z_0", 333, "ddim", 0),
    ],
)
def test_a_model_that_knows_z_0_is_led_there_by_any_number_of_steps(prediction, S, solver, eta):
    z_0 = jnp.asarray(np.random.default_rng(0).normal(size=(3, *SHAPE)), jnp.float32)
    predict = oracle(z_0, prediction)
    out = draw(predict, SOLVERS[solver], S, prediction=prediction, eta=eta)
    np.testing.assert_allclose(out, z_0, atol=1e-3)


MEAN, STD = 1.5, 0.5


def gaussian(z_t, t):
    """The best possible eps for data that are N(MEAN, STD^2): the posterior's expectation."""
    alpha, sigma = bcast(SCHEDULE.alpha(t), z_t), bcast(SCHEDULE.sigma(t), z_t)
    return sigma * (z_t - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)


@pytest.mark.parametrize(
    "solver, S, eta", [("ddim", 200, 0.0), ("ddim", 1000, 0.5), ("ddpm", 1000, 0.0)]
)
def test_gaussian_data_are_drawn_with_their_mean_and_variance(solver, S, eta):
    z_0 = np.asarray(draw(gaussian, SOLVERS[solver], S, n=64, eta=eta))  # 16384 numbers
    assert z_0.mean() == pytest.approx(MEAN, abs=0.02)
    assert z_0.std() == pytest.approx(STD, rel=0.03)
    if eta == 0.0 and solver == "ddim":  # the z_T that a z_0 comes from is no surprise either
        z_T = np.asarray(noise_like(picture_keys(0, jnp.arange(64)), SHAPE))
        assert np.corrcoef(z_T.ravel(), z_0.ravel())[0, 1] > 0.999


def test_a_picture_depends_on_seed_and_number_alone():
    def predict(z_t, t):
        return jnp.tanh(z_t + 0.001 * t[:, None, None, None])

    run = jax.jit(
        lambda keys: sample(
            predict, SCHEDULE, "eps", ddpm_step, jnp.array([999, 500, 20]), keys, SHAPE
        )
    )
    together = run(picture_keys(7, jnp.arange(5)))
    for i in (0, 3):
        np.testing.assert_allclose(run(picture_keys(7, jnp.array([i])))[0], together[i], atol=1e-5)
    backwards = run(picture_keys(7, jnp.arange(5)[::-1]))
    np.testing.assert_allclose(backwards[::-1], together, atol=1e-5)
    other = run(picture_keys(8, jnp.arange(5)))
    assert not np.allclose(other, together)


def test_the_noise_of_pictures_and_steps_is_independent():
    def keep(schedule, denoise, z_t, t, s, noise, eta):
        return noise, z_t  # so the trajectory is z_T, then the noise of each step

    _, z_ts = draw(None, keep, 4, n=4, trajectory=True)
    noise = np.asarray(z_ts).reshape(16, -1)
    assert np.abs(np.corrcoef(noise) - np.eye(16)).max() < 0.3  # five standard deviations
    assert noise.std() == pytest.approx(1.0, abs=0.03)


def test_temperature_scales_the_noise_of_the_steps_and_not_z_T():
    def add(schedule, denoise, z_t, t, s, noise, eta):
        return z_t + noise, z_t

    keys = picture_keys(0, jnp.arange(2))
    tau = jnp.array([0])
    run = jax.jit(
        lambda temperature: sample(
            None, SCHEDULE, "eps", add, tau, keys, SHAPE, temperature=temperature
        )
    )
    z_T = np.asarray(noise_like(keys, SHAPE))
    np.testing.assert_array_equal(run(0.0), z_T)
    np.testing.assert_allclose(run(0.5) - z_T, 0.5 * (run(1.0) - z_T), atol=1e-6)


def test_the_loop_visits_every_step_and_ends_at_clean_data():
    visited = []

    def watch(schedule, denoise, z_t, t, s, noise, eta):
        jax.debug.callback(lambda t, s: visited.append((int(t), int(s))), t, s, ordered=True)
        assert denoise(z_t, t)[0].shape == z_t.shape
        return z_t, z_t

    def predict(z_t, t):
        assert t.shape == (3,) and t.dtype == jnp.int32
        return z_t

    jax.block_until_ready(draw(predict, watch, 3))
    jax.effects_barrier()
    assert visited == [(999, 665), (665, 332), (332, -1)]


def test_a_trajectory_is_the_estimate_of_every_step_and_ends_in_z_0():
    z_0, estimates = draw(gaussian, ddim_step, 5, trajectory=True)
    assert estimates.shape == (5, 3, *SHAPE)
    np.testing.assert_allclose(estimates[-1], z_0, atol=1e-6)
    spread = np.asarray(estimates).std((1, 2, 3, 4))
    assert (np.diff(spread) > 0).all()  # from the mean of all data to one picture
