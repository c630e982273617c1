"""The sampling loop: one `lax.scan` over the timesteps, whatever the solver."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ldm_jax.diffusion.process import Prediction, eps_and_z0
from ldm_jax.diffusion.schedule import Schedule

Array = jax.Array


def picture_keys(seed: int | Array, indices: Array) -> Array:
    """One key a picture, from the seed and the picture's index alone: keys `[B]`.

    So picture i is the same picture at any batch size and on any number of devices.
    """
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(indices)


def noise_like(keys: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal noise `[B, *shape]`, each picture's from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def sample(
    predict: Callable[[Array, Array], Array],
    schedule: Schedule,
    prediction: Prediction,
    step: Callable,
    tau: Array,
    keys: Array,
    shape: tuple[int, int, int],
    *,
    eta: Array | float = 0.0,
    temperature: Array | float = 1.0,
    trajectory: bool = False,
):
    """Draws z_T and walks it down the timesteps to z_0.

    Args:
      predict: (z_t, t int `[B]`) -> what the network predicts, condition and guidance included.
      prediction: eps, z_0 or v.
      step: a solver step of `sampling.solvers`.
      tau: decreasing int `[S]`, as from `uniform_timesteps`; the values may be traced.
      keys: one key a picture, `[B]`.
      shape: latent (h, w, c).
      eta: DDIM's stochasticity. temperature: factor on the noise of every step. May be traced.
      trajectory: also return the z_0 estimate of every step.

    Returns:
      z_0 `[B, h, w, c]`; with `trajectory`, (z_0, estimates `[S, B, h, w, c]`).
    """
    z_T = noise_like(keys, shape)

    def denoise(z_t, t):
        t = jnp.broadcast_to(t, z_t.shape[:1])
        return eps_and_z0(schedule, prediction, predict(z_t, t), z_t, t)

    def body(z_t, ts):
        t, s = ts
        # Keyed by t: +1 keeps clear of the key of z_T.
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, t + 1))(keys)
        noise = temperature * noise_like(step_keys, shape)
        z_s, z_0 = step(schedule, denoise, z_t, t, s, noise, eta)
        return z_s, z_0 if trajectory else None

    s = jnp.concatenate([tau[1:], jnp.full((1,), -1, tau.dtype)])
    z_0, estimates = jax.lax.scan(body, z_T, (tau, s))
    return (z_0, estimates) if trajectory else z_0
