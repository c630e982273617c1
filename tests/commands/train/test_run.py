"""`python train.py smoke`, the real command: what it leaves, and what a second start does."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ldm_jax.model.run_dir import RunDir
from ldm_jax.training.metrics import read

pytestmark = pytest.mark.slow


def test_smoke_leaves_everything(smoke):
    ended, run = smoke
    assert ended.code == 0, ended.err
    [line] = ended.out.splitlines()
    assert line.startswith("autoencoder: ") and " | diffusion: " in line
    for fact in (
        "parameters",
        "images/s",
        "peak",
        "PSNR",
        "JPEG",
        "whole caption",
        "KID (scene-reader",
    ):
        assert fact in line
    names = {path.name for path in run.iterdir()}
    files = {"config.json", "metrics.jsonl", "curves.png", "samples.png", "summary.json"}
    files |= {"training_images.png", "kid.png"}
    assert names == files | {"samples", "checkpoints"}
    previews = {path.name for path in (run / "samples").iterdir()}
    stages = ("autoencoder", "diffusion")
    assert previews == {f"{s}_{step:07d}.png" for s in stages for step in (20, 40)}
    for image in [*run.glob("*.png"), *run.glob("samples/*.png")]:
        assert np.asarray(Image.open(image)).std() > 5
    for stage in stages:
        assert RunDir(run).checkpoints(stage).latest_step() == 40


def test_metrics_have_a_line_every_few_steps_of_each_stage(smoke):
    _, run = smoke
    written = read(run / "metrics.jsonl")
    held_out = [line for line in written if any(key.startswith("held_out") for key in line)]
    assert [(line["stage"], line["step"]) for line in held_out] == [
        (s, step) for s in ("autoencoder", "diffusion") for step in (20, 40)
    ]
    # On the same images, t and noise each time
    assert held_out[1]["held_out_psnr"] > held_out[0]["held_out_psnr"]
    assert held_out[3]["held_out_loss"] < held_out[2]["held_out_loss"]
    lines = [line for line in written if line not in held_out]
    steps = [(line["stage"], line["step"]) for line in lines]
    assert steps == [(s, step) for s in ("autoencoder", "diffusion") for step in range(5, 41, 5)]
    assert {"loss", "psnr", "kl_per_element", "adaptive_weight", "disc_loss"} <= lines[0].keys()
    assert {"loss", "loss_least_noise", "grad_norm", "images_per_s"} <= lines[-1].keys()
    losses = [line["loss"] for line in lines]
    assert losses[7] < losses[0] and losses[15] < losses[8]


def test_the_summary_says_how_large_how_fast_and_how_good(smoke):
    _, run = smoke
    summary = json.loads((run / "summary.json").read_text())
    for stage in ("autoencoder", "diffusion"):
        part = summary[stage]
        assert part["finished"] and part["steps"] == 40
        for number in ("parameters", "peak_bytes", "flops", "seconds", "images_per_s"):
            assert part[number] > 0
    assert summary["autoencoder"]["psnr"] > 10 and summary["diffusion"]["scale_factor"] > 0
    read = summary["diffusion"]["reader"]
    assert read["ceiling"]["whole"] > 0.8 and read["images"] == 32
    assert {"samples", "floor"} <= read.keys()
    kid = summary["diffusion"]["kid"]
    assert kid["samples"]["mean"] > kid["reconstructed"]["mean"] > kid["held_out"]["mean"]
    assert kid["images"] == kid["reference_images"] == 32
    assert summary["wall_seconds"] > summary["autoencoder"]["seconds"]
    assert summary["device"] == "1 x cpu" and "jax" in summary["versions"]


def test_the_final_samples_carry_their_settings(smoke):
    _, run = smoke
    assert Image.open(run / "samples.png").text["guidance"] == "3.0"


def test_a_finished_run_says_so_at_once(smoke, train):
    ended, run = smoke
    before = (run / "summary.json").read_text()
    for words in ([], ["--stage", "autoencoder"], ["--stage", "diffusion"]):
        again = train("smoke", "--run-dir", run, *words)
        assert again.code == 0 and again.out == ended.out
        assert f"{run} is finished; to sample images from it: python sample.py {run}" in again.err
    assert (run / "summary.json").read_text() == before


def test_a_finished_run_needs_its_data_no_more(trained, train_tiny, tmp_path):
    """So nothing is read again, let alone computed."""
    ended, run = trained("flat")
    data = RunDir(run).load()[1].data
    words = ["--data.crop", data.crop, "--data.flip", data.flip, "--run-dir", run]
    again = train_tiny("folder", "--data.path", tmp_path / "gone", *words)
    assert (again.code, again.out) == (0, ended.out), again.err


def test_stage_diffusion_on_half_an_autoencoder_is_refused(smoke, train, tmp_path):
    run = shutil.copytree(smoke[1], tmp_path / "run")
    (run / "summary.json").unlink()
    for step in (40, 30):
        shutil.rmtree(run / "checkpoints" / "autoencoder" / str(step))
    error = train("smoke", "--run-dir", run, "--stage", "diffusion").error
    assert "has no trained autoencoder (step 20 of 40); leave out --stage diffusion" in error


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_a_loss_that_is_no_longer_finite_stops_the_run(train_tiny, photographs, tmp_path, stage):
    words = ["--data.path", photographs / "flat", "--run-dir", tmp_path / "run"]
    words += [f"--{stage}.optimiser.learning-rate", 1e30, f"--{stage}.progress.save-every", 1]
    stopped = train_tiny("folder", *words)
    last = stopped.err.splitlines()[-1]
    assert stopped.code == 2 and "Traceback" not in stopped.err
    assert last.startswith(f"error: {stage}: ") and "not finite at step 2; " in last
    assert f"the last good checkpoint is {tmp_path}/run/checkpoints/{stage}/1" in last
    assert "in a run of its own" in last


def test_what_is_advised_before_the_first_checkpoint_helps_in_the_same_directory(
    train_tiny, photographs, tmp_path
):
    words = ["--data.path", photographs / "flat", "--run-dir", tmp_path / "run"]
    words += ["--stage", "autoencoder", "--autoencoder.optimiser.learning-rate"]
    last = train_tiny("folder", *words, 1e30).err.splitlines()[-1]
    assert "there is no earlier checkpoint; a lower --autoencoder.optimiser.learning-rate" in last
    assert last.endswith("give the same command with it")
    again = train_tiny("folder", *words, 1e-4)
    assert again.code == 0, again.err
    assert "--autoencoder.optimiser.learning-rate is 0.0001 now, 1e+30 before" in again.err


@pytest.mark.parametrize(
    "words, said",
    [
        (["--run-dir", ""], "--run-dir is empty; without it, it is runs/smoke"),
        (["--profile", -3], "--profile is -3; it must be at least 0"),
    ],
)
def test_options_of_the_command_itself_are_checked(words, said, train):
    assert train("smoke", *words).error == said


def test_a_warm_up_that_outlasts_the_training_is_said(train_tiny, photographs, tmp_path):
    words = ["--data.path", photographs / "flat", "--run-dir", tmp_path / "run"]
    words += ["--stage", "autoencoder", "--autoencoder.optimiser.warmup-steps", 100]
    ended = train_tiny("folder", *words)
    assert "autoencoder: its 4 steps end before the learning rate is warmed up" in ended.err
