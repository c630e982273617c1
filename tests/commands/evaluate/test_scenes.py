"""What `evaluate` says of scenes alone: true renders score as they should, damaged ones do not."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.commands.evaluate.scenes import can_be_read, judge_scenes, scene_lines
from ldm_jax.commands.train.held_out import HeldOut
from ldm_jax.data.scenes import ScenesConfig, ScenesSource
from ldm_jax.data.tfds import TfdsConfig
from ldm_jax.evaluation import scene_damage
from ldm_jax.evaluation.scene_guess import guess_scenes
from ldm_jax.evaluation.scene_reader import read

N = 10


@pytest.fixture(scope="module")
def source():
    return ScenesSource(ScenesConfig(32, "single", validation_count=2 * N), "validation", 5)


@pytest.fixture(scope="module")
def report(source, tmp_path_factory):
    """True renders as samples, blurred ones as reconstructions."""
    folder = tmp_path_factory.mktemp("scenes")
    examples = HeldOut(None, source.read(np.arange(N)), None, N)
    truth = examples.truth["image"]
    blurred = np.stack([scene_damage.blur(image, 1.5) for image in truth])
    sets = {"real": truth, "examples": truth, "samples": truth, "reconstructions": blurred}
    data = ScenesConfig(32, "single", held_out_words=("red ball", "cyan cone"))
    return judge_scenes(sets, examples, data, "text", folder), folder


def test_true_renders_are_read_right_and_blurred_ones_are_not(report):
    words = report[0]["words"]
    assert words["samples"] == words["held_out"]
    assert words["samples"]["whole"] >= 0.8 and words["samples"]["images"] == N
    assert words["reconstructions"]["shape"] == 0 and words["reconstructions"]["colour"] >= 0.9


def test_true_renders_are_proper_scenes_and_blurred_ones_are_not(report):
    near = report[0]["nearest_renders"]
    assert near["samples"]["proper"] >= 0.8 and near["samples"]["median_psnr"] > 30
    assert near["reconstructions"]["proper"] <= 0.2 < near["samples"]["proper"]
    assert Image.open(report[1] / "scenes.png").width > 300


def test_coverage_is_against_the_known_distribution(report):
    tables = report[0]["coverage"]["samples"]
    assert {"shape", "colour", "floor", "sky", "shape x colour", "floor x sky"} <= set(tables)
    assert tables["colour"]["degrees"] == 7
    assert 0 <= tables["colour"]["total_variation"] <= 1
    assert tables["colour"]["p_value"] is None  # ten images are too few for eight colours


def test_held_out_combinations_of_words_stand_beside_the_seen_ones(report):
    words = report[0]["held_out_words"]
    assert words["held_out"]["n"] + words["seen"]["n"] == N
    assert words["seen"]["share"] >= 0.7 and 0 < words["held_out"]["n"] < N


def test_the_lines_say_the_main_numbers(report):
    lines = "\n".join(scene_lines(report[0]))
    assert "read in samples: whole" in lines and "proper scenes" in lines


def test_the_guess_is_near_to_the_true_scene(source):
    truths = [source.truth(i) for i in range(N)]
    guesses = guess_scenes(read(np.stack([truth.image for truth in truths])))
    for guess, truth in zip(guesses, truths, strict=True):
        (one,), (true,) = guess.objects, truth.scene.objects
        assert (one.shape, one.colour, guess.sky) == (true.shape, true.colour, truth.scene.sky)
        assert abs(one.x - true.x) < 0.25 and abs(one.y - true.y) < 0.5
        assert np.dot(guess.sun, truth.scene.sun) > np.cos(np.radians(35))
        assert abs(guess.camera.pitch - truth.scene.camera.pitch) < 0.04


def test_only_scenes_of_two_sizes_are_read():
    assert can_be_read(ScenesConfig(32), 32) and can_be_read(ScenesConfig(64), 64)
    assert not can_be_read(ScenesConfig(16), 16) and not can_be_read(TfdsConfig(), 32)
