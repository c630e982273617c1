"""The VQ bottleneck: each latent vector is replaced by its nearest code (Sec. 3.1, App. G).

The quantiser is a part of the decoder: the diffusion model learns z = E(x) before quantisation, and
the decoder quantises first.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def codebook_init(key: Array, shape: tuple[int, int], dtype=jnp.float32) -> Array:
    """Initial codebook `[K, c]`, uniform in [-1/K, 1/K] as in the published models."""
    return jax.random.uniform(key, shape, dtype, -1.0 / shape[0], 1.0 / shape[0])


def nearest_code(z: Array, codebook: Array) -> Array:
    """The index of the code closest to each vector: `[..., c]`, `[K, c]` -> int32 `[...]`.

    Computed in full float32: a rounded distance could select another code.
    """
    z, codebook = z.astype(jnp.float32), codebook.astype(jnp.float32)
    # |z - e|^2 without |z|^2, which is the same for every code
    dot = jnp.einsum("...c,kc->...k", z, codebook, precision=jax.lax.Precision.HIGHEST)
    distance = jnp.expand_dims(jnp.sum(codebook**2, axis=-1), tuple(range(z.ndim - 1))) - 2 * dot
    return jnp.argmin(distance, axis=-1).astype(jnp.int32)


def quantise(z: Array, codebook: Array) -> Array:
    """z_q, the nearest code of each vector: `[..., c]` -> `[..., c]` float32."""
    return codebook[nearest_code(z, codebook)]


def straight_through(z: Array, z_q: Array) -> Array:
    """The value of z_q (bit for bit) with the gradient of z."""
    return jax.lax.stop_gradient(z_q) + (z - jax.lax.stop_gradient(z))


def vq_loss(z: Array, z_q: Array, codebook_weight: float, commitment_weight: float) -> Array:
    """L_reg of Eq. (25) for VQ, a scalar: the codebook loss and the commitment loss.

    VQ-VAE (arXiv:1711.00937, Eq. 3) has the weights 1 and 0.25. The published first stages were
    trained with 0.25 and 1: the same value, but other gradients.
    """
    codes = jnp.mean((z_q - jax.lax.stop_gradient(z)) ** 2)
    commitment = jnp.mean((jax.lax.stop_gradient(z_q) - z) ** 2)
    return codebook_weight * codes + commitment_weight * commitment


def code_counts(indices: Array, codebook_size: int) -> Array:
    """How often each code occurs: int `[...]` -> int32 `[K]`."""
    return jnp.bincount(indices.ravel(), length=codebook_size)


def perplexity(counts: Array) -> Array:
    """exp(entropy of the code frequencies), the effective number of codes, 1 to K."""
    p = counts / jnp.sum(counts)
    return jnp.exp(-jnp.sum(p * jnp.log(p + 1e-10)))


def usage(counts: Array) -> Array:
    """The fraction of codes that occur, 0 to 1."""
    return jnp.mean((counts > 0).astype(jnp.float32))


def reset_dead_codes(codebook: Array, counts: Array, z: Array, key: Array) -> Array:
    """Replaces each code that does not occur by a random latent vector.

    Args:
      codebook: `[K, c]`.
      counts: how often each code occurs, `[K]`.
      z: latent vectors to draw from, `[N, c]`.

    Returns:
      `[K, c]`; codes that occur are unchanged.
    """
    drawn = z[jax.random.randint(key, codebook.shape[:1], 0, len(z))]
    return jnp.where((counts > 0)[:, None], codebook, drawn.astype(codebook.dtype))
