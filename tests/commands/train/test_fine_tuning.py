"""`--init-from RUN`: a run that starts from another's weights, stopped and started again too."""

import json
import shutil

import numpy as np
import pytest

from ldm_jax.model.load import load_run
from ldm_jax.model.run_dir import RunDir
from tests.runs import image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A folder of two classes, one of which `photographs / classes` has, too."""
    root = tmp_path_factory.mktemp("pets")
    for i in range(10):
        square, colour = image(i)
        folder = root / {"red": "red", "blue": "green"}[colour]
        folder.mkdir(exist_ok=True)
        square.save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def tuned(trained, train_tiny, pets, tmp_path_factory):
    """(how fine-tuning both stages of `trained('classes')` ended, the run directory, the words)."""
    source = trained("classes")[1]
    words = ["--data.path", pets, "--data.flip", "True", "--init-from", source]
    run = tmp_path_factory.mktemp("runs") / "tuned"
    return train_tiny("folder", *words, "--run-dir", run), run, words


def test_both_stages_are_fine_tuned_on_other_classes(tuned, trained):
    ended, run, _ = tuned
    assert ended.code == 0, ended.err
    assert "autoencoder: starts from" in ended.err and "diffusion: starts from" in ended.err
    assert "1 of 2 classes are known; new: green" in ended.err
    source = RunDir(trained("classes")[1])
    saved = json.loads((run / "config.json").read_text())
    assert saved["origin"] == {"run": source.id, "steps": {"autoencoder": 4, "diffusion": 4}}
    model, before = load_run(RunDir(run)), load_run(source)
    assert model.info.class_names == ("green", "red") and model.scale_factor == before.scale_factor
    kernels = [one.parameters["unet"]["conv_in"]["kernel"] for one in (model, before)]
    assert 0 < np.abs(kernels[0] - kernels[1]).max() < 0.1  # a few steps away


def test_stopped_and_started_again_it_ends_bit_for_bit_the_same(tuned, train_tiny, parts, tmp_path):
    """Stopped before the first checkpoint of a stage, and after it."""
    _, whole, words = tuned
    run = shutil.copytree(whole, tmp_path / "run")
    for kept, lost in ((2, "4"), (0, "[24]")):
        (run / "summary.json").unlink()
        for folder in (run / "checkpoints" / "diffusion").glob(lost):
            shutil.rmtree(folder)
        again = train_tiny("folder", *words, "--run-dir", run)
        assert again.code == 0, again.err
        assert ("diffusion: resumes at step 2 of 4" in again.err) == bool(kept)
        assert ("diffusion: starts from" in again.err) == (not kept)
        assert parts(run, "diffusion") == parts(whole, "diffusion")


def test_a_source_that_was_trained_on_in_between_is_refused(tuned, trained, train_tiny, tmp_path):
    _, whole, words = tuned
    source = shutil.copytree(trained("classes")[1], tmp_path / "source")
    run = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "diffusion")
    (run / "summary.json").unlink()
    shutil.rmtree(source / "checkpoints" / "diffusion" / "4")
    other = train_tiny("folder", *words[:-1], source, "--run-dir", run)
    assert other.code == 2 and "began with the weights of run" in other.err
    assert "'diffusion': 2" in other.err


def test_the_second_stage_alone_is_fine_tuned_on_a_frozen_first(
    trained, train_tiny, parts, pets, tmp_path
):
    source = trained("classes")[1]
    words = ["--data.path", pets, "--init-from", source, "--autoencoder.from-run", source]
    run = tmp_path / "run"
    ended = train_tiny("folder", *words, "--run-dir", run)
    assert ended.code == 0, ended.err
    assert "diffusion: starts from" in ended.err and "autoencoder: starts" not in ended.err
    assert not (run / "checkpoints" / "autoencoder").exists()
    mine, before = (load_run(RunDir(path)).parameters["autoencoder"] for path in (run, source))
    words[-1] = words[-3] = tmp_path / "gone"  # neither is needed any more
    longer = train_tiny("folder", *words, "--diffusion.steps", 5, "--run-dir", run)
    assert longer.code == 0 and "keeps a copy of its autoencoder" in longer.err, longer.err
    assert "diffusion: resumes at step 4 of 5" in longer.err
    np.testing.assert_array_equal(
        mine["decoder"]["conv_out"]["kernel"], before["decoder"]["conv_out"]["kernel"]
    )


def test_networks_that_do_not_fit_are_refused_before_anything_is_trained(
    trained, train_tiny, pets, tmp_path
):
    words = ["--data.path", pets, "--init-from", trained("classes")[1]]
    words += ["--diffusion.unet.channels", 16, "--run-dir", tmp_path / "run"]
    ended = train_tiny("folder", *words)
    assert ended.code == 2
    assert "--diffusion.unet.channels is 8 there, 16 here" in ended.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
