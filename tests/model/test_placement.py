"""Weights on the devices: split or whole, on some or all of them, the images are the same."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from ldm_jax.experiments.models import SecondStage
from ldm_jax.experiments.trained import load_weights, placed

from ldm_jax.experiments.config import MeshConfig
from ldm_jax.model.run_dir import RunDir
from ldm_jax.training import sharding

pytestmark = pytest.mark.slow


def test_images_do_not_depend_on_the_devices(trained, monkeypatch):
    monkeypatch.setattr(sharding, "SMALLEST_SHARDED", 64)
    run = RunDir(trained("captions")[1])
    _, experiment, facts = run.load()
    second, weights = SecondStage(experiment, facts), load_weights(run, experiment)
    asked = second.condition.encoder.encode(["a red square", "a blue square"] * 4)

    def drawn(mesh, n):
        ours, split = placed(weights, replace(experiment, mesh=mesh), n)
        used = {len(array.sharding.device_set) for array in jax.tree.leaves(ours)}
        parts = any(not array.is_fully_replicated for array in jax.tree.leaves(ours))
        settings = {"steps": 3, "guidance": 2.0, "batch_size": 8, "sharding": split}
        return second.generator(*ours, asked[:n], **settings), used, parts

    alone, devices, _ = drawn(MeshConfig(), 1)
    assert devices == {1}  # one image, one device
    for mesh, n, split in (
        (MeshConfig(fsdp=2, tensor=2), 8, True),
        (MeshConfig(fsdp=4), 8, False),  # which is a matter of training
        (MeshConfig(tensor=3), 2, False),  # eight devices cannot be split so: each of two has all
    ):
        images, devices, parts = drawn(mesh, n)
        assert devices == {min(n, 8)} and parts == split, mesh
        assert images.shape[0] == n
        np.testing.assert_allclose(np.int32(images[:1]), np.int32(alone), atol=1)
