"""One reverse step z_t -> z_s, s < t, for each solver. s = -1 is clean data.

A solver is a pure function (denoise, z_t, t, s, noise, eta) -> (z_s, z_0 estimate), where
denoise(z_t, t) -> (eps, z_0) hides what the network predicts, its condition and the guidance.
t and s are int scalars, everything else `[B, h, w, c]` in float32; all of them may be traced.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ldm_jax.diffusion.schedule import Schedule

Array = jax.Array
Denoise = Callable[[Array, Array], tuple[Array, Array]]


def ddpm_step(
    schedule: Schedule, denoise: Denoise, z_t: Array, t: Array, s: Array, noise: Array, eta: Array
) -> tuple[Array, Array]:
    """Ancestral sampling, App. B, Eqs. (10)-(12): the posterior q(z_s | z_t, z_0), z_0 estimated.

    s = t - 1 is the paper's; any s < t is the same posterior on a sub-sequence. eta does nothing.
    """
    del eta
    alpha_t, sigma_t = schedule.alpha(t), schedule.sigma(t)
    alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
    alpha_ts = alpha_t / alpha_s  # Eq. (6)
    var_ts = sigma_t**2 - alpha_ts**2 * sigma_s**2  # Eq. (7)
    _, z_0 = denoise(z_t, t)
    mean = (alpha_ts * sigma_s**2 * z_t + alpha_s * var_ts * z_0) / sigma_t**2  # Eq. (12)
    return mean + jnp.sqrt(jnp.maximum(var_ts, 0.0)) * sigma_s / sigma_t * noise, z_0  # Eq. (11)


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


SOLVERS = {"ddim": ddim_step, "ddpm": ddpm_step}
