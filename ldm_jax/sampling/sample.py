"""The sampling loop: one `lax.scan` over the timesteps, whatever the solver."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ldm_jax.diffusion.process import Prediction, eps_and_z0
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.sampling.guidance import LogP, classifier_guided
from ldm_jax.sampling.solvers import Solver

Array = jax.Array


def image_keys(seed: int | Array, indices: Array) -> Array:
    """One key an image, from the seed and the image's index alone: keys `[B]`.

    So image i is the same image at any batch size and on any number of devices.
    """
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(indices)


def noise_like(keys: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal noise `[B, *shape]`, each image's from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def fold_in_each(keys: Array, number: Array) -> Array:
    """The key of this number from each image's: `[B]`."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def sample(
    predict: Callable[[Array, Array], Array],
    schedule: Schedule,
    prediction: Prediction,
    solver: Solver,
    grid: Array,
    keys: Array,
    shape: tuple[int, int, int],
    *,
    eta: Array | float = 0.0,
    temperature: Array | float = 1.0,
    log_p: LogP | None = None,
    start: Array | None = None,
    blend: Callable[[Array, Array, Array], Array] | None = None,
    trajectory: bool = False,
):
    """Draws z_T and walks it down the timesteps to z_0.

    Args:
      predict: (z_t, t `[B]`) -> what the network predicts, condition and guidance included.
      prediction: eps, z_0 or v.
      solver: one of `sampling.solvers`.
      grid: decreasing `[S+1]`, as from `timestep_grid`; the values may be traced.
      keys: one key an image, `[B]`.
      shape: latent (h, w, c).
      eta: DDIM's stochasticity. temperature: factor on the noise of every step. May be traced.
      log_p: (z_t, t `[B]`, z_0) -> `[B]`, s log p(y|z_t) of something to guide towards, see
        `guidance.classifier_guided`.
      start: a latent `[B, h, w, c]` at the timestep grid[0], in place of z_T; for a grid that
        begins further down, cut off its beginning.
      blend: (z_t, t, one key an image `[B]`) -> z_t, applied before each step, such as to put in
        what is known of the image; nothing is applied after the last.
      trajectory: also return the z_0 estimate of every step.

    Returns:
      z_0 `[B, h, w, c]`; with `trajectory`, (z_0, estimates `[S, B, h, w, c]`).
    """
    z_T = noise_like(keys, shape) if start is None else start
    grid = jnp.asarray(grid)

    def denoise(z_t, t):
        t = jnp.broadcast_to(t, z_t.shape[:1])
        return eps_and_z0(schedule, prediction, predict(z_t, t), z_t, t)

    if log_p is not None:
        denoise = classifier_guided(denoise, schedule, log_p)

    def body(carry, now):
        (z_t, memory), (i, t, s) = carry, now
        # Keys 2i+1 and 2i+2 of each image are step i's; none is that of z_T.
        if blend is not None:
            z_t = blend(z_t, t, fold_in_each(keys, 2 * i + 2))
        noise = temperature * noise_like(fold_in_each(keys, 2 * i + 1), z_t.shape[1:])
        z_s, z_0, memory = solver.step(schedule, denoise, z_t, t, s, noise, eta, memory)
        return (z_s, memory), z_0 if trajectory else None

    steps = (jnp.arange(len(grid) - 1), grid[:-1], grid[1:])
    (z_0, _), estimates = jax.lax.scan(body, (z_T, solver.memory(z_T, grid)), steps)
    return (z_0, estimates) if trajectory else z_0
