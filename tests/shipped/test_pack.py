"""Packed runs: what is in them, and that they do wherever a run directory does."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ldm_jax
from ldm_jax.commands.evaluate.report import model_facts
from ldm_jax.commands.export import main as export_main
from ldm_jax.commands.train.autoencoder import load_autoencoder_from
from ldm_jax.errors import UserError
from ldm_jax.model.find import find_run
from ldm_jax.model.load import load_run
from ldm_jax.model.run_dir import RunDir
from tests.shipped.conftest import FIELDS

PROMPT = "a red ball on a plain floor by day"


def rounded(tree):
    return jax.tree.map(lambda a: np.asarray(np.asarray(a).astype(jnp.bfloat16), np.float32), tree)


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_it_holds_the_configuration_and_the_averaged_weights_in_bfloat16(run, packed, loaded):
    assert set(contents(packed)) == {"config.json", "autoencoder.npz", "diffusion.npz"}
    model, small = loaded(run), ldm_jax.load(str(packed))
    assert_equal(small.parameters, rounded(model.parameters))
    assert small.scale_factor == model.scale_factor
    assert (small.config, small.info) == (model.config, model.info)


def test_it_is_the_run_by_its_id_and_steps(run, packed, loaded):
    one, other = RunDir(run), RunDir(packed)
    assert other.is_packed and not one.is_packed
    assert (other.id, other.begun()) == (one.id, {"autoencoder": 4, "diffusion": 4})
    facts = model_facts(str(packed), loaded(packed))
    assert (facts["run"], facts["steps"]) == (one.id, one.begun())


def test_packing_again_changes_nothing(run, packed, pack):
    before = contents(packed)
    ended = pack(run, packed)
    assert ended.code == 0 and ended.out.count("unchanged") == 2
    assert contents(packed) == before
    assert pack(packed, packed).code == 0  # itself
    assert contents(packed) == before


def test_names_of_files_that_training_needed_are_left_out(run_of, pack, tmp_path):
    words = ["--init-from", "/home/me/old", "--diffusion.tokenizer-file", "/home/me/words"]
    words += ["--autoencoder.loss.perceptual-file", "/home/me/lpips.npz"]
    run = run_of(*words, "--evaluation.perceptual-file", "/home/me/lpips.npz")
    pack(run, tmp_path / "small")
    assert "/home/me" in (run / "config.json").read_text()
    assert "/home/me" not in (tmp_path / "small" / "config.json").read_text()


def test_a_first_stage_alone_is_packed_and_borrowed(run_of, pack, tmp_path):
    run = run_of(stages=("autoencoder",))
    pack(run, tmp_path / "first")
    assert set(contents(tmp_path / "first")) == {"config.json", "autoencoder.npz"}
    model = ldm_jax.load(str(tmp_path / "first"))
    assert model.encode(np.zeros((1, 8, 8, 3), np.uint8)).shape == (1, 8, 8, 2)
    borrower = RunDir(run_of("--autoencoder.from-run", tmp_path / "first", stages=())).load()[1]
    weights, channels = load_autoencoder_from(borrower.autoencoder)
    assert_equal(weights, model.parameters["autoencoder"])
    assert channels == 3


def test_a_borrowed_first_stage_that_lies_beside_is_not_written_again(run_of, pack, tmp_path):
    first = run_of()
    second = run_of("--autoencoder.from-run", "elsewhere/first", stages=["diffusion"])
    pack(first, tmp_path / "first")
    ended = pack(second, tmp_path / "second")
    assert ended.code == 0 and f"the first stage is that of {tmp_path}/first" in ended.out
    assert set(contents(tmp_path / "second")) == {"config.json", "diffusion.npz"}
    model = load_run(find_run("second", tmp_path))
    lent = load_run(RunDir(first)).parameters["autoencoder"]
    assert_equal(model.parameters["autoencoder"], rounded(lent))

    with np.load(tmp_path / "first" / "autoencoder.npz") as file:
        arrays = dict(file)
    arrays["params/autoencoder/decoder/conv_out/bias"] += 1  # of another decoder
    np.savez(tmp_path / "first" / "autoencoder.npz", **arrays)
    load_run(find_run("second", tmp_path))
    arrays["params/autoencoder/encoder/conv_in/bias"] += 1
    np.savez(tmp_path / "first" / "autoencoder.npz", **arrays)
    with pytest.raises(UserError, match="was trained on another encoder"):
        load_run(find_run("second", tmp_path))
    shutil.rmtree(tmp_path / "first")
    with pytest.raises(UserError, match="has no autoencoder.npz, and .*first has none"):
        load_run(find_run("second", tmp_path))
    pack(second, tmp_path / "second")
    assert "autoencoder.npz" in contents(tmp_path / "second")


def test_what_cannot_be_packed_is_refused(run_of, run, pack, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    assert "is no packed run, and not empty" in pack(run, tmp_path / "full").error
    assert "has no checkpoint yet" in pack(run_of(stages=()), tmp_path / "new").error
    assert "is no run directory" in pack(tmp_path / "full", tmp_path / "new").error
    assert not (tmp_path / "new").exists()


def test_a_damaged_file_is_named(packed, sample, tmp_path):
    copy = shutil.copytree(packed, tmp_path / "copy")
    (copy / "diffusion.npz").write_bytes((packed / "diffusion.npz").read_bytes()[:-100])
    assert "copy/diffusion.npz cannot be read" in sample(copy, "--prompt", PROMPT).error


@pytest.mark.slow
def test_it_is_sampled_from(packed, sample, tmp_path):
    ended = sample(packed, "--prompt", PROMPT, "--num-images", 2, "--out", tmp_path / "images")
    assert ended.code == 0, ended.err
    settings = json.loads((tmp_path / "images" / "settings.json").read_text())
    assert (settings["run"], settings["step"]) == (RunDir(packed).id, "4")
    assert contents(packed).keys() == {"config.json", "autoencoder.npz", "diffusion.npz"}


@pytest.mark.slow
def test_training_starts_from_it_and_not_in_it(packed, train, tmp_path):
    words = ["smoke", *FIELDS, "--mesh.data", 1, "--evaluation.judged-images", 0]
    before = contents(packed)
    error = train(*words, "--run-dir", packed).error
    assert "holds packed weights, without an optimiser" in error and "--init-from" in error
    assert contents(packed) == before
    lent = ["--init-from", packed, "--autoencoder.from-run", packed]
    ended = train(*words, *lent, "--run-dir", tmp_path / "tuned")
    assert ended.code == 0, ended.err
    assert f"diffusion: starts from {packed}" in ended.err
    tuned = load_run(RunDir(tmp_path / "tuned")).parameters
    assert_equal(tuned["autoencoder"], load_run(RunDir(packed)).parameters["autoencoder"])


@pytest.mark.slow
def test_its_classifier_is_packed_and_guides(of_classes, pack, sample, tmp_path):
    pack(of_classes, tmp_path / "small")
    assert "classifier.npz" in contents(tmp_path / "small")
    words = ["--class-label", "red", "--classifier-scale", 1, "--num-images", 1]
    ended = sample(tmp_path / "small", *words, "--out", tmp_path / "a.png")
    assert ended.code == 0, ended.err


@pytest.mark.slow
def test_it_is_exported(packed, command, tmp_path):
    pytest.importorskip("safetensors")
    file = tmp_path / "model.safetensors"
    assert command(export_main, [packed, "--out", file]).code == 0
    assert_equal(ldm_jax.load(str(file)).parameters, ldm_jax.load(str(packed)).parameters)
