"""Copies of training images among the held-out ones."""

import shutil

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.copies import copies, copies_notice
from ldm_jax.data.folder import FolderConfig, FolderSource


def sources(folder):
    config = FolderConfig(path=str(folder), size=8)
    return (FolderSource(config, split, progress=False) for split in ("train", "validation"))


@pytest.fixture
def split(tmp_path):
    """A folder with a division of its own: three images on each side."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        for i in range(3):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / f"{part} {i}.bmp")  # of equal size
    return tmp_path


def test_a_copy_is_found_under_another_name(split):
    assert copies(*sources(split)) == {}
    shutil.copy(split / "train" / "train 1.bmp", split / "val" / "holiday.bmp")
    found = copies(*sources(split))
    assert found == {"val/holiday.bmp": "train/train 1.bmp"}
    said = copies_notice(found, 4)
    assert said.startswith("1 of 4 held-out images are copies of training images (val/holiday.bmp")


def test_few_of_many_copies_are_named():
    said = copies_notice({f"{i}.png": f"copy of {i}.png" for i in range(9)}, 20)
    assert said.count(" of copy of ") == 3 and ", ...)" in said
    assert copies_notice({}, 20) == ""
