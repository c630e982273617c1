"""From latents to bytes: a few images at a time, on request in tiles."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ldm_jax.autoencoder.step import to_bytes
from ldm_jax.sampling.tiling import Tiles, apply_in_tiles

Array = jax.Array
AT_ONCE = 8  # images that each device decodes at a time, at most


def decode(
    decoder: Callable[[Array], Array],
    z_0: Array,
    num_shards: int = 1,
    tiles: Tiles | None = None,
    at_once: int = AT_ONCE,
) -> tuple[Array, Array]:
    """D(z_0) as bytes: `[B, h, w, c]` -> (uint8 `[B, H, W, C]`, whether finite: bool `[B]`).

    A decoder takes many times the memory of the UNet, for its features are as wide as the image.
    So it sees a few latents at a time, whatever B is; or with `tiles` a part of each, which the
    result then depends on, if little.

    Args:
      decoder: z_0 `[b, h, w, c]` -> floats `[b, H, W, C]` in [-1, 1], for any h and w.
      num_shards: over how many devices the rows are split; divides B.
      at_once: images that each device decodes at a time, at most.
    """
    whole = decoder
    if tiles is not None:

        def decoder(z):
            size = tiles.within(*z.shape[1:3]).side
            part = jax.ShapeDtypeStruct((len(z), *size, z.shape[-1]), z.dtype)
            f = jax.eval_shape(whole, part).shape[1] // size[0]
            return apply_in_tiles(whole, z, tiles, f)

    each = len(z_0) // num_shards
    groups = next(n for n in range(1, each + 1) if each % n == 0 and each // n <= at_once)
    if groups == 1:
        return _as_bytes(decoder(z_0))
    # Rows 0, n, 2n, ... are the first group: so each device has its share of every group.
    grouped = z_0.reshape(-1, groups, *z_0.shape[1:]).swapaxes(0, 1)
    decoded = jax.lax.map(lambda z: _as_bytes(decoder(z)), grouped)
    return jax.tree.map(lambda rows: rows.swapaxes(0, 1).reshape(-1, *rows.shape[2:]), decoded)


def decode_all(
    decoder: Callable[[Array], Array],
    estimates: Array,
    num_shards: int = 1,
    tiles: Tiles | None = None,
    at_once: int = AT_ONCE,
) -> tuple[Array, Array]:
    """As `decode`, of every step's estimate of z_0: `[S, B, h, w, c]` -> `[B, S, ...]`."""
    decoded = jax.lax.map(lambda z_0: decode(decoder, z_0, num_shards, tiles, at_once), estimates)
    return jax.tree.map(lambda rows: jnp.moveaxis(rows, 0, 1), decoded)


def _as_bytes(images: Array) -> tuple[Array, Array]:
    """NaN would be black."""
    return to_bytes(images), jnp.isfinite(images).all(axis=(1, 2, 3))
