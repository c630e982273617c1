"""How a condition y enters the UNet (Sec. 3.3), as one model with its encoder tau_theta."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from ldm_jax.layers import Array

Entry = Literal["cross-attention", "concatenation", "time"]


class ConditionalModel(nnx.Module):
    """eps_theta(z_t, t, tau_theta(y)) of Eq. (3): both parts are trained jointly.

    Args:
      unet: (z_t, t, context, label, rngs) -> prediction.
      tau: encodes y; None where there is none (Eq. 2), or y enters as it is.
      entry: what becomes of tau_theta(y): tokens `[B, M, d_tau]` for the cross-attention, a map
        `[B, h, w, n]` stacked with z_t, or a class, int `[B]`, whose embedding is added to the
        time step's.
    """

    def __init__(
        self, unet: nnx.Module, tau: nnx.Module | None = None, entry: Entry = "cross-attention"
    ):
        self.unet = unet
        self.tau = nnx.data(tau)
        self.entry = entry

    def embed(self, y: Array) -> Array:
        """tau_theta(y) as numbers, between which there are others: float `[B, ...]`.

        A class that enters with the time step has no tau; its embedding is the UNet's.
        """
        c = y if self.tau is None else self.tau(y)
        return self.unet.label(c) if self.entry == "time" else c

    def __call__(
        self,
        z_t: Array,
        t: Array,
        y: Array | None = None,
        rngs: nnx.Rngs | None = None,
        *,
        c: Array | None = None,
    ) -> Array:
        """The prediction for z_t: `[B, h, w, c]`, as z_t.

        Args:
          t: int `[B]`. y: as tau takes it. c: as `embed` returns it, in place of y.
        """
        if c is None:
            c = y if self.tau is None else self.tau(y)
        if self.entry == "concatenation":
            return self.unet(jnp.concatenate([z_t, c], axis=-1), t, rngs=rngs)
        if self.entry == "time":
            return self.unet(z_t, t, label=c, rngs=rngs)
        return self.unet(z_t, t, context=c, rngs=rngs)


def drop_condition(key: Array, y: Array, null: Array, probability: float) -> Array:
    """Replaces whole conditions by the null one, so that one model learns both for guidance.

    y int `[B, ...]`, null `[...]` -> `[B, ...]`, each row null with the given probability.
    """
    drop = jax.random.bernoulli(key, probability, y.shape[:1])
    return jnp.where(drop.reshape(drop.shape + (1,) * (y.ndim - 1)), null[None], y)
