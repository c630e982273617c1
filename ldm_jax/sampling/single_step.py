"""Solvers whose step z_t -> z_s, s < t, needs nothing from the steps before. s = -1 is clean data.

A step is a pure function (schedule, denoise, z_t, t, s, noise, eta) -> (z_s, z_0), where
denoise(z_t, t) -> (eps, z_0) hides what the network predicts, its condition and the guidance, and
the z_0 of the result is the estimate that the step moved towards. t and s are scalars, whole or
fractional, everything else is `[B, h, w, c]` in float32; all of them may be traced. A solver that
needs new noise twice in a step gets it as `[B, 2, h, w, c]`.

Without new noise, time runs backwards along the solution of an ordinary differential equation,
d(z/alpha) / d(sigma/alpha) = eps(z, t) (DDIM, arXiv:2010.02502, Eq. 14). Its solvers differ only in
the eps, or z_0, that they keep constant over a step; all share `exponential_step`. With the noise
of ancestral sampling they share `posterior_step`: the same for a stochastic differential equation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from ldm_jax.diffusion.process import Prediction, eps_and_z0, q_sample
from ldm_jax.diffusion.schedule import Schedule

Array = jax.Array
Denoise = Callable[[Array, Array], tuple[Array, Array]]


def exponential_step(
    schedule: Schedule, what: Prediction, constant: Array, z_t: Array, t: Array, s: Array
) -> tuple[Array, Array]:
    """(z_s, z_0): where the ODE leads from z_t if eps, or z_0, is `constant` all the way.

    If one of the two is, so is the other: z/alpha = z_0 + (sigma/alpha) eps is a straight line.
    """
    eps, z_0 = eps_and_z0(schedule, what, constant, z_t, t)
    return q_sample(schedule, z_0, s, eps), z_0


def evaluate_twice(
    denoise: Denoise,
    z_t: Array,
    t: Array,
    then: Callable[[Array, Array], tuple[Array, Array]],
    needed: Array,
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """(eps, z_0) at (z_t, t), and at a second point (z_u, u) = `then`(eps, z_0).

    Where the second is not `needed`, a traced bool, it costs nothing and is the first once more.
    A loop of one or two rounds has the network in the program once; with a `cond` around a second
    call it would be traced, and compiled, twice.
    """

    def evaluate(i, carry):
        z_u, u, first, _ = carry
        latest = denoise(z_u, u)
        first = jax.tree.map(partial(jnp.where, i == 0), latest, first)
        return *then(*first), first, latest

    nothing = (jnp.zeros_like(z_t), jnp.zeros_like(z_t))
    rounds = jnp.where(needed, 2, 1)
    return jax.lax.fori_loop(0, rounds, evaluate, (z_t, t, nothing, nothing))[2:]


def posterior_step(
    schedule: Schedule,
    z_0: Array,
    z_t: Array,
    t: Array,
    s: Array,
    noise: Array,
    v: Array | float = 0.0,
) -> Array:
    """z_s, a sample of the posterior q(z_s | z_t, z_0): App. B, Eqs. (10)-(12).

    v moves the variance from that of Eq. (11), exact where all data are one point, to that of
    Eq. (7), exact where they are standard normal: DDPM's two choices (arXiv:2006.11239, Sec. 3.2).
    """
    alpha_t, sigma_t = schedule.alpha(t), schedule.sigma(t)
    alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
    alpha_ts = alpha_t / alpha_s  # Eq. (6)
    var_ts = jnp.maximum(sigma_t**2 - alpha_ts**2 * sigma_s**2, 0.0)  # Eq. (7)
    mean = (alpha_ts * sigma_s**2 * z_t + alpha_s * var_ts * z_0) / sigma_t**2  # Eq. (12)
    var = var_ts * ((1 - v) * (sigma_s / sigma_t) ** 2 + v)  # Eq. (11) at v = 0
    # Clean data have no noise, for any v.
    return mean + jnp.where(s >= 0, jnp.sqrt(var), 0.0) * noise


def ddpm_step(
    schedule: Schedule,
    denoise: Denoise,
    z_t: Array,
    t: Array,
    s: Array,
    noise: Array,
    eta: Array,
    v: Array | float = 0.0,
) -> tuple[Array, Array]:
    """Ancestral sampling, App. B, Eqs. (10)-(12): the posterior q(z_s | z_t, z_0), z_0 estimated.

    s = t - 1 is the paper's; any s < t is the same posterior on a sub-sequence. It is also Euler's
    method with ancestral noise in the time sigma/alpha (k-diffusion's "Euler a"), and first-order
    SDE-DPM-Solver++. eta does nothing. v: see `posterior_step`.
    """
    del eta
    _, z_0 = denoise(z_t, t)
    return posterior_step(schedule, z_0, z_t, t, s, noise, v), z_0


def ddim_step(
    schedule: Schedule, denoise: Denoise, z_t: Array, t: Array, s: Array, noise: Array, eta: Array
) -> tuple[Array, Array]:
    """DDIM (Song et al., arXiv:2010.02502, Eqs. 12 and 16); that paper's alpha is our alpha^2.

    eta 0 is deterministic, eta 1 has the variance of `ddpm_step`.
    """
    alpha_t, sigma_t = schedule.alpha(t), schedule.sigma(t)
    alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
    eps, z_0 = denoise(z_t, t)
    var_ts = jnp.maximum(sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2, 0.0)
    std = eta * sigma_s / sigma_t * jnp.sqrt(var_ts)
    direction = jnp.sqrt(jnp.maximum(sigma_s**2 - std**2, 0.0)) * eps
    return alpha_s * z_0 + direction + std * noise, z_0


def euler_step(
    schedule: Schedule, denoise: Denoise, z_t: Array, t: Array, s: Array, noise: Array, eta: Array
) -> tuple[Array, Array]:
    """Euler's method in the time sigma/alpha: the eps of t is held. First order.

    It is DDIM with eta 0, and it is also first-order DPM-Solver++ (arXiv:2211.01095), which
    holds the z_0 of t. noise and eta do nothing.
    """
    del noise, eta
    eps, z_0 = denoise(z_t, t)
    return q_sample(schedule, z_0, s, eps), z_0


def heun_step(
    schedule: Schedule, denoise: Denoise, z_t: Array, t: Array, s: Array, noise: Array, eta: Array
) -> tuple[Array, Array]:
    """Heun's method in the time sigma/alpha (Karras et al., arXiv:2206.00364, Algorithm 1).

    The mean of the eps of both ends is kept constant. Second order, two network evaluations, except
    in a step to clean data, which have no eps: that step is Euler's. noise and eta do nothing.
    """
    del noise, eta
    (eps_t, _), (eps_s, _) = evaluate_twice(
        denoise, z_t, t, lambda eps, z_0: (q_sample(schedule, z_0, s, eps), s), needed=s >= 0
    )
    return exponential_step(schedule, "eps", (eps_t + eps_s) / 2, z_t, t, s)


def dpmpp_2s_step(
    schedule: Schedule, denoise: Denoise, z_t: Array, t: Array, s: Array, noise: Array, eta: Array
) -> tuple[Array, Array]:
    """DPM-Solver++(2S) (Lu et al., arXiv:2211.01095, Algorithm 1, r = 1/2).

    The z_0 of the middle between t and s, in lambda = log(alpha/sigma), is held. Second order; the
    network is evaluated twice, at fractional timesteps, except in a step to clean data: lambda is
    infinite there, has no middle, and the z_0 of t is held. noise and eta do nothing.
    """
    del noise, eta
    middle = _middle(schedule, t, s)
    _, (_, z_0) = evaluate_twice(
        denoise,
        z_t,
        jnp.asarray(t, middle.dtype),
        lambda eps, z_0: (q_sample(schedule, z_0, middle, eps), middle),
        needed=s >= 0,
    )
    return exponential_step(schedule, "z_0", z_0, z_t, t, s)


def dpmpp_sde_step(
    schedule: Schedule, denoise: Denoise, z_t: Array, t: Array, s: Array, noise: Array, eta: Array
) -> tuple[Array, Array]:
    """DPM-Solver++ for the SDE, single-step (k-diffusion's "DPM++ SDE", r = 1/2).

    `dpmpp_2s_step` with the noise of ancestral sampling, both to the middle and to s: the z_0 of
    the middle is held. The noise to the middle u is part of that to s, as of one Brownian motion:
    between them lies q(z_s | z_u, z_0). `noise` is `[B, 2, h, w, c]`; eta does nothing.
    """
    del eta
    middle = _middle(schedule, t, s)
    _, (_, z_0) = evaluate_twice(
        denoise,
        z_t,
        jnp.asarray(t, middle.dtype),
        lambda eps, z_0: (
            posterior_step(schedule, z_0, z_t, t, middle, noise[:, 0]),
            middle,
        ),
        needed=s >= 0,
    )
    z_u = posterior_step(schedule, z_0, z_t, t, middle, noise[:, 0])
    z_s = posterior_step(schedule, z_0, z_u, middle, s, noise[:, 1])
    # Clean data have no middle: lambda is infinite there.
    return jnp.where(s >= 0, z_s, z_0), z_0


def _middle(schedule: Schedule, t: Array, s: Array) -> Array:
    """The timestep in the middle between t and s, in lambda = log(alpha/sigma)."""
    return schedule.timestep((schedule.half_log_snr(t) + schedule.half_log_snr(s)) / 2)
