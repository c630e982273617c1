"""`--reconstruct` says which of the images the first stage was trained on."""

import dataclasses
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from ldm_jax.commands.sample.trained_on import parts
from ldm_jax.data.folder import FolderSource
from ldm_jax.model.data import open_data
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.run_dir import RunDir

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mixed(photographs, trained, tmp_path_factory):
    """(folder, names of training images): all images under other names and formats, and a new one.

    The run was trained on random crops of mirrored images.
    """
    folder = tmp_path_factory.mktemp("mixed")
    for i in range(10):
        Image.open(photographs / "flat" / f"{i}.png").save(folder / f"copy {i}.bmp")
    noise = np.random.default_rng(0).integers(0, 256, (18, 20, 3), np.uint8)
    Image.fromarray(noise).save(folder / "new.png")
    _, config, _ = RunDir(trained("flat")[1]).load()
    names = FolderSource(config.data, "train", config.seed)._names
    return folder, {f"copy {name.removesuffix('.png')}.bmp" for name in names}


def told(out):
    """What the lines say: part -> names."""
    lines = out.splitlines()[1:]
    rows = [re.fullmatch(r"(.*): (\d+), PSNR [\d.]+ dB: (.*)", line).groups() for line in lines]
    assert all(int(n) == len(names.split(", ")) for _, n, names in rows)
    return {part: set(names.split(", ")) for part, _, names in rows}


def test_copies_count_whatever_they_are_called(mixed, trained, sample, tmp_path):
    folder, training = mixed
    words = ["--reconstruct", folder, "--num-images", 20, "--out", tmp_path / "r.png"]
    ended = sample(trained("flat")[1], *words)
    assert ended.code == 0, ended.err
    held_out = {f"copy {i}.bmp" for i in range(10)} - training
    assert told(ended.out) == {
        "trained on": training,
        "held out": held_out,
        "neither": {"new.png"},
    }


def test_without_the_data_nobody_knows(mixed, trained, sample, loaded, tmp_path, caplog):
    model = loaded(trained("flat")[1])
    data = dataclasses.replace(model.config.data, path=str(tmp_path / "gone"))
    config = dataclasses.replace(model.config, data=data)
    moved = LatentDiffusion(config, model.info, model.weights)
    assert parts(moved, np.zeros((1, 8, 8, 3), np.uint8)) == []
    assert "is not known" in caplog.text and "gone does not exist" in caplog.text


def test_images_that_were_added_later_are_said(trained, loaded, photographs, tmp_path, caplog):
    model = loaded(trained("flat")[1])
    folder = shutil.copytree(photographs / "flat", tmp_path / "more")
    Image.new("RGB", (20, 18), "green").save(folder / "green.png")
    data = dataclasses.replace(model.config.data, path=str(folder))
    config = dataclasses.replace(model.config, data=data)
    opened = open_data(data, config.diffusion, config.seed)
    found = parts(LatentDiffusion(config, model.info), opened.validation.read([0])["image"])
    assert found == ["held out"] and "has changed since" in caplog.text
