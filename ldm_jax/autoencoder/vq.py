"""The VQ bottleneck: each latent vector is replaced by its nearest code (Sec. 3.1, App. G).

The quantiser is a part of the decoder: the diffusion model learns z = E(x) before quantisation, and
the decoder quantises first.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array
MOST_DISTANCES = 2**26  # computed at a time: 256 MiB


def codebook_init(key: Array, shape: tuple[int, int], dtype=jnp.float32) -> Array:
    """Initial codebook `[K, c]`, uniform in [-1/K, 1/K] as in the published models."""
    return jax.random.uniform(key, shape, dtype, -1.0 / shape[0], 1.0 / shape[0])


def nearest_code(z: Array, codebook: Array, most: int = MOST_DISTANCES) -> Array:
    """The index of the code closest to each vector: `[..., c]`, `[K, c]` -> int32 `[...]`.

    Computed in full float32: a rounded distance could select another code. Not more than `most`
    distances, at least one of each vector, are in memory at once. It is the codes that are worked
    through in parts: the vectors may lie on several devices.
    """
    z, codebook = z.astype(jnp.float32), codebook.astype(jnp.float32)
    vectors, codes = z.size // z.shape[-1], len(codebook)
    parts = min(-(-vectors * codes // most), codes)
    if parts <= 1:
        return _nearest(z, codebook)[0]
    size = -(-codes // parts)
    first_of_part = jnp.minimum(jnp.arange(parts) * size, codes - size)  # the last two may overlap

    def closer(best: tuple[Array, Array], first: Array) -> tuple[tuple[Array, Array], None]:
        part = jax.lax.dynamic_slice_in_dim(codebook, first, size)
        index, distance = _nearest(z, part)
        is_closer = distance < best[1]  # of equally close codes the first one, as argmin has it
        chosen = jnp.where(is_closer, first + index, best[0]), jnp.minimum(distance, best[1])
        return chosen, None

    none = jnp.zeros(z.shape[:-1], jnp.int32), jnp.full(z.shape[:-1], jnp.inf)
    return jax.lax.scan(closer, none, first_of_part)[0][0]


def _nearest(z: Array, codebook: Array) -> tuple[Array, Array]:
    """(index of the closest code, its squared distance less |z|^2, the same for every code)."""
    z, codebook = jax.lax.stop_gradient((z, codebook))
    dot = jnp.einsum("...c,kc->...k", z, codebook, precision=jax.lax.Precision.HIGHEST)
    distance = jnp.expand_dims(jnp.sum(codebook**2, axis=-1), tuple(range(z.ndim - 1))) - 2 * dot
    return jnp.argmin(distance, axis=-1).astype(jnp.int32), jnp.min(distance, axis=-1)


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


def nearest_counts(z: Array, codebook: Array) -> Array:
    """How often each code is the nearest: the latents of many images `[n, h, w, c]` -> int32 `[K]`.

    Image by image, so that the distances of one are in memory.
    """
    nearest = jax.lax.map(lambda one: nearest_code(one, codebook), z)
    return code_counts(nearest, len(codebook))


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
