"""benchmarks/tasks.py: what it trains, by the real command line; its table and its figure."""

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm_jax.commands.train.run import parse_command
from ldm_jax.experiments import EXPERIMENTS

FOLDER = Path(__file__).parents[2] / "benchmarks"
LAYOUT = {
    "reader": {
        "samples": {"iou": 0.5, "found": 0.6, "named": 0.75, "precision": 0.4},
        "floor": {"iou": 0.01, "named": 0.0},
        "ceiling": {"iou": 0.99, "named": 1.0},
        "reconstructed": {"iou": 0.9, "named": 0.95},
        "images": 256,
    }
}
RESTORED = {
    "restored": {
        "samples": {"psnr": 27.18, "ssim": 0.834},
        "bicubic": {"psnr": 22.2, "ssim": 0.7},
        "regression": {"psnr": 28.0, "ssim": 0.84},
        "reconstructed": {"psnr": 28.9, "ssim": 0.88},
        "images": 256,
    },
    "kid": {
        "samples": {"mean": 0.0312, "standard_error": 0.0021},
        "bicubic": {"mean": 0.2, "standard_error": 0.01},
        "regression": {"mean": 0.05, "standard_error": 0.002},
        "reconstructed": {"mean": 0.01, "standard_error": 0.001},
        "held_out": {"mean": -0.0001, "standard_error": 0.001},
        "features": "scene-reader",
        "images": 256,
    },
}


@pytest.fixture(scope="module")
def tasks():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("tasks")


def test_every_task_trains_its_experiment(tasks, tmp_path):
    runs = set()
    for task, (experiment, run, _) in tasks.TASKS.items():
        name, command = parse_command(tasks.words(tmp_path, task))
        assert (name, command.stage) == (experiment, "both")
        assert command.run_dir == str(tmp_path / run)
        assert command.experiment.autoencoder == EXPERIMENTS[experiment]().autoencoder
        runs.add(run)
    assert len(runs) == len(tasks.TASKS)


def test_a_first_stage_in_the_folder_is_used(tasks, tmp_path):
    (tmp_path / "scenes-64").mkdir()
    (tmp_path / "scenes-64" / "config.json").touch()
    lenders = {
        task: parse_command(tasks.words(tmp_path, task))[1].experiment.autoencoder.from_run
        for task in ("layout", "in-painting")
    }
    assert lenders == {"layout": str(tmp_path / "scenes-64"), "in-painting": "scenes-64-f4"}


def test_the_regression_differs_in_its_one_step_alone(tasks, tmp_path):
    ours, other = (
        parse_command(tasks.words(tmp_path, task))[1].experiment
        for task in ("super-resolution x4", "regression")
    )
    assert other.diffusion.prediction == "z_0" and other.sampling.steps == 1
    assert other.diffusion.schedule.timesteps == 1
    same = {"prediction": ours.diffusion.prediction, "schedule": ours.diffusion.schedule}
    assert dataclasses.replace(other.diffusion, **same) == ours.diffusion
    assert other.autoencoder == ours.autoencoder and other.data == ours.data


def test_rows(tasks):
    assert tasks.rows("layout", LAYOUT) == [
        "| layout | box IoU | 50.0% | shuffled 1.0% | 90.0% | 99.0% |",
        "| layout | shape and colour in its box | 75.0% | shuffled 0.0% | 95.0% | 100.0% |",
    ]
    assert tasks.rows("sr", RESTORED) == [
        "| sr | PSNR | 27.2 | bicubic 22.2, regression 28 | 28.9 |  |",
        "| sr | SSIM | 0.834 | bicubic 0.7, regression 0.84 | 0.88 |  |",
        "| sr | KID (scene-reader features) | 0.0312 ± 0.0021 | bicubic 0.2000 ± 0.0100, "
        "regression 0.0500 ± 0.0020 | 0.0100 ± 0.0010 | -0.0001 ± 0.0010 |",
    ]
    assert all(line.count("|") == tasks.HEADER[0].count("|") for line in tasks.rows("sr", RESTORED))


def test_the_figure_shows_each_cell_at_its_place(tasks):
    figure, example = tasks.figure, tasks.Example
    grey = [np.full((64, 64, 3), 40 * i, np.uint8) for i in range(6)]
    rows = {
        "layout": [example(*grey[:3]), example(*grey[3:])],
        "class": [example("a red ball", grey[1], None), example("blue cube", grey[2], grey[4])],
    }
    shown = figure(rows)
    assert shown.shape[1] < 1000  # the width of a page
    x = 124 + 64 + np.array([0, 132, 264, 404, 536, 668])
    assert shown[26 + 64, x, 0].tolist() == [0, 40, 80, 120, 160, 200]
    assert shown[26 + 132 + 64, x[1:3], 0].tolist() == [40, 255]  # and no truth
    text = shown[26 + 132 : 26 + 260, 124:252]
    assert (text.min(axis=(0, 1)) < 100).all() and (text[0] == 255).all()
    assert (shown[:26, :124] == 255).all() and shown[:26, 124:].min() < 100  # titles of columns


@pytest.mark.slow
def test_models_are_judged_and_stand_beside_others(tasks, trained_task, loaded, tmp_path):
    runs = {"unconditional": "none", "in-painting": "inpainting"}
    models = ((task, loaded(trained_task(kind)[1])) for task, kind in runs.items())
    lines = tasks.compare(models, tmp_path / "new", None).splitlines()
    assert lines[2].startswith("| unconditional | proper scenes | ")
    filled = [line for line in lines if line.startswith("| in-painting | ")]
    assert len(filled) == 2 and all("mean fill" in one and "blended" in one for one in filled)
    found = json.loads((tmp_path / "new" / "tasks.json").read_text())
    assert found["in-painting"]["restored"]["blended"]["psnr"] > 10
    shown = np.asarray(Image.open(tmp_path / "new" / "tasks.png"))
    assert shown.shape[0] == 26 + 2 * 132 and shown.std() > 20


@pytest.mark.slow
def test_known_pixels_are_unchanged_by_blending(tasks, trained_task, loaded):
    model = loaded(trained_task("none")[1])
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    masks = np.zeros((2, 32, 32), bool)
    masks[0, 5:20, 8:30] = masks[1, :3, :3] = True
    drawn = tasks.blended(model, images, masks)
    np.testing.assert_array_equal(drawn[~masks], images[~masks])
    assert (drawn[masks] != images[masks]).any(axis=-1).mean() > 0.5
