"""The nearest true render: exact on true scenes, reached from noisy readings, far from others."""

import importlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ldm_jax
from ldm_jax.data.scenes import ScenesConfig, ScenesSource, geometry
from ldm_jax.data.scenes.render import render
from ldm_jax.data.scenes.world import LEVELS
from ldm_jax.errors import UserError
from ldm_jax.evaluation.scene_factors import OBJECT, SURROUNDINGS, errors, factors, ranges
from ldm_jax.evaluation.scene_factors import with_factors as scene_with
from ldm_jax.evaluation.scene_guess import guess_scenes, object_masks
from ldm_jax.evaluation.scene_match import match
from ldm_jax.evaluation.scene_match_set import match_set
from ldm_jax.evaluation.scene_reader import read as read_images
from ldm_jax.evaluation.scene_search import compare, shrunk

FOLDER = Path(__file__).parents[2] / "benchmarks"


def source_of(size=32, level="single", count=8):
    return ScenesSource(ScenesConfig(size, level, count), seed=3)


def shown(scene, size):
    return geometry.pixel_truth(scene, size)[1] >= 0


def read(scene, seed, amount=1.0):
    """A scene with errors, and with another floor's pattern, which no reader sees."""
    rng = np.random.default_rng(seed)
    values = factors(scene)
    noise = amount * rng.normal(size=values.shape)
    return replace(scene_with(scene, values + errors(scene) * noise), offset=(0.3, 0.6))


@pytest.fixture(scope="module")
def from_noisy_readings():
    """(true scene, its image, its match) of scenes of all levels at 32."""
    found = []
    for level in LEVELS:
        source = source_of(level=level)
        for i in range(3):
            scene = source.scene(i)
            image = render(scene, 32)
            found.append((scene, image, match(image, read(scene, i, 0.6), shown(scene, 32), level)))
    return found


@pytest.mark.parametrize("level", LEVELS)
def test_factors_describe_a_scene_and_lie_in_their_ranges(level):
    for i in range(8):
        scene = source_of(level=level).scene(i)
        values = factors(scene)
        assert (
            len(values)
            == len(errors(scene))
            == len(SURROUNDINGS) + len(OBJECT) * len(scene.objects)
        )
        again = scene_with(scene, values)
        assert np.allclose(again.sun, scene.sun, atol=1e-12)
        assert replace(again, sun=scene.sun) == scene
        low, high = ranges(scene, level)
        assert ((low <= values) & (values <= high)).all()
        assert (values[5::4] == [solid.x for solid in scene.objects]).all()


@pytest.mark.parametrize(("size", "level"), [(32, "full"), (64, "single")])
def test_a_render_is_its_own_nearest(size, level):
    scene = source_of(size, level).scene(1)
    image = render(scene, size)
    found = match(image, scene, shown(scene, size), level)
    assert found.psnr == np.inf and found.is_proper and found.unexplained == 0.0
    assert (found.nearest == image).all() and (found.render == image).all()
    assert found.renders == 0  # nothing was searched


def test_noisy_readings_come_back(from_noisy_readings):
    psnrs = [found.psnr for *_, found in from_noisy_readings]
    assert np.median(psnrs) > 34
    proper = [found.is_proper for *_, found in from_noisy_readings]
    assert sum(proper) >= len(proper) - 1  # of these errors some are too large for the search
    for scene, image, found in from_noisy_readings:
        assert found.renders <= 320
        assert (found.nearest[~found.compared] == image[~found.compared]).all()
        if not found.is_proper:
            continue
        for one, two in zip(scene.objects, found.scene.objects, strict=True):
            u, v, _ = scene.camera.project(one.x, one.y, one.radius)
            u2, v2, _ = found.scene.camera.project(two.x, two.y, two.radius)
            assert np.hypot(u - u2, v - v2) * 16 < 1.5  # pixels at 32


def test_psnr_is_that_of_the_compared_pixels(from_noisy_readings):
    for _, image, found in from_noisy_readings[:3]:
        a, b = (x[found.compared].astype(float) for x in (image, found.nearest))
        assert found.psnr == pytest.approx(20 * np.log10(255 / np.sqrt(((a - b) ** 2).mean())))
        assert (found.render == render(found.scene, 32)).all()


def test_the_pattern_of_the_floor_does_not_count():
    scene = replace(source_of().scene(0), floor="checkered")
    other = replace(scene, offset=(scene.offset[0] + 0.08, scene.offset[1]))
    images = [render(one, 32) for one in (scene, other)]
    assert (images[0] != images[1]).any()
    plain = [compare(x.astype(np.float32), scene, shown(scene, 32)) for x in images]
    errors_ = [np.abs(c.nearest - x)[c.compared].mean() for c, x in zip(plain, images, strict=True)]
    assert errors_[0] == 0.0 and errors_[1] < 3.0


def test_shrinking_averages_light():
    scene = source_of(64).scene(2)
    image = render(scene, 64)
    small, mask = shrunk(image, shown(scene, 64), 32)
    blocks = image.reshape(32, 2, 32, 2, 3).astype(float) ** 2
    assert np.allclose(small**2, blocks.mean(axis=(1, 3)), rtol=1e-4, atol=0.1)
    assert np.abs(small - render(scene, 32))[mask].mean() < 3.0
    assert (mask == shown(scene, 32)).mean() > 0.98


def test_what_no_scene_explains_is_not_proper():
    sys.path.insert(0, str(FOLDER))
    try:
        kinds = importlib.import_module("improper_scenes")
    finally:
        sys.path.remove(str(FOLDER))
    rng = np.random.default_rng(0)
    source = source_of()
    passed = {}
    for name in ("cubes as tubs, narrow below", "cones as funnels", "half of two scenes"):
        images, objects, scenes = zip(
            *(kinds.improper(name, source.scene(i), 32, rng) for i in range(2)), strict=True
        )
        guesses = [read(scene, i, 0.3) for i, scene in enumerate(scenes)]
        found = match_set(np.stack(images), guesses, np.stack(objects))
        passed[name] = sum(one.is_proper for one in found)
    assert sum(passed.values()) == 0, passed


def test_light_from_the_wrong_side_is_found():
    scene = source_of().scene(2)
    image = render(scene, 32)
    x, y, z = scene.sun
    found = match(image, replace(scene, sun=(-x, y, z)), shown(scene, 32))
    assert found.scene.sun[0] * x > 0 and found.is_proper


def test_images_are_matched_from_what_the_reader_reads():
    images = source_of(level="pair").read(range(4))["image"]
    seen = read_images(images)
    found = match_set(images, guess_scenes(seen), object_masks(seen), "pair", workers=1)
    assert sum(one.is_proper for one in found) >= 3


def test_objects_that_the_guess_lacks_are_unexplained():
    scene = source_of(level="pair", count=30)
    scene = next(s for s in (scene.scene(i) for i in range(30)) if len(s.objects) == 2)
    image, both = render(scene, 32), shown(scene, 32)
    found = match(image, replace(scene, objects=scene.objects[:1]), both, "pair")
    assert found.unexplained > 0.1 and not found.is_proper


def test_a_set_is_matched_by_processes_as_one_by_one(tmp_path):
    source = source_of()
    scenes = [source.scene(i) for i in range(3)]
    images = np.stack([render(scene, 32) for scene in scenes])
    one = match_set(images, scenes, workers=1)
    script = tmp_path / "script.py"  # without a guard: it must not run twice
    script.write_text(
        "from ldm_jax.data.scenes import ScenesConfig, ScenesSource\n"
        "from ldm_jax.evaluation.scene_match_set import match_set\n"
        "source = ScenesSource(ScenesConfig(32, 'single', 8), seed=3)\n"
        "scenes = [source.scene(i) for i in range(3)]\n"
        "found = match_set(source.read(range(3))['image'], scenes, workers=2)\n"
        "print([one.psnr for one in found])\n"
    )
    out = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(Path(ldm_jax.__file__).parents[1])},
        check=True,
        capture_output=True,
        text=True,
    )
    assert out.stdout.strip() == str([x.psnr for x in one])


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"image": np.zeros((32, 32, 3))}, "uint8 .* 32 or 64"),
        ({"image": np.zeros((48, 48, 3), np.uint8)}, "uint8 .* 32 or 64"),
        ({"objects": np.zeros((16, 16), bool)}, "objects of an image"),
        ({"objects": np.zeros((32, 32))}, "objects of an image"),
        ({"level": "many"}, "single, full, pair"),
        ({"guess": {"objects": ()}}, "at least one object"),
        ({"guess": {"sky": "green"}}, "unknown sky 'green'"),
        ({"guess": {"floor_turn": float("nan")}}, "not finite"),
        ({"solid": {"shape": "torus"}}, "unknown shape 'torus'"),
        ({"solid": {"x": float("inf")}}, "not finite"),
    ],
)
def test_bad_input_is_one_line(bad, words):
    scene = source_of().scene(0)
    solid = replace(scene.objects[0], **bad.get("solid", {}))
    guess = replace(scene, objects=(solid,))
    guess = replace(guess, **bad.get("guess", {}))
    image = bad.get("image", render(scene, 32))
    with pytest.raises(UserError, match=words) as caught:
        match(image, guess, bad.get("objects"), bad.get("level", "single"))
    assert "\n" not in str(caught.value)


def test_a_bad_image_of_a_set_is_named_before_the_search():
    scene = source_of().scene(0)
    images = np.stack([render(scene, 32)] * 2)
    with pytest.raises(UserError, match="image 1 of 2: a scene to match needs"):
        match_set(images, [scene, replace(scene, objects=())])
    with pytest.raises(UserError, match="need a scene each"):
        match_set(images, [scene])
