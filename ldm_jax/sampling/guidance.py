"""Guidance: classifier-free, or by the gradient of any log p(y|z_t)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ldm_jax.diffusion.schedule import Schedule, bcast
from ldm_jax.sampling.single_step import Denoise

Array = jax.Array
LogP = Callable[[Array, Array, Array], Array]


class Guidance(NamedTuple):
    """How strongly images are guided, see `guided`; scalars, which may be traced."""

    scale: Array | float
    rescale: Array | float = 0.0


def guided(e_y: Array, e_null: Array, scale: Array, rescale: Array | float = 0.0) -> Array:
    """e_null + s (e_y - e_null), `[B, h, w, c]`, with the contrast of e_y as far as is asked for.

    s = 1 is the plain conditional model, as in the published code and so, it seems, in Table 3;
    Ho and Salimans (arXiv:2207.12598, Eq. 6) count w = s - 1, and the paper has no formula. It is
    linear, so it may be applied to eps, z_0 or v alike. Large s makes its standard deviation larger
    than that of e_y, and images too bright: `rescale` scales it back, for each image by itself (Lin
    et al., arXiv:2305.08891, Eqs. 14 to 16).
    """
    out = e_null + scale * (e_y - e_null)
    axes = tuple(range(1, out.ndim))
    std_y, std = jnp.std(e_y, axes, keepdims=True), jnp.std(out, axes, keepdims=True)
    ratio = jnp.where(std > 0, std_y / std, 1.0)
    return out * (1 + rescale * (ratio - 1))


def classifier_free_guided(
    model: Callable[[Array, Array, Array], Array],
    y: Array,
    null: Array,
    scale: Array,
    rescale: Array | float = 0.0,
) -> Callable[[Array, Array], Array]:
    """model(z_t, t, y) -> (z_t, t) -> what is `guided`, in one call on twice the batch.

    Args:
      y: conditions `[B, ...]`. null: the null condition `[...]`, or for each image what to guide
        away from, `[B, ...]`: a negative prompt. scale, rescale: scalars, which may be traced.
    """
    both = jnp.concatenate([y, jnp.broadcast_to(null, y.shape)])

    def predict(z_t: Array, t: Array) -> Array:
        out = model(jnp.concatenate([z_t, z_t]), jnp.concatenate([t, t]), both)
        return guided(*jnp.split(out, 2), scale, rescale)

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
        # Where alpha is 0, z_t says nothing of y: there is no gradient.
        shift = jnp.where(alpha > 0, sigma**2 / alpha, 0.0) * gradient
        return eps - sigma * gradient, z_0 + shift

    return guided_denoise
