"""Classifier-free guidance: one model asked with and without its condition."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array


def guided(
    model: Callable[[Array, Array, Array], Array], y: Array, null: Array, scale: Array
) -> Callable[[Array, Array], Array]:
    """model(z_t, t, y) -> (z_t, t) -> e_null + s (e_y - e_null), in one call on twice the batch.

    s = 1 is the plain conditional model (Table 3's caption counts s this way, like the published
    code; w = s - 1 in Ho and Salimans, arXiv:2207.12598, Eq. 6). It is linear, so it may be applied
    to eps, z_0 or v alike.

    Args:
      y: conditions `[B, ...]`. null: the null condition `[...]`. scale: s, a scalar, may be traced.
    """
    both = jnp.concatenate([y, jnp.broadcast_to(null[None], y.shape)])

    def predict(z_t: Array, t: Array) -> Array:
        out = model(jnp.concatenate([z_t, z_t]), jnp.concatenate([t, t]), both)
        e_y, e_null = jnp.split(out, 2)
        return e_null + scale * (e_y - e_null)

    return predict
