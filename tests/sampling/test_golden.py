"""The published code's samplers, from z_T to the end, by the real loop.

Its toy network is eps = 0.5 z_t + 0.1 t/1000 + c with c = (.05, -.02), a number an image; guided
(cfg3, s = 3), its unconditional counterpart has c = (0, .01). Without guidance c = 0.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.schedule import ScheduleConfig, make_schedule
from ldm_jax.sampling.editing import replace_known
from ldm_jax.sampling.noise import image_keys
from ldm_jax.sampling.sample import ReverseProcess, denoiser, sample
from ldm_jax.sampling.solvers import SOLVERS
from ldm_jax.sampling.timesteps import timestep_grid

# Compiling takes longer than computing here.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SCHEDULE = make_schedule(ScheduleConfig())
C, C_NULL = (jnp.array(c)[:, None, None, None] for c in ([0.05, -0.02], [0.0, 0.01]))


def toy(z_t, t, c=0.0):
    return 0.5 * z_t + (0.1 * t / 1000)[:, None, None, None] + c


def toy_cfg3(z_t, t):
    return toy(z_t, t, C_NULL) + 3 * (toy(z_t, t, C) - toy(z_t, t, C_NULL))


def error(golden, name, sampler, spacing, S, predict=toy, blend=None):
    """How far the sampler is from the reference, relative to its norm."""
    denoise = denoiser(predict, SCHEDULE, "eps")
    grid = jnp.asarray(timestep_grid(spacing, S, SCHEDULE))
    z_T = golden["sampler/x_T"].transpose(0, 2, 3, 1)
    keys = image_keys(0, jnp.arange(2))

    @jit
    def run(grid, z_T):
        process = ReverseProcess(SCHEDULE, SOLVERS[sampler], grid)
        return sample(denoise, process, z_T, keys, blend=blend)

    z_0 = run(grid, z_T)
    expected = golden[f"sampler/{name}"].transpose(0, 2, 3, 1)
    return np.linalg.norm(z_0 - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("S", [10, 50])
@pytest.mark.parametrize("sampler", ["ddim", "plms"])
@pytest.mark.parametrize("guided", [False, True])
def test_ddim_and_plms_equal_the_reference(sampler, guided, S, golden):
    name, predict = ("_cfg3", toy_cfg3) if guided else ("", toy)
    assert error(golden, f"{sampler}{name}_{S}", sampler, "compvis", S, predict) < 1e-5


@pytest.mark.parametrize("S", [8, 20])
def test_dpm_solver_equals_the_reference(S, golden):
    """8 steps end with one of first order, 20 do not."""
    name = f"dpmpp2m_cfg3_{S}"
    assert error(golden, name, "dpmpp-2m", "compvis-dpm", S, toy_cfg3) < 1e-5


def test_in_painting_equals_the_reference(golden):
    """All but the middle is known, and is put in before each step; here without noise."""
    known = np.cos(0.31 * np.arange(96) + 2).reshape(2, 3, 4, 4).transpose(0, 2, 3, 1)
    known = jnp.asarray(known, jnp.float32)
    mask = np.ones((1, 4, 4, 1), np.float32)
    mask[:, 1:3, 1:3] = 0.0

    def blend(z_t, t, keys):
        return replace_known(SCHEDULE, mask == 1, known, z_t, t, eps=jnp.zeros_like(known))

    assert error(golden, "ddim_inpaint_10", "ddim", "compvis", 10, blend=blend) < 1e-5
