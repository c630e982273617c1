"""The UNet and the encoder tau_theta of its condition y as one model (Sec. 3.3)."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from ldm_jax.layers import Array

How = Literal["cross-attention", "concatenation", "time"]
"""How a condition enters the UNet."""


class ConditionalModel(nnx.Module):
    """eps_theta(z_t, t, tau_theta(y)) of Eq. (3): both parts are trained jointly.

    Args:
      unet: (z_t, t, context, label, rngs) -> prediction.
      tau: encodes y; None: there is no y (Eq. 2), or the UNet gets y itself.
      how: how tau_theta(y) enters the UNet: as tokens `[B, M, d_tau]` by cross-attention, as a map
        `[B, h, w, n]` by concatenation with z_t, or as a class, int `[B]`, whose embedding is added
        to that of the time step.
    """

    def __init__(
        self, unet: nnx.Module, tau: nnx.Module | None = None, how: How = "cross-attention"
    ):
        self.unet = unet
        self.tau = nnx.data(tau)
        self.how = how

    def embed(self, y: Array) -> Array:
        """tau_theta(y) as a continuous embedding, which can be interpolated: float `[B, ...]`.

        For `how` "time" it is the UNet's class embedding.
        """
        c = y if self.tau is None else self.tau(y)
        return self.unet.label(c) if self.how == "time" else c

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
          z_t: `[B, h, w, c]`.
          t: int `[B]`.
          y: input of tau.
          c: output of `embed`, replaces y.
        """
        if c is None:
            c = y if self.tau is None else self.tau(y)
        if self.how == "concatenation":
            return self.unet(jnp.concatenate([z_t, c], axis=-1), t, rngs=rngs)
        if self.how == "time":
            return self.unet(z_t, t, label=c, rngs=rngs)
        return self.unet(z_t, t, context=c, rngs=rngs)


def drop_condition(key: Array, y: Array, null: Array, probability: float) -> Array:
    """Replaces conditions by the null condition at random, for classifier-free guidance.

    y int `[B, ...]`, null `[...]` -> `[B, ...]`; each row is dropped with this probability.
    """
    drop = jax.random.bernoulli(key, probability, y.shape[:1])
    return jnp.where(drop.reshape(drop.shape + (1,) * (y.ndim - 1)), null[None], y)
