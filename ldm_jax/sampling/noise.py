"""The noise of an image depends on the seed and its id alone, not on what it is sampled with."""

from __future__ import annotations

import jax

Array = jax.Array


def image_keys(seed: int | Array, image_ids: Array) -> Array:
    """One key an image, from the seed and the image's id alone: keys `[B]`.

    So image i is the same image at any batch size and on any number of devices.
    """
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(image_ids)


def noise_like(keys: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal noise `[B, *shape]`, each image's from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def fold_in_each(keys: Array, number: Array) -> Array:
    """From each image's key another one, by a number: `[B]`."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
