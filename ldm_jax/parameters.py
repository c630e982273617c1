"""Splits a module into what pure functions take: its graph definition and its parameters."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
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


class _OneKey:
    """The same key for all parameters, where only their shapes matter: half the time to trace."""

    def params(self) -> jax.Array:
        return jax.random.key(0)


def abstract_module(build: Build) -> nnx.Module:
    """The module with a `ShapeDtypeStruct` in place of each array. Allocates no arrays."""
    return nnx.eval_shape(lambda: build(_OneKey()))


def make_graphdef(build: Build) -> nnx.GraphDef:
    """The graph of `nnx.merge(graph, params)`. Allocates no arrays."""
    return nnx.graphdef(abstract_module(build))


def abstract_params(build: Build) -> dict:
    """The shapes of the parameters, as nested dicts of `ShapeDtypeStruct`. Allocates no arrays."""
    return nnx.to_pure_dict(nnx.state(abstract_module(build), nnx.Param))


def init_params(build: Build, key: jax.Array) -> dict:
    """New random parameters, as nested dicts of arrays."""
    return nnx.to_pure_dict(nnx.state(build(Keys(key)), nnx.Param))


def not_finite(params: dict, path: str = "") -> str | None:
    """The name of the first array with NaN or infinity in it, such as `unet.conv_in.kernel`."""
    for name, value in params.items():
        here = f"{path}.{name}" if path else name
        if isinstance(value, dict):
            if found := not_finite(value, here):
                return found
        elif not np.isfinite(value).all():
            return here
    return None
