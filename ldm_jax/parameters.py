"""Splits a module into what pure functions take: its graph definition and its parameters."""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import nnx

Build = Callable[["Keys"], nnx.Module]
"""A function that builds a module; its argument is the module's `rngs`."""


class Keys:
    """Random keys for new parameters; modules take it as `rngs`.

    It replaces `nnx.Rngs`, which counts its keys in an array and so takes a minute or more to trace
    the published networks. A Python number takes a second or two.
    """

    def __init__(self, key: jax.Array):
        self.key, self.count = key, 0

    def params(self) -> jax.Array:
        """The next key."""
        self.count += 1
        return jax.random.fold_in(self.key, self.count)


def make_graphdef(build: Build) -> nnx.GraphDef:
    """The graph of `nnx.merge(graph, params)`. Allocates no arrays."""
    return nnx.graphdef(_abstract_module(build))


def abstract_params(build: Build) -> dict:
    """The shapes of the parameters, as nested dicts of `ShapeDtypeStruct`. Allocates no arrays."""
    return nnx.to_pure_dict(nnx.state(_abstract_module(build), nnx.Param))


def init_params(build: Build, key: jax.Array) -> dict:
    """New random parameters, as nested dicts of arrays."""
    return nnx.to_pure_dict(nnx.state(build(Keys(key)), nnx.Param))


def _abstract_module(build: Build) -> nnx.Module:
    return nnx.eval_shape(lambda: build(Keys(jax.random.key(0))))
