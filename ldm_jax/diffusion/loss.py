"""The simple loss of Eqs. (1)-(3), and two ways of giving some noise levels more of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from ldm_jax.diffusion.process import Prediction, q_sample, target
from ldm_jax.diffusion.schedule import Schedule, bcast

Array = jax.Array
LossNorm = Literal["l2", "l1"]
TimestepDensity = Literal["uniform", "logit-normal"]


def ldm_loss(
    model: Callable[[Array, Array], Array],
    schedule: Schedule,
    prediction: Prediction,
    z_0: Array,
    key: Array,
    loss_norm: LossNorm = "l2",
    density: TimestepDensity = "uniform",
    min_snr_gamma: float = 0.0,
) -> tuple[Array, Array]:
    """E || eps - eps_theta(z_t, t, tau_theta(y)) ||^2, t uniform: Eq. (3), or Eq. (2) without y.

    With z_0 = x this is Eq. (1). The square is averaged over h, w, c instead of summed. Some of the
    published models were trained on the absolute error instead, `loss_norm` l1.

    Args:
      model: (z_t, t) -> prediction `[B, h, w, c]`, closed over its condition.
      prediction: which target stands in the place of eps.
      z_0: scaled latents `[B, h, w, c]`.
      key: draws t and eps.
      density: of t; see `draw_timesteps`.
      min_snr_gamma: gamma of `min_snr_weight`; 0: all weights are 1, as in the paper.

    Returns:
      (the loss of each example `[B]`, its t, int `[B]`).
    """
    key_t, key_eps = jax.random.split(key)
    t = draw_timesteps(schedule, density, key_t, len(z_0))
    eps = jax.random.normal(key_eps, z_0.shape)
    out = model(q_sample(schedule, z_0, t, eps), t)
    error = out - target(schedule, prediction, z_0, t, eps)
    if min_snr_gamma > 0:
        weight = min_snr_weight(schedule, prediction, t, min_snr_gamma)
        error = bcast(jnp.sqrt(weight), error) * error
    return jnp.mean(error**2 if loss_norm == "l2" else jnp.abs(error), axis=(1, 2, 3)), t


def draw_timesteps(schedule: Schedule, density: TimestepDensity, key: Array, n: int) -> Array:
    """n independent steps 0..T-1, int32 `[n]`.

    uniform: all equally often, as in the paper. logit-normal: the density of Stable Diffusion 3
    (arXiv:2403.03206, Sec. 3.1, location 0 and scale 1). There a latent is (1 - u) z_0 + u eps and
    logit(u) is standard normal; as u / (1 - u) = sigma / alpha, so is log(sigma_t / alpha_t) here,
    whatever the schedule.
    """
    if density == "uniform":
        return jax.random.randint(key, (n,), 0, schedule.timesteps)
    t = schedule.timestep(-jax.random.normal(key, (n,)))
    return jnp.clip(jnp.round(t).astype(jnp.int32), 0, schedule.timesteps - 1)


def min_snr_weight(schedule: Schedule, prediction: Prediction, t: Array, gamma: float) -> Array:
    """Min-SNR weighting (arXiv:2303.09556): what a squared error counts, float32 like `t`.

    It makes the loss min(SNR(t), gamma) |z_0 - its prediction|^2, whatever is predicted: by
    z_t = alpha z_0 + sigma eps an error of eps is SNR times the squared error of z_0, and one of v
    is SNR + 1 times. Without weights the least noisy steps count most for eps and v.
    """
    snr = schedule.snr(t)
    in_z_0 = {"eps": snr, "z_0": 1.0, "v": snr + 1.0}[prediction]
    return jnp.minimum(snr, gamma) / in_z_0
