"""Training the scene reader: truth that moves with its image, and a network that learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.data.scenes import ScenesConfig, ScenesSource
from ldm_jax.evaluation import scene_reader
from ldm_jax.evaluation import scene_reader_training as training


@pytest.mark.slow
def test_what_is_right_moves_with_the_image():
    source = ScenesSource(ScenesConfig(32, "full", 6), "train", 3)
    data = training.render_truth([source], progress=False)
    tables = {n: data[n] for n in ("semantic", "colour", "size", "material", "centre")}
    right = training.targets(tables, data["instance32"])
    assert np.array_equal(right["semantic"], np.stack([source.truth(i).semantic for i in range(6)]))
    # An image made of its own truth shows whether both are moved alike.
    x = jnp.repeat(right["semantic"][..., None] * 0.3 - 0.8, 3, axis=-1)
    moved, right_moved = training.augment(jax.random.key(1), x, right)
    assert not np.array_equal(right_moved["semantic"], right["semantic"])
    for image, what in zip(moved.mean(axis=-1), right_moved["semantic"], strict=True):
        assert np.corrcoef(image.ravel(), what.ravel())[0, 1] > 0.85
    # All pixels of an object still point at one place.
    ticks = (np.arange(32) + 0.5) / 32
    place = np.stack(np.meshgrid(ticks, ticks), axis=-1)
    for offset, what in zip(right_moved["offset"], right_moved["semantic"], strict=True):
        inner = np.zeros((32, 32), bool)
        inner[3:-3, 3:-3] = np.asarray(what)[3:-3, 3:-3] >= 2  # edges were repeated
        centres = np.unique((place + offset)[inner].round(3), axis=0)
        assert len(centres) <= 4


@pytest.fixture
def quick_compilation():
    """A program that runs a few steps is not worth optimising."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.slow
def test_training_learns(quick_compilation):
    cycles = (training.Cycle(10, 4, 4e-3, 1.0),)
    source = ScenesSource(ScenesConfig(64, "full", 8), "train", training.SEED)
    data = training.render_truth([source], progress=False)
    tables = {n: data[n] for n in ("semantic", "colour", "size", "material", "centre")}
    right = training.targets(tables, data["instance32"])
    x = data["image32"].astype(np.float32) / 127.5 - 1
    params = training.train(8, 1, cycles, progress=False)
    fresh = scene_reader.init(jax.random.key(0))
    before, after = (training.loss_of(p, x, right) for p in (fresh, params))
    assert after < 0.8 * before
