"""The memory layout of one array in a PyTorch file, and the conversion to and from ldm_jax."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ArrayLayout:
    """Converts an array of a PyTorch file to parameters of ldm_jax and back.

    Only the order of the values changes, so a round trip gives the same bits.
    """

    transposed: bool = False
    """The file has the outputs first, ldm_jax has them last: OIHW and HWIO, or OI and IO."""
    ones: int = 0
    """Axes of size 1 at the end in the file: a dense layer is stored as a 1x1 convolution."""
    qkv_groups: int = 0
    """The file holds q, k and v in one array: [q k v] repeated along the outputs, once per head, or
    once for all heads. 0: not a fused array."""

    def shape(self, param_shapes: Sequence[Shape]) -> Shape:
        """The shape in the file of one parameter, or of q, k and v fused."""
        shape = tuple(param_shapes[0])
        if self.transposed:
            shape = (shape[-1], shape[-2], *shape[:-2]) if len(shape) > 1 else shape
        if self.qkv_groups:
            shape = (3 * shape[0], *shape[1:])
        return shape + (1,) * self.ones

    def read(self, array: np.ndarray) -> tuple[np.ndarray, ...]:
        """An array of the file -> one parameter or q, k, v; views where possible."""
        array = array.reshape(array.shape[: array.ndim - self.ones])
        if not self.qkv_groups:
            return (self._inputs_first(array),)
        channels, *rest = array.shape
        qkv = array.reshape(self.qkv_groups, 3, channels // (3 * self.qkv_groups), *rest)
        parts = (qkv[:, i].reshape(channels // 3, *rest) for i in range(3))
        return tuple(self._inputs_first(part) for part in parts)

    def write(self, params: Sequence[np.ndarray]) -> np.ndarray:
        """One parameter or q, k, v -> the array of the file; a view where possible."""
        parts = [self._outputs_first(param) for param in params]
        if self.qkv_groups:
            channels, *rest = parts[0].shape
            grouped = [part.reshape(self.qkv_groups, 1, -1, *rest) for part in parts]
            parts = [np.concatenate(grouped, axis=1).reshape(3 * channels, *rest)]
        return parts[0].reshape(*parts[0].shape, *(1,) * self.ones)

    def _inputs_first(self, a: np.ndarray) -> np.ndarray:
        return np.moveaxis(a, (1, 0), (-2, -1)) if self.transposed and a.ndim > 1 else a

    def _outputs_first(self, a: np.ndarray) -> np.ndarray:
        return np.moveaxis(a, (-1, -2), (0, 1)) if self.transposed and a.ndim > 1 else a
