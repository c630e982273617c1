"""The models that come with the package: whole, documented, small enough, and what they say."""

import json

import numpy as np
import pytest

import ldm_jax
from ldm_jax.commands.evaluate.generated import arrays_digest
from ldm_jax.model.find import find_run
from ldm_jax.model.packed import packed_file
from ldm_jax.shipped import DEFAULT, FOLDER, shipped_models, zoo_models

MODELS = shipped_models()
ZOO = zoo_models()
EACH = pytest.mark.parametrize("name", MODELS)
HEADINGS = ("Data", "Training", "Measures", "Licence")


def test_together_they_are_small():
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 45e6


@EACH
def test_a_model_has_its_files_and_no_others(name):
    wanted = {"config.json", "measures.json", "card.md"}
    found = {file.name for file in (FOLDER / name).iterdir()}
    assert wanted <= found
    assert found - wanted <= {"autoencoder.npz", "diffusion.npz", "tokenizer.json"}


@EACH
def test_its_card_says_what_it_must(name):
    lines = (FOLDER / name / "card.md").read_text().splitlines()
    assert lines[0] == f"# {name}"
    assert all(f"## {heading}" in lines for heading in HEADINGS)


@EACH
def test_its_measures_are_those_of_its_weights(name):
    measures = json.loads((FOLDER / name / "measures.json").read_text())
    weights = ldm_jax.load(name).weights
    digest = arrays_digest((weights.params or {}, weights.constants))
    assert measures["model"]["weights_sha256"] == digest


def test_the_card_of_the_zoo_says_what_it_must():
    lines = (FOLDER / "zoo" / "card.md").read_text().splitlines()
    assert lines[0] == "# zoo" and all(f"## {heading}" in lines for heading in HEADINGS)


@pytest.mark.parametrize("name", ZOO)
def test_an_autoencoder_of_the_zoo_is_small_and_whole(name):
    files = {file.name: file.stat().st_size for file in (FOLDER / name).iterdir()}
    assert set(files) == {"config.json", "autoencoder.npz"} and sum(files.values()) < 1.3e6
    assert repr(ldm_jax.load(name)).startswith(f"LatentDiffusion {name}\n")


def test_the_zoo_is_small():
    files = [file.stat().st_size for file in (FOLDER / "zoo").rglob("*") if file.is_file()]
    assert sum(files) < 9e6


@pytest.mark.parametrize("name", [*MODELS, *ZOO])
def test_it_names_no_file_of_the_machine_that_trained_it(name):
    experiment = find_run(name).load()[1]
    assert experiment.init_from == ""
    assert experiment.autoencoder.from_run in ("", *MODELS)
    assert experiment.autoencoder.loss.perceptual_file == ""


@EACH
@pytest.mark.slow
def test_it_works(name):
    model = ldm_jax.load(name)
    assert repr(model).startswith(f"LatentDiffusion {name}\n")
    size = model.config.data.size
    x = np.zeros((1, size, size, 3), np.uint8)
    assert model.reconstruct(x).shape == x.shape
    if packed_file(find_run(name).path, "diffusion"):
        assert model.sample(None, num_images=1, steps=2).shape == x.shape


@pytest.mark.skipif(DEFAULT not in MODELS, reason="it is not in the package yet")
@pytest.mark.slow
def test_no_model_has_to_be_named(sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = sample("--prompt", "a red cone", "--num-images", 1, "--out", "a.png")
    assert f"the model is {DEFAULT}, which comes with the package" in ended.err
    assert ended.out == "1 images in a.png\n"
    ended = sample()
    assert f"an example: python sample.py {DEFAULT} --num-images" in ended.err
    assert ended.code == 0 and (tmp_path / "samples.png").exists()
