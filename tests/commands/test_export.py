"""Runs come out as files of CompVis and as pipelines of diffusers, and are read back."""

import json

import numpy as np
import pytest
from flax import traverse_util

import ldm_jax
from ldm_jax.model.run_dir import RunDir
from ldm_jax.pretrained.files import read_state_dict

pytestmark = pytest.mark.slow
pytest.importorskip("torch")
pytest.importorskip("safetensors")


def weights(run, stage="diffusion"):
    """The weights that a run is sampled with."""
    saved = RunDir(run).checkpoints(stage).restore_part(["params", "ema", "constants"])
    return {**(saved["ema"] or saved["params"]), **saved["constants"]}


def assert_equal(one, other):
    one, other = (traverse_util.flatten_dict(tree) for tree in (one, other))
    assert one.keys() == other.keys()
    for path, array in one.items():
        np.testing.assert_array_equal(array, other[path])


def test_a_trained_run_is_exported_under_the_published_names(smoke, tmp_path, convert):
    _, smoke = smoke
    ended = convert("export", smoke, "--out", tmp_path / "smoke.ckpt")
    assert ended.code == 0
    names = read_state_dict(tmp_path / "smoke.ckpt")
    assert {
        "model.diffusion_model.time_embed.0.weight",
        "model_ema.diffusion_modeltime_embed0weight",
        "first_stage_model.encoder.conv_in.weight",
        "cond_stage_model.transformer.token_emb.weight",
        "betas",
        "scale_factor",
    } <= set(names)
    state = RunDir(smoke).checkpoints("diffusion").restore_part(["params", "ema"])
    for tree, name in (
        (state["params"], "model.diffusion_model.out.2.weight"),
        (state["ema"], "model_ema.diffusion_modelout2weight"),
    ):
        expected = tree["unet"]["conv_out"]["kernel"].transpose(3, 2, 0, 1)
        np.testing.assert_array_equal(names[name], expected)
    assert "exists already" in convert("export", smoke, "--out", tmp_path / "smoke.ckpt").error
    assert ".safetensors" in convert("export", smoke, "--out", tmp_path / "smoke.bin").error
    assert "no run directory" in convert("export", tmp_path, "--out", tmp_path / "x.ckpt").error


@pytest.mark.parametrize("out", ["run.safetensors", "run"])
def test_an_own_run_is_read_back(smoke, tmp_path, convert, out):
    """It says itself what it is, so no --model is needed: words, names and all."""
    _, smoke = smoke
    assert convert("export", smoke, "--out", tmp_path / out).code == 0
    again = tmp_path / "again"
    ended = convert(tmp_path / out, "--out", again)
    assert ended.code == 0, ended
    assert RunDir(again).load() == RunDir(smoke).load()
    assert_equal(weights(again), weights(smoke))
    assert convert("check", tmp_path / out).code == 0
    assert ldm_jax.load(str(tmp_path / out)).scale_factor == ldm_jax.load(str(smoke)).scale_factor


def test_a_first_stage_is_written_for_diffusers_and_read_back(file, tmp_path, convert, words_of):
    path, _ = file("first")
    run, out = tmp_path / "run", tmp_path / "vae"
    assert convert(path, *words_of("first"), "--out", run).code == 0
    assert convert("export", run, "--out", out).code == 0
    assert json.loads((out / "config.json").read_text())["_class_name"] == "VQModel"
    (out / "ldm_jax.json").unlink()
    assert convert(out, *words_of("first"), "--out", tmp_path / "again").code == 0
    one, other = (weights(run, "autoencoder") for run in (run, tmp_path / "again"))
    assert_equal(one["autoencoder"], other["autoencoder"])


def test_another_first_stage(file, sample, tmp_path, convert, words_of):
    """In place of the file's own, or of that of a run; from a file or a run."""
    path, _ = file("class")
    first, _ = file("first")
    words = [path, *words_of("class"), "--out"]
    assert convert(*words, tmp_path / "run").code == 0
    assert convert(first, *words_of("first"), "--out", tmp_path / "first").code == 0
    expected = weights(tmp_path / "first", "autoencoder")["autoencoder"]
    assert convert(*words, tmp_path / "a", "--first-stage", first).code == 0
    assert convert(*words, tmp_path / "b", "--first-stage", tmp_path / "first").code == 0
    swapped = [tmp_path / "run", "--first-stage", first, "--out", tmp_path / "c"]
    assert convert(*swapped).code == 0
    for run in "abc":
        assert_equal(weights(tmp_path / run)["autoencoder"], expected)
        assert_equal(weights(tmp_path / run)["unet"], weights(tmp_path / "run")["unet"])
    assert "already" in convert(tmp_path / "run", "--out", tmp_path / "d").error
    assert convert(path, *words_of("first"), "--out", tmp_path / "e").code == 0
    own = weights(tmp_path / "e", "autoencoder")["autoencoder"]
    assert_equal(own, weights(tmp_path / "run")["autoencoder"])


def test_what_says_nothing_of_itself_needs_a_model(file, tmp_path, convert):
    path, _ = file("class")
    assert "give --model" in convert(path, "--out", tmp_path / "run").error
    assert "there is no" in convert(tmp_path / "none.ckpt", "--out", tmp_path / "run").error
    for content in (b"a note", b"PK", b"\x80\x02", b"\x80\x02}.", b"12345678{"):
        (tmp_path / "note").write_bytes(content)
        assert str(tmp_path / "note") in convert(tmp_path / "note", "--out", tmp_path / "run").error
