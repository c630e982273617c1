"""benchmarks/tasks.py: what it would train, through the real command line, and its table."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from ldm_jax.experiments import EXPERIMENTS, command
from ldm_jax.plots import save_png

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCORES = {
    "oracle": {
        "samples": {"iou": 0.5, "found": 0.6, "precision": 0.4},
        "floor": {"iou": 0.01},
        "ceiling": {"iou": 0.99},
        "reconstructed": {"iou": 0.9},
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


@pytest.fixture
def trained(tasks, monkeypatch):
    """Run directory -> (experiment's name, experiment, stage) of what was asked to be trained."""
    asked = {}

    def train(name, experiment, run, stage):
        asked[Path(str(run.path))] = (name, experiment, stage)
        run.path.mkdir(parents=True, exist_ok=True)
        (run.path / "summary.json").write_text(json.dumps({"diffusion": SCORES | {"seconds": 90}}))

    def run(words, check):
        assert check and Path(words[1]).name == "train.py"
        assert command.train_main(words[2:]) == 0

    monkeypatch.setattr(command, "train", train)
    monkeypatch.setattr(command, "_one_device_a_core", lambda: None)
    monkeypatch.setattr(tasks.subprocess, "run", run)
    return asked


def test_every_task_asks_for_its_experiment(tasks, trained, tmp_path):
    for task, (experiment, first, _) in tasks.TASKS.items():
        trained.clear()
        tasks.trained_task(tmp_path, task, "weights.npz")
        (name, asked, stage), *borrowed = reversed(trained.values())
        assert (name, stage, asked.sampling.perceptual_file) == (experiment, "both", "weights.npz")
        assert asked.autoencoder.from_run == (str(tmp_path / first) if first else "")
        # The borrowed first stage is trained before, alone, and is of the same network.
        assert [(name, stage) for name, _, stage in borrowed] == [(first, "autoencoder")] * bool(
            first
        )
        for _, lender, _ in borrowed:
            assert lender.autoencoder == EXPERIMENTS[experiment]().autoencoder


def test_the_regression_differs_in_its_one_step_alone(tasks, trained, tmp_path):
    tasks.trained_task(tmp_path, "super-resolution", "")
    tasks.trained_task(tmp_path, "regression", "")
    (_, ours, _), (_, other, _) = (
        trained[tmp_path / name]
        for name in ("scenes-super-resolution", "scenes-super-resolution-regression")
    )
    assert other.diffusion.prediction == "z_0" and other.sampling.steps == 1
    assert other.diffusion.schedule.timesteps == 1
    assert other.diffusion.unet == ours.diffusion.unet
    assert other.diffusion.optimiser == ours.diffusion.optimiser
    assert (other.diffusion.steps, other.diffusion.batch_size) == (
        ours.diffusion.steps,
        ours.diffusion.batch_size,
    )


def test_rows(tasks):
    assert tasks.rows("layout", {"diffusion": SCORES | {"seconds": 90}}) == [
        "| layout | box IoU | 50.0% | shuffled 1.0% | true renders 99.0%, reconstructed 90.0% "
        "| 2 min |"
    ]
    assert tasks.rows("sr", {"diffusion": RESTORED | {"seconds": 600}}) == [
        "| sr | PSNR, SSIM | 27.2, 0.834 | bicubic 22.2, 0.7 | reconstructed 28.9, 0.88 | 10 min |"
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
