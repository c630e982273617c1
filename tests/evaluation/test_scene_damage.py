"""Damaged renders: each damage by an independent restatement, and what stays sound."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.scenes import ScenesConfig, ScenesSource
from ldm_jax.data.scenes.geometry import pixel_truth
from ldm_jax.data.scenes.render import render
from ldm_jax.evaluation import scene_damage
from ldm_jax.evaluation.distortion import psnr


@pytest.fixture(scope="module")
def scene():
    source = ScenesSource(ScenesConfig(64, "pair", 8), "train", 3)
    return next(scene for scene in map(source.scene, range(8)) if len(scene.objects) == 2)


def test_a_blur_has_the_same_extent_at_each_size(scene):
    """Its unit is a 32nd of the side: a point spreads to sigma of 2 pixels at 64, of 1 at 32."""
    for side in (32, 64):
        image = np.zeros((side, side, 3), np.uint8)
        image[side // 2, side // 2] = 255
        spread = scene_damage.blur(np.repeat(image, 1, 0), 1.0)[..., 0].astype(float)
        ticks = np.arange(side) - side // 2
        sigma = side / 32
        kernel = np.exp(-0.5 * (ticks / sigma) ** 2)
        kernel /= kernel.sum()
        assert np.abs(spread - 255 * kernel[:, None] * kernel[None]).max() <= 1


def test_a_thumbnail_has_only_so_many_pixels(scene):
    small = scene_damage.thumbnail(render(scene, 64), 8, Image.Resampling.NEAREST)
    blocks = small.reshape(8, 8, 8, 8, 3).transpose(0, 2, 1, 3, 4).reshape(64, 64, 3)
    assert (blocks.reshape(64, 64, 3) == blocks[:, :1]).all()


def test_a_shift_of_half_a_pixel_is_the_mean_of_neighbours(scene):
    image = render(scene, 32)
    moved = scene_damage.shift(image, 0.0, 0.5).astype(float)
    mean = (image[:, 1:].astype(float) + image[:, :-1]) / 2
    assert np.abs(moved[:, 1:] - mean).max() <= 0.5


def test_a_warp_moves_pixels_as_far_as_it_says():
    rows = np.repeat(np.linspace(0, 255, 64)[:, None], 64, axis=1)  # about 4 steps a pixel
    image = np.repeat(rows[..., None], 3, axis=2).astype(np.uint8)
    moved = scene_damage.warp(image, 0.5, 1.5, np.random.default_rng(0)).astype(float)
    inside = (moved - image)[8:-8, 8:-8, 0] / (255 / 63)
    # An amplitude of 0.5 u is 1 pixel at 64; its share along the rows is 1 / sqrt(2).
    assert 0.5 < np.sqrt(np.mean(inside**2)) < 0.9


def test_damage_is_done_to_the_objects_that_are_named(scene):
    rng = np.random.default_rng(0)
    true, instance = render(scene, 64), pixel_truth(scene, 64)[1]
    seen = set()
    for _ in range(60):
        bad = scene_damage.damaged(scene, 64, instance, rng)
        assert bad.image.shape == true.shape and bad.image.dtype == np.uint8
        seen.add(bad.objects)
        changed = np.abs(bad.image.astype(int) - true).max(axis=-1)
        for number in bad.objects:
            assert changed[instance == number].max() > 8
    assert seen >= {(0,), (1,), (0, 1)}


def test_harmless_faults_are_small(scene):
    rng = np.random.default_rng(0)
    true = render(scene, 64)
    faults = np.stack([scene_damage.harmless(true, rng) for _ in range(40)])
    distances = psnr(np.repeat(true[None], 40, axis=0), faults)
    assert np.min(distances) > 22 and np.median(distances) > 30
    assert len({image.tobytes() for image in faults}) > 20
