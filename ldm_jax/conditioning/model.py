"""How a condition y enters: tau_theta(y) to the UNet's cross-attention, trained as one model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from ldm_jax.layers import Array


class ConditionalModel(nnx.Module):
    """eps_theta(z_t, t, tau_theta(y)) of Eq. (3): both parts are trained jointly.

    Args:
      unet: (z_t, t, context, rngs) -> prediction.
      tau: y -> tokens `[B, M, d_tau]`, or None for an unconditional model (Eq. 2).
    """

    def __init__(self, unet: nnx.Module, tau: nnx.Module | None):
        self.unet = unet
        self.tau = nnx.data(tau)

    def __call__(
        self, z_t: Array, t: Array, y: Array | None = None, rngs: nnx.Rngs | None = None
    ) -> Array:
        """z_t `[B, h, w, c]`, t int `[B]`, y as tau takes it -> prediction `[B, h, w, c]`."""
        return self.unet(z_t, t, None if self.tau is None else self.tau(y), rngs)


def drop_condition(key: Array, y: Array, null: Array, probability: float) -> Array:
    """Replaces whole conditions by the null one, so that one model learns both for guidance.

    y int `[B, ...]`, null `[...]` -> `[B, ...]`, each row null with the given probability.
    """
    drop = jax.random.bernoulli(key, probability, y.shape[:1])
    return jnp.where(drop.reshape(drop.shape + (1,) * (y.ndim - 1)), null[None], y)
