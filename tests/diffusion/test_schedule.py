"""The noise schedules: the reference's betas, alpha and sigma, clean data at step -1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.schedule import ScheduleConfig, bcast, make_schedule
from ldm_jax.errors import UserError

CONFIGS = {
    "linear_0.0015_0.0195": ScheduleConfig(),  # the original's "linear" is our sqrt-linear
    "linear_0.0015_0.0155": ScheduleConfig(beta_end=0.0155),
    "linear_0.0015_0.0205": ScheduleConfig(beta_end=0.0205),
    "linear_0.0015_0.015": ScheduleConfig(beta_end=0.015),
    "linear_0.00085_0.012": ScheduleConfig(beta_start=0.00085, beta_end=0.012),
    "cosine": ScheduleConfig("cosine"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_betas_equal_the_reference(name, golden):
    schedule = make_schedule(CONFIGS[name])
    assert schedule.beta.dtype == schedule.alpha_bar.dtype == np.float64
    np.testing.assert_allclose(schedule.beta, golden[f"schedule/{name}/betas"], rtol=1e-9)


@pytest.mark.parametrize(
    "name, middle, last",
    [
        ("linear_0.0015_0.0195", 0.1158444908, 0.0001423039752),
        ("linear_0.0015_0.0155", 0.1510774233, 0.0006686651737),
        ("linear_0.00085_0.012", 0.2776696505, 0.004660098513),
    ],
)
def test_alpha_bar_equals_the_reference(name, middle, last):
    alpha_bar = make_schedule(CONFIGS[name]).alpha_bar
    np.testing.assert_allclose(alpha_bar[[499, 999]], [middle, last], rtol=1e-9)


def test_linear_is_linear_in_beta_itself():
    """DDPM's schedule (Ho et al., Sec. 4), whose alpha_bar_T is known."""
    schedule = make_schedule(ScheduleConfig("linear", 1000, 1e-4, 0.02))
    np.testing.assert_allclose(np.diff(schedule.beta), 0.0199 / 999, rtol=1e-9)
    np.testing.assert_allclose(
        schedule.alpha_bar[[499, 999]], [0.078587242881, 4.035829765e-05], rtol=1e-8
    )


@pytest.mark.parametrize("kind", ["sqrt-linear", "linear", "cosine"])
@pytest.mark.parametrize("T", [1, 7, 1000])
def test_signal_falls_noise_rises_and_their_squares_add_up_to_one(kind, T):
    schedule = make_schedule(ScheduleConfig(kind, T))
    assert schedule.timesteps == T
    t = jnp.arange(-1, T)
    alpha, sigma = np.asarray(schedule.alpha(t)), np.asarray(schedule.sigma(t))
    assert alpha.dtype == sigma.dtype == np.float32
    assert (alpha[0], sigma[0]) == (1.0, 0.0)  # step -1 is clean data
    assert (np.diff(alpha) < 0).all() and (np.diff(sigma) >= 0).all()
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=1e-6)
    np.testing.assert_allclose(alpha[1:] ** 2, np.cumprod(1 - schedule.beta), rtol=1e-5)
    snr = np.asarray(schedule.snr(t[1:]))
    np.testing.assert_allclose(snr, schedule.alpha_bar / (1 - schedule.alpha_bar), rtol=1e-5)


def test_tables_are_looked_up_in_the_shape_of_t():
    schedule = make_schedule(ScheduleConfig())
    t = jnp.array([[0, 5], [-1, 999]])
    assert schedule.alpha(t).shape == (2, 2)
    assert schedule.sigma(t)[1, 0] == 0.0
    assert schedule.alpha(jnp.int32(5)) == schedule.alpha(t)[0, 1]


@pytest.mark.parametrize("kind", ["sqrt-linear", "cosine"])
def test_fractional_steps_continue_the_whole_ones(kind):
    schedule = make_schedule(ScheduleConfig(kind))
    t = jnp.arange(-1, 1000)
    for look_up in (schedule.alpha, schedule.sigma):
        fractional = look_up(t.astype(jnp.float32))
        assert fractional.dtype == jnp.float32 and fractional.shape == t.shape
        np.testing.assert_allclose(fractional, look_up(t), rtol=1e-6)


def test_log_alpha_is_linear_between_whole_steps():
    schedule = make_schedule(ScheduleConfig())
    t, w = np.array([[-1], [0], [499], [998]]), np.array([[0.25, 0.5, 0.9]])
    log_alpha = 0.5 * np.log(np.append(1.0, schedule.alpha_bar))
    expected = np.exp((1 - w) * log_alpha[t + 1] + w * log_alpha[t + 2])
    np.testing.assert_allclose(schedule.alpha(jnp.asarray(t + w)), expected, rtol=1e-6)
    np.testing.assert_allclose(schedule.sigma(jnp.asarray(t + w)), (1 - expected**2) ** 0.5, 1e-6)


@pytest.mark.parametrize("kind", ["sqrt-linear", "cosine"])
def test_timestep_inverts_the_signal_to_noise_ratio(kind):
    schedule = make_schedule(ScheduleConfig(kind))
    t = jnp.asarray(np.random.default_rng(0).uniform(0, 999, 100), jnp.float32)
    half_log_snr = schedule.half_log_snr(t)
    np.testing.assert_allclose(2 * half_log_snr, np.log(schedule.snr(t)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(schedule.timestep(half_log_snr), t, atol=2e-3)
    assert schedule.half_log_snr(jnp.int32(-1)) == jnp.inf and schedule.timestep(jnp.inf) == -1


def test_tables_are_float64_where_jax_is():
    schedule = make_schedule(ScheduleConfig())
    with jax.enable_x64(True):
        t = jnp.array([0, 500, 999])
        for times in (t, t.astype(float)):
            alpha_bar = schedule.alpha(times) ** 2
            assert alpha_bar.dtype == jnp.float64
            np.testing.assert_allclose(alpha_bar, schedule.alpha_bar[t], rtol=1e-12)


def test_bcast_lines_up_examples():
    z = jnp.ones((3, 2, 4, 1))
    assert (bcast(jnp.arange(3.0), z) * z)[:, 1, 3, 0].tolist() == [0.0, 1.0, 2.0]
    assert bcast(jnp.float32(2.0), z).shape == (1, 1, 1, 1)


@pytest.mark.parametrize(
    "config, said",
    [
        (ScheduleConfig(timesteps=0), "timesteps is 0"),
        (ScheduleConfig(beta_start=0.0), "0.0, 0.0195"),
        (ScheduleConfig(beta_start=0.03), "0.03, 0.0195"),
        (ScheduleConfig(beta_end=1.0), "0.0015, 1.0"),
    ],
)
def test_an_impossible_schedule_is_refused_with_its_values(config, said):
    with pytest.raises(UserError, match=said):
        make_schedule(config)


@pytest.mark.parametrize("kind", ["sqrt-linear", "linear", "cosine"])
def test_zero_terminal_snr_shifts_and_scales_alpha_to_0(kind):
    """Lin et al., arXiv:2305.08891, Algorithm 1; alpha between the ends keeps its proportions."""
    before = np.sqrt(make_schedule(ScheduleConfig(kind)).alpha_bar)
    schedule = make_schedule(ScheduleConfig(kind, zero_terminal_snr=True))
    alpha = np.sqrt(schedule.alpha_bar)
    assert schedule.has_zero_snr and alpha[-1] == 0 and schedule.beta[-1] == 1
    np.testing.assert_allclose(alpha[0], before[0], rtol=1e-12)
    share = (before - before[-1]) / (before[0] - before[-1])
    np.testing.assert_allclose(alpha / alpha[0], share, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.cumprod(1 - schedule.beta), schedule.alpha_bar, rtol=1e-9)
    t = jnp.array([0, 998, 999])
    assert np.isfinite(schedule.alpha(t)).all() and schedule.sigma(t)[-1] == 1
    assert not make_schedule(ScheduleConfig(kind)).has_zero_snr
    assert make_schedule(ScheduleConfig(kind, 1, zero_terminal_snr=True)).alpha_bar == [0]
