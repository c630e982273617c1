"""The simple loss of Eqs. (1)-(3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from ldm_jax.diffusion.process import Prediction, q_sample, target
from ldm_jax.diffusion.schedule import Schedule

Array = jax.Array
LossNorm = Literal["l2", "l1"]


def ldm_loss(
    model: Callable[[Array, Array], Array],
    schedule: Schedule,
    prediction: Prediction,
    z_0: Array,
    key: Array,
    loss_norm: LossNorm = "l2",
) -> tuple[Array, Array]:
    """E || eps - eps_theta(z_t, t, tau_theta(y)) ||^2, t uniform: Eq. (3), or Eq. (2) without y.

    With z_0 = x this is Eq. (1). The square is averaged over h, w, c instead of summed. Some of the
    published models were trained on the absolute error instead, `loss_norm` l1.

    Args:
      model: (z_t, t) -> prediction `[B, h, w, c]`, closed over its condition.
      prediction: which target stands in the place of eps.
      z_0: scaled latents `[B, h, w, c]`.
      key: draws t and eps.

    Returns:
      (the loss of each example `[B]`, its t, int `[B]`).
    """
    key_t, key_eps = jax.random.split(key)
    t = jax.random.randint(key_t, z_0.shape[:1], 0, schedule.timesteps)
    eps = jax.random.normal(key_eps, z_0.shape)
    out = model(q_sample(schedule, z_0, t, eps), t)
    error = out - target(schedule, prediction, z_0, t, eps)
    return jnp.mean(error**2 if loss_norm == "l2" else jnp.abs(error), axis=(1, 2, 3)), t
