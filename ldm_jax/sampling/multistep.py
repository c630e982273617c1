"""Solvers that learn from their earlier steps instead of asking the network more often.

Their steps are those of `single_step` with one more argument and one more result, what they
remember; each has a function (z_T, grid) -> memory for the start.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.process import q_sample
from ldm_jax.diffusion.schedule import Schedule, bcast
from ldm_jax.sampling.single_step import (
    Denoise,
    evaluate_twice,
    exponential_step,
    posterior_step,
)

Array = jax.Array

# Weights of eps and of the three before it, by how many of those there are: Adams-Bashforth. In the
# first step the mean of the eps of both its ends stands in for eps.
ADAMS_BASHFORTH = np.array(
    [
        [1, 0, 0, 0],
        np.array([3, -1, 0, 0]) / 2,
        np.array([23, -16, 5, 0]) / 12,
        np.array([55, -59, 37, -9]) / 24,
    ]
)


class PastEps(NamedTuple):
    """The eps of the last three steps, newest first `[3, B, h, w, c]`, and how many there were."""

    eps: Array
    steps: Array


def plms_memory(z_T: Array, grid: Array) -> PastEps:
    """Nothing yet."""
    del grid
    return PastEps(jnp.zeros((3, *z_T.shape), z_T.dtype), jnp.int32(0))


def plms_step(
    schedule: Schedule,
    denoise: Denoise,
    z_t: Array,
    t: Array,
    s: Array,
    noise: Array,
    eta: Array,
    past: PastEps,
) -> tuple[Array, Array, PastEps]:
    """PLMS (Liu et al., arXiv:2202.09778): Adams and Bashforth's mean of up to four eps is held.

    The network is asked twice in the first step, once in all others. The weights are those of equal
    steps in sigma/alpha, but steps are equal in t: it is of second order, not fourth. noise and eta
    do nothing.
    """
    del noise, eta
    (eps, _), (eps_s, _) = evaluate_twice(
        denoise,
        z_t,
        t,
        lambda eps, z_0: (q_sample(schedule, z_0, s, eps), s),
        needed=(past.steps == 0) & (s >= 0),
    )
    weights = jnp.asarray(ADAMS_BASHFORTH, eps.dtype)[jnp.minimum(past.steps, 3)]
    mean = weights[0] * (eps + eps_s) / 2 + jnp.sum(bcast(weights[1:], past.eps) * past.eps, axis=0)
    past = PastEps(jnp.concatenate([eps[None], past.eps[:2]]), past.steps + 1)
    return *exponential_step(schedule, "eps", mean, z_t, t, s), past


class PastZ0(NamedTuple):
    """The z_0 of the last step and its timestep; the timestep of the last step, if it is to be
    of first order whatever it leads to."""

    z_0: Array
    t: Array
    first_order_at: Array


def dpmpp_2m_memory(z_T: Array, grid: Array) -> PastZ0:
    """Nothing yet: the step from grid[0] to itself would have no length."""
    # The published solver's rule (`lower_order_final`): few steps are long, and a long last step
    # does not bear extrapolation.
    last = grid[-2] if len(grid) - 1 < 15 else jnp.full_like(grid[0], -1)
    return PastZ0(jnp.zeros_like(z_T), grid[0], last)


def dpmpp_2m_step(
    schedule: Schedule,
    denoise: Denoise,
    z_t: Array,
    t: Array,
    s: Array,
    noise: Array,
    eta: Array,
    past: PastZ0,
) -> tuple[Array, Array, PastZ0]:
    """DPM-Solver++(2M) (Lu et al., arXiv:2211.01095, Algorithm 2).

    Held is z_0 in the middle of the step, extrapolated from those of t and of the step before,
    linearly in lambda = log(alpha/sigma). Second order, one evaluation a step. The z_0 of t is held
    in the first step, in one to clean data, where lambda is infinite, and in the last of fewer than
    15. noise and eta do nothing.
    """
    del noise, eta
    _, z_0 = denoise(z_t, t)
    middle = _in_the_middle(schedule, z_0, t, s, past)
    return *exponential_step(schedule, "z_0", middle, z_t, t, s), past._replace(z_0=z_0, t=t)


def dpmpp_2m_sde_step(
    schedule: Schedule,
    denoise: Denoise,
    z_t: Array,
    t: Array,
    s: Array,
    noise: Array,
    eta: Array,
    past: PastZ0,
) -> tuple[Array, Array, PastZ0]:
    """SDE-DPM-Solver++(2M) (Lu et al., arXiv:2211.01095; k-diffusion's "DPM++ 2M SDE", midpoint).

    `ddpm_step` with the z_0 of `dpmpp_2m_step`: the one in the middle, extrapolated. eta does
    nothing.
    """
    del eta
    _, z_0 = denoise(z_t, t)
    middle = _in_the_middle(schedule, z_0, t, s, past)
    z_s = posterior_step(schedule, middle, z_t, t, s, noise)
    return z_s, middle, past._replace(z_0=z_0, t=t)


def _in_the_middle(schedule: Schedule, z_0: Array, t: Array, s: Array, past: PastZ0) -> Array:
    """z_0 in the middle between t and s, on the line through it at t and at the step before."""
    now = schedule.half_log_snr(t)
    ratio = (schedule.half_log_snr(s) - now) / (now - schedule.half_log_snr(past.t))
    second_order = (past.t > t) & (s >= 0) & (t != past.first_order_at)
    return z_0 + jnp.where(second_order, ratio / 2, 0.0) * (z_0 - past.z_0)
