"""The KL bottleneck: a diagonal Gaussian posterior q_E(z|x) (App. G)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def split_moments(moments: Array) -> tuple[Array, Array]:
    """`[B, h, w, 2c]` -> mean and log-variance, `[B, h, w, c]` each; log-variance in [-30, 20]."""
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return mean, jnp.clip(logvar, -30.0, 20.0)


def sample_posterior(moments: Array, key: Array) -> Array:
    """z = mu + sigma * eps (App. G): the diffusion model is trained on samples, not on means."""
    mean, logvar = split_moments(moments)
    return mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape, mean.dtype)


def kl_to_standard_normal(moments: Array) -> Array:
    """KL(q_E(z|x) || N(0, I)) in nats, summed over h, w, c: `[B]` (App. G, L_reg)."""
    mean, logvar = split_moments(moments)
    return 0.5 * jnp.sum(mean**2 + jnp.exp(logvar) - 1.0 - logvar, axis=(1, 2, 3))
