"""The simple loss, Eqs. (1)-(3): against NumPy with models whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ldm_jax.diffusion.loss import draw_timesteps, ldm_loss
from ldm_jax.diffusion.schedule import ScheduleConfig, make_schedule

SCHEDULE = make_schedule(ScheduleConfig())
Z_0 = np.random.default_rng(0).normal(size=(64, 3, 2, 4)).astype(np.float32)
KEY = jax.random.key(0)


def watched(prediction, answer, key=KEY, schedule=SCHEDULE, z_0=Z_0, **norm):
    """The losses, and the z_t and t that the model was shown."""
    shown = []

    def model(z_t, t):
        shown.append((np.asarray(z_t), np.asarray(t)))
        return answer(z_t, t)

    loss, t = ldm_loss(model, schedule, prediction, z_0, key, **norm)
    ((z_t, t_shown),) = shown
    np.testing.assert_array_equal(t, t_shown)
    return np.asarray(loss), z_t, t_shown


def alpha_sigma(t):
    alpha_bar = SCHEDULE.alpha_bar[t].reshape(-1, 1, 1, 1)
    return np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)


@pytest.mark.parametrize(
    "norm, size", [({}, np.square), ({"loss_norm": "l2"}, np.square), ({"loss_norm": "l1"}, np.abs)]
)
@pytest.mark.parametrize("prediction", ["eps", "z_0", "v"])
def test_loss_is_the_mean_size_of_the_error_about_what_is_predicted(prediction, norm, size):
    loss, z_t, t = watched(
        prediction, lambda z_t, t: 0.3 * z_t + t[:, None, None, None] / 1000, **norm
    )
    alpha, sigma = alpha_sigma(t)
    eps = (z_t - alpha * Z_0) / sigma  # the noise that must have been drawn
    wanted = {"eps": eps, "z_0": Z_0, "v": alpha * eps - sigma * Z_0}[prediction]
    error = 0.3 * z_t + t.reshape(-1, 1, 1, 1) / 1000 - wanted
    np.testing.assert_allclose(loss, size(error).mean((1, 2, 3)), rtol=1e-3)


def test_the_noise_is_standard_normal_and_the_times_are_spread_evenly():
    z_0 = np.zeros((7000, 1, 2, 2), np.float32)
    schedule = make_schedule(ScheduleConfig(timesteps=7))
    _, z_t, t = watched("eps", lambda z_t, t: z_t, schedule=schedule, z_0=z_0)
    eps = z_t / np.sqrt(1 - schedule.alpha_bar)[t].reshape(-1, 1, 1, 1)
    assert abs(eps.mean()) < 0.02 and abs(eps.std() - 1) < 0.02
    assert abs(np.corrcoef(eps.reshape(7000, 4).T)[0, 1:]).max() < 0.05
    counts = np.bincount(t, minlength=7)
    assert len(counts) == 7 and abs(counts - 1000).max() < 150  # five standard deviations


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("prediction", ["eps", "z_0", "v"])
def test_min_snr_weighs_the_error_that_a_prediction_makes_in_z_0(prediction, norm):
    """By min(SNR, 5); the absolute error by its root. Each prediction is taken to z_0 for that."""
    out = np.random.default_rng(1).normal(size=Z_0.shape)
    loss, z_t, t = watched(
        prediction, lambda z_t, t: jnp.float32(out), loss_norm=norm, min_snr_gamma=5.0
    )
    alpha, sigma = alpha_sigma(t)
    z_0 = {"eps": (z_t - sigma * out) / alpha, "z_0": out, "v": alpha * z_t - sigma * out}
    snr = (alpha / sigma) ** 2
    error = np.sqrt(np.minimum(snr, 5.0)) * np.abs(z_0[prediction] - Z_0)
    assert (snr > 5).any() and (snr < 5).any()
    expected = np.mean(error**2 if norm == "l2" else error, axis=(1, 2, 3))
    np.testing.assert_allclose(loss, expected, rtol=2e-3)


@pytest.mark.parametrize("beta_end", [0.0195, 0.012])
def test_logit_normal_noise_levels_are_standard_normal_in_any_schedule(beta_end):
    schedule = make_schedule(ScheduleConfig(beta_end=beta_end))
    t = np.asarray(draw_timesteps(schedule, "logit-normal", KEY, 20_000))
    assert (t.dtype, t.shape) == (np.int32, (20_000,))
    alpha_bar = schedule.alpha_bar[t]
    level = 0.5 * np.log((1 - alpha_bar) / alpha_bar)  # log(sigma / alpha)
    assert scipy.stats.kstest(level, "norm").statistic < 0.02  # t is rounded


def test_timesteps_of_any_density_are_steps_of_the_schedule():
    """Also of one that has only steps of little noise, or one step, or no SNR at its end."""
    for config in (
        ScheduleConfig(timesteps=10, beta_end=0.002),
        ScheduleConfig(timesteps=1, beta_start=0.9999, beta_end=0.9999),
        ScheduleConfig(timesteps=3, zero_terminal_snr=True),
    ):
        t = np.asarray(draw_timesteps(make_schedule(config), "logit-normal", KEY, 1000))
        assert t.min() >= 0 and t.max() < config.timesteps


def test_the_density_is_that_of_the_loss():
    z_0 = np.zeros((2000, 1, 1, 1), np.float32)
    _, _, t = watched("v", lambda z_t, t: z_t, z_0=z_0, density="logit-normal")
    drawn = draw_timesteps(SCHEDULE, "logit-normal", jax.random.split(KEY)[0], 2000)
    np.testing.assert_array_equal(t, drawn)


def test_a_model_that_knows_z_0_has_no_loss():
    def oracle(z_t, t):
        alpha, sigma = alpha_sigma(np.asarray(t))
        return jnp.asarray((z_t - alpha * Z_0) / sigma, jnp.float32)

    assert watched("eps", oracle)[0].max() < 1e-6


def test_another_key_draws_other_noise_and_times():
    first, again, other = (watched("eps", lambda z_t, t: z_t, jax.random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.allclose(first[1], other[1]) and not np.array_equal(first[2], other[2])
