"""A row of the table of names, and the rows of the layers that every network is made of."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ldm_jax.pretrained.layout import Layout

Path = tuple[str | int, ...]
AS_IT_IS = Layout()


@dataclass(frozen=True)
class Entry:
    """One array of a CompVis file and the parameters here that it holds."""

    ours: tuple[Path, ...]
    """Where it is in our tree: one place, or those of q, k and v."""
    compvis: str
    """Its name there."""
    diffusers: tuple[str, ...]
    """Its name there, or those of q, k and v; empty where diffusers has no such network."""
    layout: Layout
    """How it lies in the CompVis file."""


Rows = Iterator[Entry]


@dataclass(frozen=True)
class At:
    """A module, by its names with dots in the three worlds; None: diffusers does not have it."""

    ours: str = ""
    compvis: str = ""
    diffusers: str | None = ""

    def __truediv__(self, names: str | tuple[str, ...]) -> At:
        """What is inside: one name for all, or ours, CompVis' and perhaps diffusers'."""
        ours, compvis, *rest = (names,) * 3 if isinstance(names, str) else names
        known = rest and self.diffusers is not None
        diffusers = _join(self.diffusers, *rest) if known else None
        return At(_join(self.ours, ours), _join(self.compvis, compvis), diffusers)


def _join(*names: str) -> str:
    return ".".join(name for name in names if name)


def entry(*places: At, layout: Layout = AS_IT_IS) -> Entry:
    """The row of an array; of q, k, v in one if there are three places."""
    return Entry(
        tuple(
            tuple(int(key) if key.isdecimal() else key for key in at.ours.split("."))
            for at in places
        ),
        places[0].compvis,
        tuple(at.diffusers for at in places if at.diffusers is not None),
        layout,
    )


def norm(at: At) -> Rows:
    yield entry(at / ("scale", "weight", "weight"))
    yield entry(at / "bias")


def layer(at: At, *, bias: bool = True, ones: int = 0) -> Rows:
    """A convolution or a dense layer; `ones`: a dense one here, a 1x1 convolution there."""
    yield entry(at / ("kernel", "weight", "weight"), layout=Layout(transposed=True, ones=ones))
    if bias:
        yield entry(at / "bias")


def fused(places: list[At], turns: int) -> Rows:
    """q, k and v of one 1-D convolution there."""
    kernels = [at / ("kernel", "weight", "weight") for at in places]
    yield entry(*kernels, layout=Layout(transposed=True, ones=1, turns=turns))
    yield entry(*(at / "bias" for at in places), layout=Layout(turns=turns))


def embedding(at: At) -> Rows:
    yield entry(at / ("embedding", "weight", "weight"))


def table(rows: Callable[..., Rows]) -> Callable[..., tuple[Entry, ...]]:
    """All rows at once: a table is walked more than once."""

    @functools.wraps(rows)
    def whole(*args, **kwargs):
        return tuple(rows(*args, **kwargs))

    return whole
