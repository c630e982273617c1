"""benchmarks/tasks.py: what it would train, through the real command line, and its table."""

import dataclasses
import importlib
from pathlib import Path

import numpy as np
import pytest

from ldm_jax.commands import cli
from ldm_jax.commands.train.run import TrainCommand
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.plots import save_png

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCORES = {
    "reader": {
        "samples": {"iou": 0.5, "found": 0.6, "precision": 0.4},
        "floor": {"iou": 0.01},
        "ceiling": {"iou": 0.99},
        "reconstructed": {"iou": 0.9},
        "images": 256,
    }
}
KID = {
    "kid": {
        "samples": {"mean": 0.0312, "standard_error": 0.0021},
        "bicubic": {"mean": 0.2, "standard_error": 0.01},
        "reconstructed": {"mean": 0.01, "standard_error": 0.001},
        "held_out": {"mean": -0.0001, "standard_error": 0.001},
        "features": "scene-reader",
        "images": 256,
    }
}
RESTORED = {
    "restored": {
        "samples": {"psnr": 27.18, "ssim": 0.834},
        "bicubic": {"psnr": 22.2, "ssim": 0.7},
        "reconstructed": {"psnr": 28.9, "ssim": 0.88},
        "images": 256,
    }
}


@pytest.fixture
def tasks(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("tasks")


def asked(tasks, folder, task, perceptual_file=""):
    """Run directory -> the command of train.py, by its own command line."""
    commands = {}
    for run, words in tasks.trainings(folder, task, perceptual_file).items():
        name, experiment, fields = cli.named_experiment(words)
        default = TrainCommand(experiment, f"runs/{name}")
        commands[run] = cli.parse(TrainCommand, fields, "python train.py", default)
        assert commands[run].run_dir == str(run)
    return commands


def test_every_task_asks_for_its_experiment(tasks, tmp_path):
    for task, (experiment, first, _) in tasks.TASKS.items():
        *before, run = asked(tasks, tmp_path, task, "weights.npz").values()
        assert run.stage == "both"
        assert run.experiment.evaluation.perceptual_file == "weights.npz"
        assert run.experiment.diffusion.unet == EXPERIMENTS[experiment]().diffusion.unet
        assert run.experiment.autoencoder.from_run == (str(tmp_path / first) if first else "")
        # The borrowed first stage is trained before, alone, and is of the same network.
        lent = [(str(tmp_path / first), "autoencoder")] if first else []
        assert [(lender.run_dir, lender.stage) for lender in before] == lent
        for lender in before:
            assert lender.experiment.autoencoder == EXPERIMENTS[experiment]().autoencoder


def test_a_task_is_judged_by_the_run_that_its_words_name(tasks, tmp_path):
    names = {task: [run.name for run in asked(tasks, tmp_path, task)][-1] for task in tasks.TASKS}
    assert len(set(names.values())) == len(names)
    for task in tasks.SHOWN_TASKS:  # whose figures are looked for by their experiments' names
        assert names[task] == tasks.TASKS[task][0]


def test_the_regression_differs_in_its_one_step_alone(tasks, tmp_path):
    ours, other = (
        asked(tasks, tmp_path, task)[tmp_path / name].experiment
        for task, name in (
            ("super-resolution", "scenes-super-resolution"),
            ("regression", "scenes-super-resolution-regression"),
        )
    )
    assert other.diffusion.prediction == "z_0" and other.sampling.steps == 1
    assert other.diffusion.schedule.timesteps == 1
    same = {"prediction": ours.diffusion.prediction, "schedule": ours.diffusion.schedule}
    assert dataclasses.replace(other.diffusion, **same) == ours.diffusion
    assert other.autoencoder == ours.autoencoder and other.data == ours.data


def test_rows(tasks):
    assert tasks.rows("layout", {"diffusion": SCORES | {"seconds": 90}}) == [
        "| layout | box IoU | 50.0% | shuffled 1.0% | true renders 99.0%, reconstructed 90.0% "
        "| 2 min |"
    ]
    assert tasks.rows("sr", {"diffusion": RESTORED | KID | {"seconds": 600}}) == [
        "| sr | PSNR, SSIM | 27.2, 0.834 | bicubic 22.2, 0.7 | reconstructed 28.9, 0.88 | 10 min |",
        "| sr | KID (scene-reader features) | 0.0312 ± 0.0021 | bicubic 0.2000 "
        "| held-out -0.0001, reconstructed 0.0100 | 10 min |",
    ]


def test_the_image_has_the_first_rows_of_each_figure(tasks, tmp_path):
    files = []
    for i, count in enumerate((32, 24)):
        pixels = np.zeros((-(-count // 8) * 30, 80, 3), np.uint8)
        pixels[:30] = 100 + i
        files.append(tmp_path / f"{i}.png")
        save_png(files[-1], pixels, {"num_images": count})
    seen = np.array(tasks.image(files))
    assert seen.shape == (780, 1038, 3)
    assert (seen[:390] == 100).all() and (seen[390:] == 101).all()
