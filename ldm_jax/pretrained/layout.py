"""How the numbers of one array lie in a PyTorch file, and how they lie here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Takes an array of a file apart into ours, and puts ours together again.

    The numbers are never changed, so that there and back gives the same bits.
    """

    transposed: bool = False
    """Outputs first there, last here: OIHW and HWIO, or OI and IO."""
    ones: int = 0
    """Axes of size 1 at the end there: a dense layer that is stored as a 1x1 convolution."""
    turns: int = 0
    """How often q, k and v take turns along the outputs of a fused one: once for each head, or
    once in all; 0: this is no fused q, k, v."""

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """The shape there of what is, here, one array or q, k, v of one shape each."""
        shape = tuple(ours[0])
        if self.transposed:
            shape = (shape[-1], shape[-2], *shape[:-2]) if len(shape) > 1 else shape
        if self.turns:
            shape = (3 * shape[0], *shape[1:])
        return shape + (1,) * self.ones

    def read(self, theirs: np.ndarray) -> tuple[np.ndarray, ...]:
        """Theirs -> ours, one or q, k, v; views where possible."""
        theirs = theirs.reshape(theirs.shape[: theirs.ndim - self.ones])
        if not self.turns:
            return (self._inputs_first(theirs),)
        channels, *rest = theirs.shape
        qkv = theirs.reshape(self.turns, 3, channels // (3 * self.turns), *rest)
        parts = (qkv[:, i].reshape(channels // 3, *rest) for i in range(3))
        return tuple(self._inputs_first(part) for part in parts)

    def write(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Ours, one or q, k, v -> theirs; a view where possible."""
        parts = [self._outputs_first(array) for array in ours]
        if self.turns:
            channels, *rest = parts[0].shape
            turns = [part.reshape(self.turns, 1, channels // self.turns, *rest) for part in parts]
            parts = [np.concatenate(turns, axis=1).reshape(3 * channels, *rest)]
        return parts[0].reshape(*parts[0].shape, *(1,) * self.ones)

    def _inputs_first(self, a: np.ndarray) -> np.ndarray:
        return np.moveaxis(a, (1, 0), (-2, -1)) if self.transposed and a.ndim > 1 else a

    def _outputs_first(self, a: np.ndarray) -> np.ndarray:
        return np.moveaxis(a, (-1, -2), (0, 1)) if self.transposed and a.ndim > 1 else a
