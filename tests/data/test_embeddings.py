"""Embeddings beside the images of a folder: shapes, order, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.folder import FolderConfig
from ldm_jax.data.open import open_sources
from ldm_jax.errors import UserError
from ldm_jax.experiments.config import DiffusionStage
from ldm_jax.model.data import open_data

STAGE = DiffusionStage(condition="image-embedding")


@pytest.fixture
def folder(tmp_path):
    """(path, number -> file of the embedding); image i is as bright as its embedding says."""
    for i in range(6):
        Image.new("RGB", (8, 8), (40 * i,) * 3).save(tmp_path / f"{i}.png")
        np.save(tmp_path / f"{i}.npy", np.full((2, 3), 40 * i, np.float16))
    return tmp_path, lambda i: tmp_path / f"{i}.npy"


def config(path):
    return FolderConfig(path=str(path), size=8, validation=0.3)


def test_each_image_has_its_own(folder, caplog):
    path, file = folder
    file(5).unlink()
    opened = open_data(config(path), STAGE, seed=0)
    assert (opened.info.condition, opened.info.embedding_dim) == ("image-embedding", 3)
    assert "1 of 6 images" in caplog.text and "no embedding" in caplog.text
    assert "not read: " not in caplog.text
    assert len(opened.train) + len(opened.validation) == 5
    for source in (opened.train, opened.validation):
        batch = source.read(range(len(source)))
        assert batch["embedding"].shape == (len(source), 2, 3)
        assert batch["embedding"].dtype == np.float32
        np.testing.assert_array_equal(batch["embedding"][:, 0, 0], batch["image"][:, 0, 0, 0])


def test_one_vector_is_one_token(folder):
    path, file = folder
    for i in range(6):
        np.save(file(i), np.ones(3))
    train, _ = open_sources(config(path), 0, ("embedding",))
    assert train.read([0, 1])["embedding"].shape == (2, 1, 3)


def test_they_are_read_only_where_they_are_asked_for(folder):
    path, file = folder
    file(0).write_text("no array")
    train, _ = open_sources(config(path), 0)
    assert "embedding" not in train.read([0])


def test_other_embeddings_are_other_data(folder):
    path, file = folder
    before = open_data(config(path), STAGE, seed=0).info.labels_digest
    np.save(file(2), np.zeros((2, 3)))
    assert open_data(config(path), STAGE, seed=0).info.labels_digest != before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.ones((1, 3)), r"2.npy is \[1, 3\], but .*0.npy is \[2, 3\]"),
        (np.ones((2, 3), int), "2.npy is int64 .2, 3.; it must be floats"),
        (np.ones((1, 2, 3)), "it must be floats .dim. or .M, dim."),
        (np.array([{}]), "it must be floats"),
        (np.full((2, 3), np.nan), "2.npy holds what is no finite number"),
        (b"", "2.npy cannot be read"),
        (b"no array at all", "2.npy cannot be read"),
    ],
)
def test_what_is_no_embedding_is_said_by_its_name(content, said, folder):
    path, file = folder
    if isinstance(content, bytes):
        file(2).write_bytes(content)
    else:
        np.save(file(2), content)
    with pytest.raises(UserError, match=said):
        open_data(config(path), STAGE, seed=0)


def test_a_folder_without_any_is_said(folder):
    path, file = folder
    for i in range(6):
        file(i).unlink()
    with pytest.raises(UserError, match="no image in .* has an embedding: a .npy"):
        open_data(config(path), STAGE, seed=0)
