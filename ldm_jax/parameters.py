"""From a function that builds a module to what pure functions take: graph and parameters."""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import nnx

Build = Callable[["Keys"], nnx.Module]


class Keys:
    """Keys for fresh parameters; modules take it as `rngs`.

    In the place of `nnx.Rngs`, which counts its draws in an array: with that, tracing the published
    networks takes a minute or more, and with a number in Python a second or two.
    """

    def __init__(self, key: jax.Array):
        self.key, self.drawn = key, 0

    def params(self) -> jax.Array:
        """The next key."""
        self.drawn += 1
        return jax.random.fold_in(self.key, self.drawn)


def graph_of(build: Build) -> nnx.GraphDef:
    """What `nnx.merge(graph, params)` needs beside the parameters. Allocates nothing."""
    return nnx.graphdef(_abstract(build))


def shapes_of(build: Build) -> dict:
    """The parameters as nested dicts of `ShapeDtypeStruct`. Allocates nothing."""
    return nnx.to_pure_dict(nnx.state(_abstract(build), nnx.Param))


def fresh(build: Build, key: jax.Array) -> dict:
    """Fresh parameters as nested dicts of arrays."""
    return nnx.to_pure_dict(nnx.state(build(Keys(key)), nnx.Param))


def _abstract(build: Build) -> nnx.Module:
    return nnx.eval_shape(lambda: build(Keys(jax.random.key(0))))
