"""Only config.json and the checkpoints decide a run: all other files may be damaged or missing."""

import json
import shutil

import pytest

from ldm_jax.model.run_dir import RunDir
from ldm_jax.training.metrics import read

pytestmark = pytest.mark.slow


@pytest.fixture
def again(trained, train_tiny, photographs, tmp_path):
    """(A copy of a finished run, what gives its command again)."""
    run = shutil.copytree(trained("flat")[1], tmp_path / "run")
    words = ["--data.path", photographs / "flat", "--data.crop", "random", "--data.flip", True]
    return run, lambda: train_tiny("folder", *words, "--run-dir", run)


def test_a_summary_that_someone_edited_is_still_a_finished_run(again):
    run, start = again
    stages = {name: {"finished": True, "steps": 4} for name in ("autoencoder", "diffusion")}
    (run / "summary.json").write_text(json.dumps(stages))
    ended = start()
    assert ended.code == 0 and "is finished" in ended.err
    assert "its numbers in summary.json are damaged" in ended.out


def test_a_run_whose_checkpoints_are_damaged_is_not_called_finished(again):
    run, start = again
    for file in (run / "checkpoints" / "diffusion").glob("*/default/ocdbt.process_0/d/*"):
        file.write_bytes(b"")
    ended = start()
    assert ended.code == 2 and "is finished" not in ended.err
    assert ended.err.splitlines()[-1].startswith("error: Every checkpoint in")


def test_what_is_lost_is_made_again(again, parts):
    run, start = again
    before = {stage: parts(run, stage) for stage in ("autoencoder", "diffusion")}
    (run / "summary.json").write_bytes(b"\xff{[")
    for name in ("metrics.jsonl", "curves.png", "samples.png"):
        (run / name).unlink()
    ended = start()
    assert ended.code == 0 and "summary.json is damaged" in ended.err, ended.err
    assert RunDir(run).summary()["diffusion"]["finished"] and (run / "samples.png").exists()
    assert {stage: parts(run, stage) for stage in before} == before

    shutil.rmtree(run / "checkpoints")  # no longer a finished run, whatever the summary says
    ended = start()
    assert ended.code == 0 and "is finished" not in ended.err, ended.err
    assert {stage: parts(run, stage) for stage in before} == before
    # The last step of each stage has two lines: one is of held-out images.
    assert [line["step"] for line in read(run / "metrics.jsonl")] == [2, 4, 4, 2, 4, 4]
