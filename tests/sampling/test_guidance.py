"""Guidance: classifier-free, its formula, scale 1, one call; by any log p, a case that is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.process import eps_and_z0
from ldm_jax.diffusion.schedule import ScheduleConfig, bcast, make_schedule
from ldm_jax.sampling.guidance import classifier_free_guided, classifier_guided, guided
from ldm_jax.sampling.noise import image_keys, noise_like
from ldm_jax.sampling.sample import ReverseProcess, denoiser, sample
from ldm_jax.sampling.solvers import SOLVERS
from ldm_jax.sampling.timesteps import timestep_grid

# Compiling takes longer than computing here.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
Z_T = np.random.default_rng(0).normal(size=(3, 2, 2, 1)).astype(np.float32)
T = jnp.array([5, 5, 5])
Y, NULL = jnp.array([[1, 2], [3, 4], [5, 6]]), jnp.array([0, 9])


def model(z_t, t, y):
    """Some function of all three, image by image."""
    weight = (y[:, 0] + 0.1 * y[:, 1] + t)[:, None, None, None]
    return jnp.tanh(z_t * weight)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, -2.0])
def test_guided_goes_from_the_null_prediction_towards_the_conditional_one(scale):
    e_y, e_null = model(Z_T, T, Y), model(Z_T, T, jnp.tile(NULL, (3, 1)))
    expected = e_null + scale * (e_y - e_null)
    np.testing.assert_allclose(
        classifier_free_guided(model, Y, NULL, scale)(Z_T, T), expected, atol=1e-5
    )


def test_scale_1_is_the_conditional_model_and_0_the_unconditional_one():
    np.testing.assert_allclose(
        classifier_free_guided(model, Y, NULL, 1.0)(Z_T, T), model(Z_T, T, Y), atol=1e-6
    )
    unconditional = model(Z_T, T, jnp.tile(NULL, (3, 1)))
    np.testing.assert_allclose(
        classifier_free_guided(model, Y, NULL, 0.0)(Z_T, T), unconditional, atol=1e-6
    )


def test_the_model_is_called_once_on_twice_the_batch():
    calls = []

    def watch(z_t, t, y):
        calls.append((z_t.shape, t.shape, y.shape))
        return model(z_t, t, y)

    classifier_free_guided(watch, Y, NULL, 3.0)(Z_T, T)
    assert calls == [((6, 2, 2, 1), (6,), (6, 2))]


def test_each_image_may_be_led_away_from_a_condition_of_its_own():
    away_from = jnp.array([[9, 1], [8, 2], [7, 3]])
    e_y, e_away = model(Z_T, T, Y), model(Z_T, T, away_from)
    out = classifier_free_guided(model, Y, away_from, 3.0)(Z_T, T)
    np.testing.assert_allclose(out, e_away + 3 * (e_y - e_away), atol=1e-5)


@pytest.mark.parametrize("rescale", [0.0, 0.7, 1.0])
def test_rescaling_gives_each_image_the_contrast_of_the_conditional_prediction(rescale):
    """Lin et al., arXiv:2305.08891, Eqs. 14 to 16, in NumPy."""
    e_y, e_null = np.random.default_rng(1).normal(size=(2, 3, 4, 4, 2))
    cfg = e_null + 5.0 * (e_y - e_null)
    axes = (1, 2, 3)
    scaled = cfg * e_y.std(axes, keepdims=True) / cfg.std(axes, keepdims=True)
    expected = rescale * scaled + (1 - rescale) * cfg
    out = np.asarray(guided(jnp.asarray(e_y), jnp.asarray(e_null), 5.0, rescale))
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    if rescale == 1:
        np.testing.assert_allclose(out.std(axes), e_y.std(axes), rtol=1e-4)
    flat = jnp.ones((1, 2, 2, 1))  # no contrast to scale
    assert np.isfinite(guided(flat, flat, 5.0, rescale)).all()


def test_the_null_class_is_a_scalar():
    def label_model(z_t, t, y):
        return z_t + y[:, None, None, None]

    out = classifier_free_guided(label_model, jnp.array([1, 2, 3]), np.int32(10), 2.0)(Z_T, T)
    shift = jnp.array([-8.0, -6.0, -4.0])[:, None, None, None]  # 10 + 2 (y - 10)
    np.testing.assert_allclose(out, Z_T + shift, atol=1e-5)


# Eq. (16) where everything is known: z_0 is standard normal in four dimensions, so z_t is too, and
# y = A z_0 + r n. Given z_t, z_0 is N(alpha_t z_t, sigma_t^2) and y is normal as well.
SCHEDULE = make_schedule(ScheduleConfig())
A = np.array([[1.0, 0.5, 0.0, -1.0], [0.0, 1.0, 2.0, 0.3]], np.float32)
R, AIM = 0.5, np.array([1.5, -2.0], np.float32)
GAIN = A.T @ np.linalg.inv(A @ A.T + R**2 * np.eye(2))
POSTERIOR_MEAN, POSTERIOR_COV = GAIN @ AIM, np.eye(4) - GAIN @ A


def eps_of_a_standard_normal(z_t, t):
    return bcast(SCHEDULE.sigma(t), z_t) * z_t


def log_normal(residual, sigma):
    cov = sigma**2 * A @ A.T + R**2 * jnp.eye(2)
    return -0.5 * residual @ jnp.linalg.solve(cov, residual)


def by_z_t(z_t, t, z_0):
    """log p(y|z_t) up to what does not depend on z_t."""
    residual = AIM[None] - bcast(SCHEDULE.alpha(t), z_t[:, 0, 0]) * (z_t[:, 0, 0] @ A.T)
    return jax.vmap(log_normal)(residual, SCHEDULE.sigma(t))


def by_z_0(z_t, t, z_0):
    """The same, said of the estimate that the network makes: alpha_t z_t."""
    return jax.vmap(log_normal)(AIM[None] - z_0[:, 0, 0] @ A.T, SCHEDULE.sigma(t))


denoise = denoiser(eps_of_a_standard_normal, SCHEDULE, "eps")


@partial(jit, static_argnames=("log_p", "sampler"))
def walk(z_T, grid, keys, log_p, sampler):
    by_log_p = classifier_guided(denoise, SCHEDULE, log_p)
    return sample(by_log_p, ReverseProcess(SCHEDULE, SOLVERS[sampler], grid), z_T, keys)[:, 0, 0]


def led_to(z_T):
    """Where the probability flow of p(z_t|y) ends: z_t given y is normal, and all its covariances
    have the same axes, along which a deviation from the mean grows as the standard deviation does.
    """
    alpha = np.sqrt(SCHEDULE.alpha_bar[-1])
    variances, axes = np.linalg.eigh(POSTERIOR_COV)
    growth = np.sqrt(variances / (alpha**2 * variances + 1 - alpha**2))
    return POSTERIOR_MEAN + (z_T - alpha * POSTERIOR_MEAN) @ (axes * growth) @ axes.T


@pytest.mark.parametrize("log_p", [by_z_t, by_z_0])
@pytest.mark.parametrize(
    "sampler, spacing, steps, error",
    [
        ("ddim", "uniform", 200, 0.04),
        ("plms", "quadratic", 80, 0.01),
        ("dpmpp-2m", "log-snr", 80, 0.01),
        ("heun", "log-snr", 40, 0.01),
    ],
)
def test_guided_sampling_ends_where_it_ought_to_as_steps_grow(
    log_p, sampler, spacing, steps, error
):
    z_T = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    errors = []
    for n in (steps // 10, steps):
        grid, keys = timestep_grid(spacing, n, SCHEDULE), image_keys(0, jnp.arange(16))
        z_0 = np.asarray(walk(z_T[:, None, None], grid, keys, log_p, sampler))
        errors.append(np.abs(z_0 - led_to(z_T)).max())
    assert errors[1] < error and errors[1] < errors[0] / 3


@pytest.mark.parametrize("steps", [1, 7])
def test_the_posterior_mean_is_reached_in_any_number_of_steps(steps):
    """From the mean of z_T given y, which the way to z_0 is straight from."""
    z_T = (np.sqrt(SCHEDULE.alpha_bar[-1]) * POSTERIOR_MEAN).reshape(1, 1, 1, 4)
    grid, keys = timestep_grid("uniform", steps, SCHEDULE), image_keys(0, jnp.arange(1))
    [z_0] = np.asarray(walk(z_T.astype(np.float32), grid, keys, by_z_t, "ddim"))
    np.testing.assert_allclose(z_0, POSTERIOR_MEAN, atol=1e-5)


def test_with_noise_in_every_step_samples_have_the_posterior_s_mean_and_covariance():
    keys, grid = image_keys(0, jnp.arange(2048)), timestep_grid("uniform", 500, SCHEDULE)
    z_0 = np.asarray(walk(noise_like(keys, (1, 1, 4)), grid, keys, by_z_t, "ddpm"))
    np.testing.assert_allclose(z_0.mean(axis=0), POSTERIOR_MEAN, atol=0.06)
    np.testing.assert_allclose(np.cov(z_0.T), POSTERIOR_COV, atol=0.08)


@pytest.mark.parametrize("t", [0, 300, 999])
@pytest.mark.parametrize("s", [0.0, 1.0, 2.5])
def test_eps_is_bent_against_the_gradient_and_z_0_follows(s, t):
    """Eq. (16) with the minus sign: the gradient by hand, for log p = y . z_t."""
    z_t, y = jnp.asarray(Z_T), np.array([1.0, -2.0, 3.0])[:, None, None, None]

    def log_p(z_t, t, z_0):
        return s * jnp.sum(y * z_t, axis=(1, 2, 3))

    eps, z_0 = classifier_guided(denoise, SCHEDULE, log_p)(z_t, jnp.int32(t))
    sigma = np.sqrt(1 - SCHEDULE.alpha_bar[t])
    np.testing.assert_allclose(eps, sigma * Z_T - sigma * s * y, rtol=1e-4, atol=1e-5)
    again, _ = eps_and_z0(SCHEDULE, "z_0", z_0, z_t, jnp.int32(t))
    np.testing.assert_allclose(eps, again, rtol=1e-3, atol=1e-3)


def test_the_network_has_a_backward_pass_only_if_its_estimate_is_looked_at():
    @jax.custom_vjp
    def network(z_t):
        return 0.1 * z_t

    def backward(_, pull):
        raise ZeroDivisionError

    network.defvjp(lambda z_t: (network(z_t), None), backward)

    def run(log_p):
        def denoise(z_t, t):
            return eps_and_z0(SCHEDULE, "eps", network(z_t), z_t, t)

        return classifier_guided(denoise, SCHEDULE, log_p)(jnp.asarray(Z_T), jnp.int32(500))

    run(lambda z_t, t, z_0: -jnp.sum(z_t**2, axis=(1, 2, 3)))
    with pytest.raises(ZeroDivisionError):
        run(lambda z_t, t, z_0: -jnp.sum(z_0**2, axis=(1, 2, 3)))
