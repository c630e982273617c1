"""Names and shapes of the published files, and our networks as shapes."""

import functools
import json
import lzma
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from ldm_jax.parameters import abstract_module


@pytest.fixture(scope="session")
def lists():
    """Kind -> case -> name of an array -> its shape.

    `published`: the state dicts of the published models of CompVis/latent-diffusion and of Stable
    Diffusion v1; `golden`: those of small networks of theirs; `diffusers`: those of small networks
    of diffusers 0.42.1 and transformers 5.23.0.
    """
    with lzma.open(Path(__file__).with_name("keys.json.xz")) as file:
        return json.load(file)


@pytest.fixture(scope="session")
def numbers():
    """`CASE/in_*` and `CASE/out_*` of the small networks of `lists`, with `golden_weight`s in them.

    What the reference and diffusers (`diffusers_CASE`) computed on a CPU in float32, in torch's
    layout.
    """
    with np.load(Path(__file__).with_name("golden.npz")) as file:
        return dict(file)


@pytest.fixture(scope="session")
def abstract():
    """(module class, its arguments) -> (graph, shapes of its parameters), made once."""

    @functools.cache
    def make(module, *args, **kwargs):
        graph, state = nnx.split(abstract_module(lambda rngs: module(*args, **kwargs, rngs=rngs)))
        return graph, nnx.to_pure_dict(state)

    return make
