"""The exercises of notebook 8 agree with the library."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.course import solvers
from ldm_jax.diffusion.schedule import ScheduleConfig, make_schedule
from ldm_jax.sampling.single_step import ddim_step, heun_step

SCHEDULE = make_schedule(ScheduleConfig())


def librarys(z_t, eps_hat, t, s, eta, noise):
    z_0 = (z_t - SCHEDULE.sigma(t) * eps_hat) / SCHEDULE.alpha(t)
    return ddim_step(SCHEDULE, lambda z, t: (eps_hat, z_0), z_t, t, s, noise, eta)[0]


def test_the_right_ddim_step_is_the_librarys():
    assert solvers.ddim_step(librarys).state == "right"


def test_the_right_ddim_step_takes_fractional_timesteps():
    rng = np.random.default_rng(0)
    z_t, eps_hat, noise = rng.normal(size=(3, 4, 2))
    arguments = z_t, eps_hat, np.float32(99.5), np.float32(50.25), 0.5, noise
    right = solvers.ddim_step.right(*arguments)
    np.testing.assert_allclose(right, librarys(*arguments), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("hint", solvers.ddim_step.mistakes)
def test_each_mistake_is_told_by_its_own_hint(hint):
    outcome = solvers.ddim_step(solvers.ddim_step.mistakes[hint])
    assert (outcome.state, outcome.message) == ("wrong", hint)


def test_the_predicted_order_is_that_of_the_librarys_heun():
    """From t = 900 to clean data, for a normal distribution of mean 1.5 and deviation 0.5."""
    start = np.linspace(-2, 2, 5).reshape(-1, 1)

    def variance(t):
        return 0.25 * SCHEDULE.alpha(t) ** 2 + SCHEDULE.sigma(t) ** 2

    def denoise(z_t, t):
        alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        eps = sigma * (z_t - 1.5 * alpha) / variance(t)
        return eps, (z_t - sigma * eps) / alpha

    def error(steps):
        z, grid = jnp.asarray(start), np.linspace(900, -1, steps + 1).astype(np.float32)
        for t, s in zip(grid[:-1], grid[1:], strict=True):
            z, _ = heun_step(SCHEDULE, denoise, z, t, s, None, 0.0)
        place = (start - 1.5 * SCHEDULE.alpha(grid[0])) / np.sqrt(variance(grid[0]))
        return np.abs((z - 1.5) / 0.5 - place).max()

    order = np.log2(error(25) / error(50))
    assert solvers.order_at_the_end(order).state == "right"
