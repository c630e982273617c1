"""The tiny network of tiny.py, and meshes to train it on."""

import functools
import importlib.util
from pathlib import Path

import jax
import pytest

from ldm_jax.training.sharding import make_mesh

SCRIPT = Path(__file__).with_name("tiny.py")


@pytest.fixture(scope="session")
def tiny():
    """The module tiny.py, which is also the script that child processes run."""
    spec = importlib.util.spec_from_file_location("tiny", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def one_device():
    return make_mesh(1, 1, 1, devices=jax.devices()[:1])


@pytest.fixture(scope="session")
def compiled(tiny, one_device):
    """(init, abstract state, step) of the tiny network on one device, compiled once for all."""
    return tiny.compile_on(one_device)


@pytest.fixture(scope="session")
def compiled_on(tiny):
    """(mesh, init, abstract state, step) on eight devices by the sizes of their mesh, likewise."""

    @functools.cache
    def compiled_on(data, fsdp, tensor):
        mesh = make_mesh(data, fsdp, tensor)
        return mesh, *tiny.compile_on(mesh)

    return compiled_on
