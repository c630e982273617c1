"""The scene reader sees what renders show, at both sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.data.scenes import COLOURS, MATERIALS, SIZES, ScenesConfig, ScenesSource
from ldm_jax.errors import UserError
from ldm_jax.evaluation import scene_reader

COUNT = 40


@pytest.fixture(scope="module", params=[32, 64])
def truths(request):
    config = ScenesConfig(request.param, "full", validation_count=COUNT)
    source = ScenesSource(config, "validation", 77)
    return [source.truth(i) for i in range(COUNT)]


@pytest.fixture(scope="module")
def seen(truths):
    return scene_reader.read(np.stack([truth.image for truth in truths]))


def test_fresh_renders_are_read_right(truths, seen):
    semantic = np.stack([truth.semantic for truth in truths])
    assert (seen.semantic == semantic).mean() >= 0.97
    assert seen.semantic.dtype == np.uint8
    assert seen.certainty[seen.semantic == semantic].mean() >= 0.9


def test_colour_size_material_and_place_of_objects_are_read(truths, seen):
    right = {"colour": [], "large": [], "shiny": [], "centre": []}
    for k, truth in enumerate(truths):
        side = truth.image.shape[0]
        for number, thing in enumerate(truth.objects):
            here = truth.instance == number
            left, top, right_edge, bottom = (edge / side for edge in thing.box)
            centre = (left + right_edge) / 2, (top + bottom) / 2
            right["colour"] += (COLOURS[i] == thing.colour for i in seen.colour[k][here])
            right["large"].append((seen.large[k][here].mean() > 0.5) == (thing.size == SIZES[1]))
            right["shiny"].append(
                (seen.shiny[k][here].mean() > 0.5) == (thing.material == MATERIALS[1])
            )
            offset = np.abs(seen.centre[k][here] - centre).max(axis=-1)
            right["centre"] += (offset < 0.06).tolist()
    score = {name: np.mean(values) for name, values in right.items()}
    assert score["colour"] >= 0.93
    assert score["large"] >= 0.85
    assert score["shiny"] >= 0.7
    assert score["centre"] >= 0.8


def test_slightly_soft_and_noisy_images_are_read_right(truths):
    images = np.stack([truth.image for truth in truths]).astype(np.float32)
    beside = [np.roll(images, s, axis) for axis in (1, 2) for s in (-1, 1)]
    soft = 0.6 * images + 0.1 * sum(beside)
    noisy = soft + np.random.default_rng(0).normal(0, 6, images.shape)
    seen = scene_reader.semantic(noisy.clip(0, 255).astype(np.uint8))
    assert (seen == np.stack([truth.semantic for truth in truths])).mean() >= 0.94


def test_single_objects_are_read_too():
    config = ScenesConfig(32, "single", validation_count=30)
    data = ScenesSource(config, "validation", 77, ("semantic",)).read(range(30))
    assert (scene_reader.semantic(data["image"]) == data["semantic"]).mean() >= 0.97


def test_larger_images_are_averaged_down_and_their_map_is_as_large_as_they_are():
    small = ScenesSource(ScenesConfig(64, "full", 3), "train", 77).read(range(3))["image"]
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    seen = scene_reader.semantic(large)
    assert seen.shape == (3, 128, 128)
    assert np.array_equal(seen[:, ::2, ::2], scene_reader.semantic(small))
    assert np.array_equal(seen[:, 1::2, 1::2], scene_reader.semantic(small))


def test_a_reading_does_not_depend_on_its_batch(truths, seen):
    image = np.stack([truth.image for truth in truths])
    many = scene_reader.read(np.concatenate([image, image]))  # more than one micro-batch
    one = scene_reader.read(image[7:8])
    assert len(many.semantic) == 2 * COUNT
    for whole, twice, alone in zip(seen, many, one, strict=True):
        assert np.allclose(twice[COUNT:], whole, atol=1e-5)
        assert np.allclose(alone[0], whole[7], atol=1e-5)
    assert scene_reader.semantic(image[:0]).shape == (0, *image.shape[1:3])


def test_folding_keeps_each_pixel_with_its_neighbours():
    x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    folded = scene_reader._fold(x)
    assert folded.shape == (2, 2, 3, 12)
    assert np.array_equal(folded[1, 1, 2].reshape(2, 2, 3), x[1, 2:4, 4:6])
    assert np.array_equal(scene_reader._unfold(folded), x)


def test_the_shipped_weights_fit_the_network():
    assert scene_reader.WEIGHTS.stat().st_size < 250 * 1024
    with np.load(scene_reader.WEIGHTS) as file:
        shipped = {name: file[name].shape for name in file.files}
        assert all(file[name].dtype == np.float16 for name in file.files)
    fresh = jax.eval_shape(scene_reader.init, jax.random.key(0))
    assert shipped == {name: value.shape for name, value in fresh.items()}


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (np.zeros((2, 48, 48, 3), np.uint8), "32 or a multiple of 64"),
        (np.zeros((2, 96, 96, 3), np.uint8), "32 or a multiple of 64"),
        (np.zeros((2, 32, 32, 3), np.float32), "uint8"),
        (np.zeros((2, 64, 32, 3), np.uint8), "uint8"),
        (np.zeros((64, 64, 3), np.uint8), "uint8"),
    ],
)
def test_what_cannot_be_read_is_said(images, match):
    with pytest.raises(UserError, match=match):
        scene_reader.read(images)
