"""What every test runs under. Set through the environment, so that child processes share it."""

import functools
import math
import os
import re
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest

pytest_plugins = ["tests.runs"]  # command lines and tiny trained runs, for all rooms

os.environ["JAX_PLATFORMS"] = "cpu"
# Eight devices, so that a test can build a mesh; most use the first one only.
flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()
# A shape that is broadcast to more dimensions by accident is an error.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Programs that run a few steps on small arrays take longer to optimise than to run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
# Compiled programs are kept between runs, and between a test and its child processes.
cache = Path(tempfile.gettempdir()) / f"ldm_jax-test-cache-{os.getuid()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def pytest_collection_modifyitems(items):
    """Files with slow tests come first: while the last of them runs, a worker has others to do."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def golden():
    """`CASE/in_*` and `CASE/out_*` that CompVis/latent-diffusion computed on a CPU in float32.

    Layout is torch's NCHW. The weights were those of `golden_weight`.
    """
    with np.load(Path(__file__).with_name("golden.npz")) as file:
        return dict(file)


@pytest.fixture(scope="session")
def golden_weight():
    """(the reference's name of an array, its shape in torch) -> the array, by rule."""

    def weight(key, shape):
        v = 0.1 * np.sin(0.7 * np.arange(math.prod(shape)) + zlib.crc32(key.encode()) % 1000)
        if key.endswith(".weight") and len(shape) == 1:  # the scale of a norm
            v = 1.0 + v
        return v.astype(np.float32).reshape(shape)

    return weight


@pytest.fixture(scope="session")
def fill(golden_weight):
    """(our parameters, names) -> the same tree with the golden weights in it.

    `names` are (regex, replacement) pairs that, applied in turn, make the reference's name of a
    module out of ours ('down.0.res.conv1' -> 'input_blocks.1.0.in_layers.2').
    """

    def fill_tree(tree, names, weight=golden_weight, path=""):
        filled = {}
        for name, child in tree.items():
            if isinstance(child, dict):
                filled[name] = fill_tree(child, names, weight, f"{path}.{name}".lstrip("."))
                continue
            key = path
            for pattern, replacement in names:
                key = re.sub(pattern, replacement, key)
            if name == "kernel":  # in torch OIHW, or out x in
                order = (3, 2, 0, 1) if child.ndim == 4 else (1, 0)
                shape = tuple(child.shape[axis] for axis in order)
                filled[name] = weight(f"{key}.weight", shape).transpose(np.argsort(order))
            else:
                filled[name] = weight(
                    f"{key}.{'bias' if name == 'bias' else 'weight'}", child.shape
                )
        return filled

    return fill_tree


@pytest.fixture(scope="session")
def drawn():
    """(module class, its arguments) -> (graph, parameters drawn by NumPy).

    Nothing is compiled for it, and no part is zero at the start.
    """
    import jax
    from flax import nnx

    from ldm_jax.parameters import abstract_module

    @functools.cache
    def shapes(module, *args, **kwargs):
        graph, state = nnx.split(abstract_module(lambda rngs: module(*args, **kwargs, rngs=rngs)))
        return graph, nnx.to_pure_dict(state)

    def draw(module, *args, **kwargs):
        rng = np.random.default_rng(0)

        def leaf(path, like):
            noise = rng.normal(size=like.shape)
            if path[-1].key == "kernel":
                noise /= math.prod(like.shape[:-1]) ** 0.5
            elif path[-1].key in ("scale", "bias"):
                noise = (path[-1].key == "scale") + 0.1 * noise
            return noise.astype(like.dtype)

        graph, wanted = shapes(module, *args, **kwargs)
        return graph, jax.tree_util.tree_map_with_path(leaf, wanted)

    return draw
