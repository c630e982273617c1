"""The forward process and the three predictions, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.process import eps_and_z0, q_sample, target
from ldm_jax.diffusion.schedule import ScheduleConfig, make_schedule

SCHEDULE = make_schedule(ScheduleConfig())
T_ALL = np.array([0, 1, 20, 250, 500, 998, 999])
RNG = np.random.default_rng(0)
Z_0, EPS = RNG.normal(size=(2, len(T_ALL), 4, 3, 2)).astype(np.float32)
ALPHA = np.sqrt(SCHEDULE.alpha_bar)[T_ALL].reshape(-1, 1, 1, 1)
SIGMA = np.sqrt(1 - SCHEDULE.alpha_bar)[T_ALL].reshape(-1, 1, 1, 1)
T = jnp.asarray(T_ALL)
PREDICTIONS = ("eps", "z_0", "v")


def test_q_sample_is_equation_4_of_appendix_b():
    """q(z_t | z_0) = N(alpha_t z_0, sigma_t^2 I)."""
    z_t = q_sample(SCHEDULE, Z_0, T, EPS)
    np.testing.assert_allclose(z_t, ALPHA * Z_0 + SIGMA * EPS, rtol=1e-5, atol=1e-6)


def test_one_step_at_a_time_reaches_the_same_distribution():
    """The product of the steps q(z_t | z_{t-1}) = N(sqrt(1 - beta_t) z_{t-1}, beta_t)."""
    mean, variance = 1.0, 0.0
    for t, beta in enumerate(SCHEDULE.beta):
        mean, variance = np.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        if t in (0, 500, 999):
            np.testing.assert_allclose(SCHEDULE.alpha(jnp.int32(t)), mean, rtol=1e-5)
            np.testing.assert_allclose(SCHEDULE.sigma(jnp.int32(t)) ** 2, variance, rtol=1e-5)


def test_targets():
    expected = {"eps": EPS, "z_0": Z_0, "v": ALPHA * EPS - SIGMA * Z_0}
    for prediction in PREDICTIONS:
        out = target(SCHEDULE, prediction, Z_0, T, EPS)
        np.testing.assert_allclose(out, expected[prediction], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_right_prediction_gives_back_eps_and_z_0(prediction):
    z_t = q_sample(SCHEDULE, Z_0, T, EPS)
    out = target(SCHEDULE, prediction, Z_0, T, EPS)
    eps, z_0 = eps_and_z0(SCHEDULE, prediction, out, z_t, T)
    # A rounding of z_t is 1/alpha_t times as large in z_0, 1/sigma_t times in eps.
    assert np.all(np.abs(eps - EPS) < 1e-6 / SIGMA)
    assert np.all(np.abs(z_0 - Z_0) < 1e-6 / ALPHA)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_wrong_prediction_still_adds_up_to_z_t(prediction):
    """Eq. (14) and its inverse: z_t = alpha_t z_0 + sigma_t eps, whatever the network says."""
    z_t, out = RNG.normal(size=(2, *Z_0.shape)).astype(np.float32)
    eps, z_0 = eps_and_z0(SCHEDULE, prediction, out, z_t, T)
    np.testing.assert_allclose(ALPHA * z_0 + SIGMA * eps, z_t, atol=1e-4)


def test_eps_becomes_z_0_by_equation_14_of_appendix_b():
    z_t = RNG.normal(size=Z_0.shape).astype(np.float32)
    eps, z_0 = eps_and_z0(SCHEDULE, "eps", EPS, z_t, T)
    np.testing.assert_array_equal(eps, EPS)
    np.testing.assert_allclose(z_0, (z_t - SIGMA * EPS) / ALPHA, rtol=1e-4, atol=1e-4)


def test_t_may_be_traced():
    z_t = q_sample(SCHEDULE, Z_0, T, EPS)
    traced = jax.jit(lambda t: q_sample(SCHEDULE, Z_0, t, EPS))(T)
    np.testing.assert_allclose(traced, z_t, rtol=1e-6, atol=1e-6)
