"""A row of the table of parameter names, and the rows of the layers that all networks share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ldm_jax.pretrained.array_layout import ArrayLayout

Path = tuple[str | int, ...]
SAME_LAYOUT = ArrayLayout()


@dataclass(frozen=True)
class NameRow:
    """One array of a CompVis file, and the names of the same parameters elsewhere."""

    paths: tuple[Path, ...]
    """Path of the parameter in the tree of ldm_jax; three paths if the array fuses q, k and v."""
    compvis: str
    """Name in the CompVis file."""
    diffusers: tuple[str, ...]
    """Name in diffusers, or three for q, k and v; empty if diffusers has no such network."""
    layout: ArrayLayout
    """Memory layout in the CompVis file."""


Rows = Iterator[NameRow]


@dataclass(frozen=True)
class ModuleName:
    """The dotted name of a module in the three projects; None: diffusers does not have it."""

    ldm_jax: str = ""
    compvis: str = ""
    diffusers: str | None = ""

    def __truediv__(self, names: str | tuple[str, ...]) -> ModuleName:
        """A submodule or parameter: one name for all, or (ldm_jax, CompVis[, diffusers])."""
        ldm_jax, compvis, *rest = (names,) * 3 if isinstance(names, str) else names
        in_diffusers = rest and self.diffusers is not None
        diffusers = _join(self.diffusers, *rest) if in_diffusers else None
        return ModuleName(_join(self.ldm_jax, ldm_jax), _join(self.compvis, compvis), diffusers)


def _join(*names: str) -> str:
    return ".".join(name for name in names if name)


def row(*names: ModuleName, layout: ArrayLayout = SAME_LAYOUT) -> NameRow:
    """The row of an array; three names if it fuses q, k and v."""
    return NameRow(
        tuple(
            tuple(int(key) if key.isdecimal() else key for key in name.ldm_jax.split("."))
            for name in names
        ),
        names[0].compvis,
        tuple(name.diffusers for name in names if name.diffusers is not None),
        layout,
    )


def norm(name: ModuleName) -> Rows:
    yield row(name / ("scale", "weight", "weight"))
    yield row(name / "bias")


def layer(name: ModuleName, *, bias: bool = True, ones: int = 0) -> Rows:
    """A convolution or a dense layer; `ones`: axes of size 1 that CompVis adds (a 1x1 conv)."""
    yield row(name / ("kernel", "weight", "weight"), layout=ArrayLayout(transposed=True, ones=ones))
    if bias:
        yield row(name / "bias")


def fused(names: list[ModuleName], groups: int) -> Rows:
    """q, k and v, which CompVis computes by one 1-D convolution."""
    kernels = [name / ("kernel", "weight", "weight") for name in names]
    yield row(*kernels, layout=ArrayLayout(transposed=True, ones=1, qkv_groups=groups))
    yield row(*(name / "bias" for name in names), layout=ArrayLayout(qkv_groups=groups))


def embedding(name: ModuleName) -> Rows:
    yield row(name / ("embedding", "weight", "weight"))


def table(rows: Callable[..., Rows]) -> Callable[..., tuple[NameRow, ...]]:
    """Makes a generator of rows return them as a tuple."""

    @functools.wraps(rows)
    def as_tuple(*args, **kwargs):
        return tuple(rows(*args, **kwargs))

    return as_tuple
