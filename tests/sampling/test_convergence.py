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
from ldm_jax.sampling.sample import ReverseProcess, denoiser, sample
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
        z = sample(denoise, ReverseProcess(SCHEDULE, SOLVERS[sampler], grid), z_T, keys)
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


WEAK_ORDERS = {"ddpm": 1, "euler-a": 1, "dpmpp-2m-sde": 2, "dpmpp-sde": 2}


def variance(sampler, grid):
    """That of z at grid[-1], exactly: z is a sum of z_T and all noise, each of variance 1.

    An image for z_T and one for each noise, in which all else is 0, give the factors.
    """
    solver, steps = SOLVERS[sampler], len(grid) - 1
    n = solver.noises
    noise = np.zeros((steps, 1 + steps * n, n))
    for i, j in np.ndindex(steps, n):
        noise[i, 1 + i * n + j, j] = 1
    noise = noise.reshape(steps, -1, *(() if n == 1 else (n,)), 1, 1, 1)
    z_T = np.zeros((noise.shape[1], 1, 1, 1))
    z_T[0] = jnp.hypot(SCHEDULE.alpha(grid[0]) * STD, SCHEDULE.sigma(grid[0]))

    def eps(z_t, t):  # of data with mean 0
        return gaussian(z_t + bcast(SCHEDULE.alpha(t), z_t) * MEAN, t)

    denoise = denoiser(eps, SCHEDULE, "eps")

    def body(carry, now):
        (z_t, memory), (t, s, noise) = carry, now
        more = () if memory is None else (memory,)
        z_s, _, *memory = solver.step(SCHEDULE, denoise, z_t, t, s, noise, 0.0, *more)
        return (z_s, memory[0] if memory else None), None

    @jit
    def run(grid, z_T):
        start = (z_T, solver.memory and solver.memory(z_T, grid))
        return jax.lax.scan(body, start, (grid[:-1], grid[1:], noise))[0][0]

    return float(jnp.sum(run(grid, jnp.asarray(z_T)) ** 2))


@pytest.mark.parametrize("sampler", WEAK_ORDERS)
def test_stochastic_solvers_approach_the_variance_of_the_data_at_their_order(sampler):
    with jax.enable_x64(True):
        true = float((SCHEDULE.alpha(LAST) * STD) ** 2 + SCHEDULE.sigma(LAST) ** 2)
        ends = SCHEDULE.half_log_snr(jnp.array([FIRST, LAST]))
        grids = [SCHEDULE.timestep(jnp.linspace(*ends, S + 1)) for S in (32, 64)]
        errors = [variance(sampler, grid) - true for grid in grids]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(WEAK_ORDERS[sampler], abs=0.15)


def test_every_solver_is_measured():
    assert {name for name in SOLVERS if SOLVERS[name].stochastic} == set(WEAK_ORDERS)
    assert {name for name in SOLVERS if not SOLVERS[name].stochastic} == set(ORDERS)
