"""The oracle reads renders right, and its report puts a score between ceiling and floor."""

import jax
import numpy as np
import pytest

from ldm_jax.data.scenes import CLASS_NAMES, COLOURS, ScenesConfig, ScenesSource
from ldm_jax.errors import UserError
from ldm_jax.evaluation import oracle


@pytest.fixture(scope="module")
def fresh():
    config = ScenesConfig(32, "single", validation_count=200)
    return ScenesSource(config, "validation", 77).read(range(200))


def test_fresh_renders_are_read_right(fresh):
    for asked in (fresh["class_label"], fresh["caption"]):
        score = oracle.agreement(fresh["image"], asked)
        assert score["both"] >= 0.97
        assert score["shape"] >= score["both"] and score["colour"] >= score["both"]


def test_larger_images_are_averaged_down():
    config = ScenesConfig(64, "single", validation_count=60)
    data = ScenesSource(config, "validation", 77).read(range(60))
    assert oracle.agreement(data["image"], data["class_label"])["both"] >= 0.95


def test_slightly_soft_and_noisy_images_are_read_right(fresh):
    x = fresh["image"].astype(np.float32)
    soft = sum(np.roll(x, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9
    noisy = soft + np.random.default_rng(0).normal(0, 8, x.shape)
    score = oracle.agreement(noisy.clip(0, 255).astype(np.uint8), fresh["class_label"])
    assert score["both"] >= 0.95


def test_a_report_has_samples_between_ceiling_and_floor(fresh):
    image, asked = fresh["image"], fresh["caption"]
    wrong = np.where(np.arange(100) % 2, asked[:100], np.roll(asked[:100], 1))  # half is asked anew
    report = oracle.oracle_report(image[:100], wrong, image[100:], asked[100:])
    assert report["ceiling"]["both"] >= 0.95
    assert 0.4 <= report["samples"]["both"] <= 0.65
    assert report["floor"]["both"] <= 0.12  # 1/32 by chance
    again = oracle.oracle_report(image[:100], wrong, image[100:], asked[100:])
    assert again == report


def test_a_reading_does_not_depend_on_its_batch(fresh):
    image = np.concatenate([fresh["image"], fresh["image"][:100]])  # more than one micro-batch
    shape, colour = oracle.read_scenes(image)
    assert shape.shape == colour.shape == (300,)
    assert np.array_equal(shape[:100], shape[200:])
    one = oracle.read_scenes(image[7:8])
    assert (one[0][0], one[1][0]) == (shape[7], colour[7])
    assert len(oracle.read_scenes(image[:0])[0]) == 0


def test_the_shipped_weights_fit_the_network():
    assert oracle.WEIGHTS.stat().st_size < 250 * 1024
    with np.load(oracle.WEIGHTS) as file:
        shipped = {name: file[name].shape for name in file.files}
        assert all(file[name].dtype == np.float16 for name in file.files)
    fresh = jax.eval_shape(oracle.init, jax.random.key(0))
    assert shipped == {name: value.shape for name, value in fresh.items()}


def test_training_learns(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_JAX_CACHE", str(tmp_path))
    params = oracle.train(renders=64, steps=25, batch=16, progress=False)
    data = ScenesSource(ScenesConfig(32, "single", 64), "train", oracle._SEED).read(range(64))
    _, logits = oracle.apply(params, data["image"] / np.float32(127.5) - 1)
    colour = data["class_label"] % len(COLOURS)
    assert np.mean(np.argmax(logits, axis=1) == colour) > 2 / len(COLOURS)


@pytest.mark.parametrize(
    ("images", "asked", "match"),
    [
        (np.zeros((2, 48, 48, 3), np.uint8), [0, 1], "multiple of 32"),
        (np.zeros((2, 32, 32, 3), np.float32), [0, 1], "uint8"),
        (np.zeros((2, 32, 64, 3), np.uint8), [0, 1], "multiple of 32"),
        (np.zeros((2, 32, 32, 3), np.uint8), [0], "2 images"),
        (np.zeros((2, 32, 32, 3), np.uint8), [0, len(CLASS_NAMES)], "class labels"),
        (np.zeros((1, 32, 32, 3), np.uint8), ["a floor at night"], "names no object"),
        (np.zeros((0, 32, 32, 3), np.uint8), np.zeros(0, int), "at least one"),
    ],
)
def test_what_cannot_be_read_is_said(images, asked, match):
    with pytest.raises(UserError, match=match):
        oracle.agreement(images, asked)
