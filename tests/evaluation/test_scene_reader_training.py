"""Training the scene reader: what is true of its examples, and a network that learns."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from ldm_jax.data.scenes import (
    COLOURS,
    FLOORS,
    MATERIALS,
    SHAPES,
    SIZES,
    ScenesConfig,
    ScenesSource,
)
from ldm_jax.evaluation import scene_reader_training as training
from ldm_jax.evaluation.scene_network import POSE_MEAN, POSE_SPREAD, VIEW, VIEW_MEAN, VIEW_SPREAD
from ldm_jax.training.config import Progress

FEW = {"single": 4, "full": 8}


@pytest.fixture(scope="module")
def data():
    return training.render_examples(FEW, progress=False)


def test_what_is_true_of_a_scene_is_in_its_tables(data):
    source = ScenesSource(ScenesConfig(64, "full", 8), "train", training.SEED)
    at_64, at_32 = data
    for i in range(8):
        row, truth = 4 + i, source.truth(i)
        assert np.array_equal(at_64["image"][row, 0], truth.image)
        assert np.array_equal(at_64["instance"][row], truth.instance + 2)
        shown = at_64["semantic"][row][at_64["instance"][row]]
        assert np.array_equal(shown, truth.semantic)
        for j, solid in enumerate(truth.scene.objects, start=2):
            words = SHAPES[at_64["semantic"][row, j] - 2], COLOURS[at_64["colour"][row, j]]
            assert words == (solid.shape, solid.colour)
            words = SIZES[at_64["size"][row, j]], MATERIALS[at_64["material"][row, j]]
            assert words == (solid.size, solid.material)
            pose = at_64["pose"][row, j] * POSE_SPREAD + POSE_MEAN
            assert np.allclose(pose, (solid.x, solid.y, solid.radius, solid.turn), atol=1e-5)
            left, top, right, bottom = truth.objects[j - 2].box
            centre = (left + right) / 128, (top + bottom) / 128
            assert np.allclose(at_64["centre"][row, j], centre)
        assert FLOORS[at_64["floor"][row]] == truth.scene.floor
        view = dict(zip(VIEW, at_64["view"][row] * VIEW_SPREAD + VIEW_MEAN, strict=True))
        azimuth, elevation = view["azimuth"], view["elevation"]
        sun = np.array([np.sin(azimuth), -np.cos(azimuth), 0]) * np.cos(elevation)
        sun[2] = np.sin(elevation)
        assert np.allclose(sun, truth.scene.sun, atol=1e-5)
        assert view["pitch"] == pytest.approx(truth.scene.camera.pitch, abs=1e-5)
    assert at_32["image"].shape == (12, 3, 32, 32, 3)
    assert (at_64["sound"][:, :2] == 1).all() and (at_64["sound"][:, 2].min(axis=1) == 0).all()


def test_a_batch_is_a_function_of_its_step(data):
    one, again, other = (training.batch_of(data, step, 6) for step in (3, 3, 4))
    assert jax.tree.all(jax.tree.map(np.array_equal, one, again))
    assert not np.array_equal(one["at_64"]["image"], other["at_64"]["image"])


def test_all_that_is_true_is_mirrored_with_the_image(data):
    part = {name: a.copy() for name, a in data[0].items() if name not in ("image", "sound")}
    part |= {name: data[0][name][:, 0].copy() for name in ("image", "sound")}
    before = {name: a.copy() for name, a in part.items()}
    chosen = np.arange(12) < 6
    training.mirror(part, chosen)
    assert np.array_equal(part["image"][:6], before["image"][:6, :, ::-1])
    assert np.array_equal(part["instance"][6:], before["instance"][6:])
    for i in range(6):
        for j in np.unique(part["instance"][i])[2:]:
            columns = np.nonzero(part["instance"][i] == j)[1]
            centre = (columns.min() + columns.max() + 1) / 128
            assert part["centre"][i, j, 0] == pytest.approx(centre)
    turn = before["pose"][:6, :, 3] * POSE_SPREAD[3] + POSE_MEAN[3]
    mirrored = part["pose"][:6, :, 3] * POSE_SPREAD[3] + POSE_MEAN[3]
    assert np.allclose(mirrored, np.pi / 2 - turn, atol=2e-3)  # the mean is pi / 4 to three digits
    assert np.array_equal(part["view"][:6, [3, 5]], -before["view"][:6, [3, 5]])


@pytest.mark.slow
def test_training_learns_and_goes_on_where_it_stopped(tmp_path):
    few, progress = {"single": 2, "full": 2}, Progress(log_every=1, save_every=2)
    optimiser = dataclasses.replace(training.CONFIG.optimiser, schedule="constant")
    config = dataclasses.replace(
        training.CONFIG, optimiser=optimiser, batch_size=2 * jax.device_count(), progress=progress
    )

    def trained(run, steps):
        run = tmp_path / run
        run.mkdir(exist_ok=True)
        config_here = dataclasses.replace(config, steps=steps)
        return training.train(run, few, config_here, progress=False)

    whole = trained("whole", 4)
    trained("parts", 2)
    assert jax.tree.all(jax.tree.map(np.array_equal, whole, trained("parts", 4)))
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == 4 and losses[-1] < losses[0]
