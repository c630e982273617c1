"""Large latents piece by piece: overlapping windows, blended (Sec. 4.3.2 and the original's demo).

A UNet or a decoder that is convolutional runs at any size (Sec. 4.3.2); where memory or the range
of its attention does not, it runs on windows of a size it knows, and their results are averaged,
each with a weight that falls towards the window's border, so that no seam shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.errors import UserError

Array = jax.Array
LEAST, MOST = 0.01, 0.5  # weights at a window's border and inside, the original's


class Tiles(NamedTuple):
    """Windows along h and w, and how far one is from the next, in positions of a latent."""

    side: tuple[int, int]
    stride: tuple[int, int]

    @classmethod
    def square(cls, side: int, overlap: float = 0.5) -> Tiles:
        """Squares, each of which shares `overlap` of its side with the next."""
        stride = max(1, round(side * (1 - overlap)))
        return cls((side, side), (stride, stride))

    def within(self, h: int, w: int) -> Tiles:
        """The same, where no window is larger than a latent of h x w."""
        side = (min(self.side[0], h), min(self.side[1], w))
        return Tiles(side, (min(self.stride[0], side[0]), min(self.stride[1], side[1])))


def tile_starts(length: int, window: int, stride: int) -> np.ndarray:
    """Where windows begin along one axis: int `[n]`, every `stride`, the last flush with the end.

    (The original leaves out what the last whole stride does not reach.)

    Raises:
      UserError: a stride that leaves gaps, or windows larger than the whole.
    """
    if not 1 <= stride <= window <= length:
        raise UserError(
            f"windows of {window} every {stride} do not cover {length}: "
            "1 <= stride <= window <= length"
        )
    return np.unique([*range(0, length - window, stride), length - window])


def tile_weights(height: int, width: int) -> np.ndarray:
    """Distance to the nearest border, as a share of the side: `[height, width]` in [0.01, 0.5]."""
    y, x = (np.minimum(np.arange(n), np.arange(n)[::-1]) / max(n - 1, 1) for n in (height, width))
    return np.clip(np.minimum(y[:, None], x[None]), LEAST, MOST)


def apply_in_tiles(
    function: Callable[[Array], Array], z: Array, tiles: Tiles, scale: int = 1
) -> Array:
    """function(z) as the weighted mean of what it makes of overlapping windows of z.

    One window at a time, so that memory is that of a window; one program for any number of them.

    Args:
      function: `[B, *side, c]` -> `[B, *(scale * side), c']`: a UNet's prediction (scale 1), a
        decoder (scale f).
      z: `[B, h, w, c]`. tiles: none larger than z is used (`Tiles.within`).

    Returns:
      `[B, scale * h, scale * w, c']`, float32.
    """
    b, h, w, c = z.shape
    side, stride = tiles.within(h, w)
    starts = [tile_starts(*axis) for axis in zip((h, w), side, stride, strict=True)]
    corners = np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, 2)
    weights = tile_weights(scale * side[0], scale * side[1])
    total = np.zeros((scale * h, scale * w))
    for y, x in scale * corners:
        total[y : y + weights.shape[0], x : x + weights.shape[1]] += weights
    weights = jnp.asarray(weights, jnp.float32)[None, :, :, None]

    def add(canvas: Array, corner: Array) -> tuple[Array, None]:
        y, x = corner
        out = function(jax.lax.dynamic_slice(z, (0, y, x, 0), (b, *side, c)))
        place = (0, scale * y, scale * x, 0)
        here = jax.lax.dynamic_slice(canvas, place, out.shape)
        return jax.lax.dynamic_update_slice(canvas, here + weights * out, place), None

    like = jax.eval_shape(function, jax.ShapeDtypeStruct((b, *side, c), z.dtype))
    canvas = jnp.zeros((b, scale * h, scale * w, like.shape[-1]), jnp.float32)
    canvas, _ = jax.lax.scan(add, canvas, jnp.asarray(corners, jnp.int32))
    return canvas / jnp.asarray(total, jnp.float32)[None, :, :, None]
