"""Class labels: one learnable token a class (App. E.2.1), and one for "no class"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ldm_jax.errors import UserError
from ldm_jax.layers import Array, embed


@dataclass(frozen=True)
class ClassLabels:
    """The names of the classes; a condition is an int32 index, the null class is the last."""

    names: tuple[str, ...]

    @property
    def null(self) -> np.ndarray:
        """The null condition (no class): int32 scalar."""
        return np.int32(len(self.names))

    def encode(self, labels: Sequence[str | int]) -> np.ndarray:
        """Names or indices -> int32 `[n]`.

        Raises:
          UserError: unknown class; it lists the classes.
        """
        return np.asarray([self._index(label) for label in labels], np.int32)

    def decode(self, condition: np.ndarray) -> list[str]:
        """int32 `[n]` -> names."""
        return [self.names[i] if i < len(self.names) else "(any class)" for i in condition]

    def _index(self, label: str | int) -> int:
        name = str(label)
        if name in self.names:
            return self.names.index(name)
        if name.isdecimal() and int(name) < len(self.names):
            return int(name)
        shown = ", ".join(self.names[:40]) + (", ..." if len(self.names) > 40 else "")
        raise UserError(
            f"unknown class {name!r}; this model knows 0 to {len(self.names) - 1}: {shown}"
        )


class ClassEmbedder(nnx.Module):
    """tau_theta for classes: int `[B]` -> `[B, 1, dim]`; `num_classes` includes the null class."""

    def __init__(self, num_classes: int, dim: int, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.dtype = dtype
        self.embedding = embed(num_classes, dim, std=1.0, rngs=rngs)

    def __call__(self, label: Array) -> Array:
        return self.embedding(label)[:, None, :].astype(self.dtype)
