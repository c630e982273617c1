"""Stopped and killed in the middle of either stage, a run ends as the one that was let alone."""

import shutil
import signal
import time

import pytest

from ldm_jax.model.run_dir import RunDir
from ldm_jax.training.metrics import read

pytestmark = pytest.mark.slow


def wait_for(process, run, stage, step, checkpoints=1):
    """Returns when metrics.jsonl has this step and there are checkpoints to go on from."""
    saved = RunDir(run).checkpoints(stage)
    while process.poll() is None:
        rows = ((r["stage"], r["step"]) for r in read(run / "metrics.jsonl"))
        if (stage, step) in rows and len(saved.steps()) >= checkpoints:
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate()[1])


def test_a_run_killed_in_each_stage_ends_bit_for_bit_the_same(
    smoke, process, ended, parts, damage, tmp_path
):
    """Killed, stopped, one stage at a time, killed again, its newest checkpoint damaged."""
    run = tmp_path / "run"

    def start(*words):
        return process("train.py", "smoke", "--run-dir", run, *words)

    one = start()
    wait_for(one, run, "autoencoder", 15)
    one.kill()
    one.communicate()
    assert one.returncode == -signal.SIGKILL

    one = start()
    wait_for(one, run, "autoencoder", 25)
    one.send_signal(signal.SIGTERM)
    stopped = ended(one)
    saved = RunDir(run).checkpoints("autoencoder").latest_step()
    assert stopped.code == 143 and "Traceback" not in stopped.err
    said = f"autoencoder: stopped by SIGTERM after step {saved} of 40; saved in {run}"
    assert said in stopped.err.splitlines()[-1]

    first = ended(start("--stage", "autoencoder"))
    assert first.code == 0 and first.out.startswith("autoencoder: "), first.err
    assert f"autoencoder: resumes at step {saved} of 40" in first.err
    assert "diffusion" not in first.out and not (run / "checkpoints" / "diffusion").exists()

    one = start("--stage", "diffusion")
    wait_for(one, run, "diffusion", 25, checkpoints=2)
    one.kill()
    one.communicate()
    *_, before, newest = RunDir(run).checkpoints("diffusion").steps()
    damage(run, "diffusion", newest)

    finished = ended(start())
    assert finished.code == 0, finished.err
    assert f"checkpoints/diffusion/{newest} is damaged" in finished.err
    assert f"diffusion: resumes at step {before} of 40" in finished.err
    for stage in ("autoencoder", "diffusion"):
        assert parts(run, stage) == parts(smoke[1], stage)
    assert (run / "samples.png").read_bytes() == (smoke[1] / "samples.png").read_bytes()
    lines, undisturbed = read(run / "metrics.jsonl"), read(smoke[1] / "metrics.jsonl")
    for kept, line in zip(lines, undisturbed, strict=True):
        assert (kept["stage"], kept["step"]) == (line["stage"], line["step"])
    summary = RunDir(run).summary()
    assert summary["wall_seconds"] > summary["diffusion"]["seconds"] > 0


def test_a_lengthened_run_is_the_one_that_was_longer_from_the_start(
    trained, train_tiny, photographs, parts, tmp_path
):
    """At a constant learning rate; its data lies elsewhere now, and previews are others."""
    ended, finished = trained("flat")
    assert ended.code == 0, ended.err
    config = RunDir(finished).load()[1].data
    images = shutil.copytree(photographs / "flat", tmp_path / "images")
    words = ["--data.crop", config.crop, "--data.flip", config.flip]
    words += ["--data.path", f"{images}/", "--sampling.steps", 3, "--diffusion.steps", 6]
    longer, whole = (shutil.copytree(finished, tmp_path / name) for name in ("longer", "whole"))

    shutil.copy(images / "0.png", images / "x.png")
    ended = train_tiny("folder", *words, "--run-dir", longer)
    refused = ended.err.splitlines()[-1]  # below what is said of the images
    assert ended.code == 2 and "error: the data of" in refused
    assert "images there, " in refused and "other names or sizes of image files" in refused
    assert "--changed-data accept" in refused
    (images / "x.png").unlink()
    again = train_tiny("folder", *words, "--run-dir", longer)
    assert again.code == 0 and "diffusion: resumes at step 4 of 6" in again.err, again.err
    assert "--diffusion.steps is 6 now, 4 before: the learning rate stays" in again.err
    assert (longer / "samples" / "diffusion_0000006.png").exists()
    assert RunDir(longer).summary()["diffusion"]["steps"] == 6
    refused = train_tiny("folder", *words, "--diffusion.steps", 3, "--run-dir", longer).error
    assert "--diffusion.steps is 6 there, 3 here; " in refused

    shutil.rmtree(whole / "checkpoints" / "diffusion")
    ended = train_tiny("folder", *words, "--run-dir", whole)
    assert ended.code == 0, ended.err
    assert "autoencoder: finished at step 4" in ended.err
    assert "autoencoder: compiling" not in ended.err
    assert parts(longer, "diffusion") == parts(whole, "diffusion")
    before, after = (RunDir(run).summary()["autoencoder"] for run in (finished, whole))
    assert before == after

    ended = train_tiny("folder", *words, "--sampling.steps", 1, "--run-dir", whole)
    said = "nothing is left to train, so these are not used: --sampling.steps is 3 there, 1 here"
    assert ended.code == 0 and said in ended.err
