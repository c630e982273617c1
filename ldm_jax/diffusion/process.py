"""The forward process q(z_t | z_0) and the three possible prediction targets of the network."""

from __future__ import annotations

from typing import Literal

import jax

from ldm_jax.diffusion.schedule import Schedule, bcast

Array = jax.Array
Prediction = Literal["eps", "z_0", "v"]


def q_sample(schedule: Schedule, z_0: Array, t: Array, eps: Array) -> Array:
    """z_t = alpha_t z_0 + sigma_t eps: a sample of q(z_t | z_0) (App. B, Eq. (4)).

    Args:
      z_0, eps: `[B, h, w, c]`, eps standard normal.
      t: int `[B]` in 0..T-1.
    """
    return bcast(schedule.alpha(t), z_0) * z_0 + bcast(schedule.sigma(t), z_0) * eps


def target(schedule: Schedule, prediction: Prediction, z_0: Array, t: Array, eps: Array) -> Array:
    """The prediction target: eps (as in the paper), z_0, or v = alpha_t eps - sigma_t z_0."""
    if prediction == "eps":
        return eps
    if prediction == "z_0":
        return z_0
    return bcast(schedule.alpha(t), z_0) * eps - bcast(schedule.sigma(t), z_0) * z_0


def eps_and_z0(
    schedule: Schedule, prediction: Prediction, out: Array, z_t: Array, t: Array
) -> tuple[Array, Array]:
    """Converts the output of the network to (eps, z_0): App. B, Eq. (14) and its inverse."""
    alpha, sigma = bcast(schedule.alpha(t), z_t), bcast(schedule.sigma(t), z_t)
    if prediction == "eps":
        return out, (z_t - sigma * out) / alpha
    if prediction == "z_0":
        return (z_t - alpha * out) / sigma, out
    return alpha * out + sigma * z_t, alpha * z_t - sigma * out
