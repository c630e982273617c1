"""The first file of a run: training images as the model gets them."""

import numpy as np
import pytest

from ldm_jax import plots
from ldm_jax.commands.train.training_images import SHOWN, training_images
from ldm_jax.conditioning.class_label import ClassLabels
from ldm_jax.conditioning.layout import LayoutTokens
from ldm_jax.data.folder import FolderConfig
from ldm_jax.data.open import open_sources
from ldm_jax.data.source import ArraySource
from ldm_jax.model.conditions import (
    ClassCondition,
    EmbeddingCondition,
    InpaintingCondition,
    LayoutCondition,
    LowResolutionCondition,
)
from ldm_jax.model.data import OpenData
from ldm_jax.model.data_info import DataInfo

N = 5


@pytest.fixture
def data():
    """Five images, each of its own grey with a white left column; of two classes; a box in each."""
    image = np.stack([np.full((16, 16, 3), 20 + 40 * i, np.uint8) for i in range(N)])
    image[:, :, 0] = 255
    arrays = {"image": image, "class_label": np.arange(N, dtype=np.int32) % 2}
    arrays["boxes"] = np.tile(np.float32([0.5, 0.5, 1, 1]), (N, 1, 1))
    arrays["box_labels"] = np.zeros((N, 1), np.int32)
    arrays["crop"] = np.tile(np.float32([0.5, 0.5, 1, 1]), (N, 1))
    source = ArraySource(arrays, ["a", "b"], ["thing"])
    return OpenData(source, source, DataInfo(3, "none"), flip=False)


def greys(figure) -> set[int]:
    return set(np.unique(figure)) & {20 + 40 * i for i in range(N)}


def test_each_image_is_there_once(data):
    figure = training_images(data, None, 0)
    assert figure.shape == (144, N * 146 - 2, 3) and len(greys(figure)) == N
    assert all((figure == grey).sum() == 3 * 144 * 135 for grey in greys(figure))


def test_a_large_set_shows_a_part_of_it(data):
    data.train.arrays = {key: np.repeat(x, 20, 0) for key, x in data.train.arrays.items()}
    data.train._length = 20 * N
    assert training_images(data, None, 0).shape == (4 * 146 - 2, 8 * 146 - 2, 3) and SHOWN == 32


def test_images_are_mirrored_as_in_training(data):
    def edges(flip):
        figure = training_images(OpenData(data.train, data.train, data.info, flip), None, 0)
        return {figure[0, i * 146].max() == 255 for i in range(N)}

    assert edges(False) == {True} and edges(True) == {True, False}


def test_classes_are_written_below(data):
    condition = ClassCondition(ClassLabels(["a", "b"]))
    figure = training_images(data, condition, 0)
    assert figure.shape[0] > 150 and (figure[150:] < 100).any() and len(greys(figure)) == N


def test_boxes_are_drawn_where_they_are_in_the_crop(data):
    condition = LayoutCondition(LayoutTokens(("thing",), objects=2, sections=17))
    figure = training_images(data, condition, 0)
    assert figure.shape[:2] == (192, N * 194 - 2)
    outline = figure[191, 100]  # the box fills the crop
    assert (figure[0, 60:192] == outline).all() and (figure[:, 0] == outline).all()


def test_what_is_degraded_stands_above_its_image(data):
    figure = training_images(data, LowResolutionCondition(2, "bicubic"), 0)
    assert figure.shape == (2 * 98 - 2, N * 98 - 2, 3)
    condition = InpaintingCondition(2, "wide", None)
    figure = training_images(data, condition, 0)
    assert (figure[:96, :96] == 128).any() and not (figure[98:] == 128).any()


def test_an_embedding_is_nothing_to_be_seen(data):
    data.train.arrays["embedding"] = np.zeros((N, 1, 4), np.float32)
    figure = training_images(data, EmbeddingCondition(4), 0)
    assert figure.shape == (96, N * 98 - 2, 3) and len(greys(figure)) == N


def test_random_crops_are_shown_as_they_are_trained_on(data, photographs):
    assert training_images(data, None, 0, crop_size=8).shape == (144, N * 146 - 2, 3)
    config = FolderConfig(path=str(photographs / "flat"), size=16, crop="random", min_crop=0.3)
    train, held_out = open_sources(config, 0)
    figure = training_images(OpenData(train, held_out, DataInfo(3, "none"), False), None, 0)
    central = plots.grid(train.read(range(len(train)))["image"], 8, least_side=144)
    assert figure.shape == central.shape and len(np.unique(figure)) != len(np.unique(central))
