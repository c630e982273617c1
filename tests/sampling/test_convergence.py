"""Deterministic solvers approach the solution of the ODE, at the order that theory gives them.

For Gaussian data the best possible eps is known, and so is the solution: z_t keeps its quantile,
(z_t - alpha_t mean) / sqrt(alpha_t^2 std^2 + sigma_t^2) is constant. float64, for small errors.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.schedule import ScheduleConfig, bcast, make_schedule
from ldm_jax.sampling.noise import image_keys
from ldm_jax.sampling.sample import denoiser, sample
from ldm_jax.sampling.solvers import SOLVERS

# Compiling takes longer than computing here.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
MEAN, STD = 1.5, 0.5
# So many timesteps that the grids below are equally spaced whole ones; alpha_bar_T is e^-16.
SCHEDULE = make_schedule(ScheduleConfig("linear", 16_384, 1e-6, 2e-3))
FIRST, LAST = 15_360, 2_048
ORDERS = {"ddim": 1, "euler": 1, "dpmpp-1": 1, "heun": 2, "dpmpp-2s": 2, "dpmpp-2m": 2, "plms": 2}


def gaussian(z_t, t):
    alpha, sigma = bcast(SCHEDULE.alpha(t), z_t), bcast(SCHEDULE.sigma(t), z_t)
    return sigma * (z_t - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)


def quantile(z, t):
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    return (z - alpha * MEAN) / jnp.sqrt(alpha**2 * STD**2 + sigma**2)


def errors(sampler, grids):
    """The largest error over several images, for each grid: `[grids]`."""
    z_T = jnp.linspace(-2, 2, 5).reshape(5, 1, 1, 1)
    keys = image_keys(0, jnp.arange(5))

    @jit
    def error(grid):
        denoise = denoiser(gaussian, SCHEDULE, "eps")
        z = sample(denoise, SCHEDULE, SOLVERS[sampler], grid, z_T, keys)
        return jnp.abs(quantile(z, grid[-1]) - quantile(z_T, grid[0])).max()

    out = np.array([error(grid) for grid in grids])
    assert out.dtype == np.float64
    return out


@pytest.mark.parametrize("sampler", ORDERS)
def test_half_the_step_divides_the_error_by_two_to_the_order(sampler):
    with jax.enable_x64(True):
        grids = [jnp.linspace(FIRST, LAST, S + 1).astype(int) for S in (256, 512, 1024)]
        error = errors(sampler, grids)
    measured = np.log2(error[:-1] / error[1:])
    np.testing.assert_allclose(measured, ORDERS[sampler], atol=0.15)
    assert error[-1] < (3e-3 if ORDERS[sampler] == 1 else 2e-5)


def test_plms_is_of_higher_order_on_the_grid_its_weights_are_for():
    """Equal steps in sigma/alpha: the fourth, but for the first few steps."""
    with jax.enable_x64(True):
        ends = SCHEDULE.half_log_snr(jnp.array([8_192, LAST]))
        grids = [
            SCHEDULE.timestep(-jnp.log(jnp.linspace(*jnp.exp(-ends), S + 1))) for S in (32, 64, 128)
        ]
        error = errors("plms", grids)
    assert (np.log2(error[:-1] / error[1:]) > 3).all(), error


def test_every_deterministic_solver_is_measured():
    assert set(SOLVERS) - set(ORDERS) == {"ddpm"}
