"""Every option of the training recipe at once, through the command line."""

import shutil

import numpy as np
import pytest

from ldm_jax.model.run_dir import RunDir
from ldm_jax.training.metrics import read

pytestmark = pytest.mark.slow
WORDS = """
    --precision bfloat16 --autoencoder.accumulate 2 --diffusion.accumulate 2
    --autoencoder.loss.equivariance-weight 0.25 --autoencoder.optimiser.kind muon
    --diffusion.optimiser.kind muon --diffusion.prediction v
    --diffusion.min-snr-gamma 5 --diffusion.timestep-density logit-normal
"""


def test_in_bfloat16_and_in_parts_it_resumes_bit_for_bit(train_tiny, photographs, parts, tmp_path):
    words = [*WORDS.split(), "--data.path", photographs / "captions"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    ended = train_tiny("folder", *words, "--run-dir", whole)
    assert ended.code == 0, ended.err
    lines = [line for line in read(whole / "metrics.jsonl") if "loss" in line]
    assert np.isfinite([line["loss"] for line in lines]).all()
    assert all("rec_half_size" in line for line in lines if line["stage"] == "autoencoder")

    shutil.copytree(whole, run)
    (run / "summary.json").unlink()
    for stage in ("autoencoder", "diffusion"):
        shutil.rmtree(run / "checkpoints" / stage / "4")
    again = train_tiny("folder", *words, "--run-dir", run)
    assert again.code == 0, again.err
    for stage in ("autoencoder", "diffusion"):
        assert f"{stage}: resumes at step 2 of 4" in again.err
        assert parts(run, stage) == parts(whole, stage)
    assert (
        "--diffusion.optimiser.kind is muon there, adam here"
        in train_tiny(
            "folder", *words, "--diffusion.optimiser.kind", "adam", "--run-dir", whole
        ).error
    )
    assert RunDir(whole).load()[1].diffusion.optimiser.kind == "muon"
