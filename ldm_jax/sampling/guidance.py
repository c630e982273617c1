"""Guidance: classifier-free, or by the gradient of any log p(y|z_t)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ldm_jax.diffusion.schedule import Schedule, bcast
from ldm_jax.sampling.single_step import Denoise

Array = jax.Array
LogP = Callable[[Array, Array, Array], Array]


def classifier_free_guided(
    model: Callable[[Array, Array, Array], Array], y: Array, null: Array, scale: Array
) -> Callable[[Array, Array], Array]:
    """model(z_t, t, y) -> (z_t, t) -> e_null + s (e_y - e_null), in one call on twice the batch.

    s = 1 is the plain conditional model, as in the published code and so, it seems, in Table 3;
    Ho and Salimans (arXiv:2207.12598, Eq. 6) count w = s - 1, and the paper has no formula. It is
    linear, so it may be applied to eps, z_0 or v alike.

    Args:
      y: conditions `[B, ...]`. null: the null condition `[...]`. scale: s, a scalar, may be traced.
    """
    both = jnp.concatenate([y, jnp.broadcast_to(null[None], y.shape)])

    def predict(z_t: Array, t: Array) -> Array:
        out = model(jnp.concatenate([z_t, z_t]), jnp.concatenate([t, t]), both)
        e_y, e_null = jnp.split(out, 2)
        return e_null + scale * (e_y - e_null)

    return predict


def classifier_guided(denoise: Denoise, schedule: Schedule, log_p: LogP) -> Denoise:
    """denoise with eps - sigma_t grad log p(y|z_t) in the place of eps: Eq. (16), any solver's.

    By Eq. (14) the score of z_t is -eps / sigma_t, and that of z_t given y is greater by the
    gradient: so there is a minus, as in Dhariwal and Nichol (arXiv:2105.05233, Algorithm 2), where
    the paper prints a plus. z_0 follows eps. A scale s is a factor on log p.

    Args:
      denoise: (z_t, t) -> (eps, z_0).
      log_p: (z_t, t `[B]`, z_0) -> `[B]`, differentiable, each row of its own image alone. Where
        it looks at z_0, the estimate from z_t, the gradient runs through the network too; where it
        does not, the network has no backward pass.
    """

    def guided_denoise(z_t: Array, t: Array) -> tuple[Array, Array]:
        def of(z_t):
            eps, z_0 = denoise(z_t, t)
            return jnp.sum(log_p(z_t, jnp.broadcast_to(t, z_t.shape[:1]), z_0)), (eps, z_0)

        gradient, (eps, z_0) = jax.grad(of, has_aux=True)(z_t)
        alpha, sigma = bcast(schedule.alpha(t), z_t), bcast(schedule.sigma(t), z_t)
        return eps - sigma * gradient, z_0 + sigma**2 / alpha * gradient

    return guided_denoise
