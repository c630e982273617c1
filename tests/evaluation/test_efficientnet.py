"""EfficientNet-Lite0: the published weights see in photographs what is there."""

from pathlib import Path

import jax
import matplotlib
import numpy as np
import pytest
from PIL import Image

from ldm_jax.errors import UserError
from ldm_jax.evaluation import efficientnet
from ldm_jax.pretrained.feature_networks import load_network, packaged_file


@pytest.fixture(scope="module")
def params():
    try:
        packaged_file()
    except UserError as error:
        pytest.skip(str(error))
    return load_network("efficientnet-lite0")


def classes(params, image):
    """The three most likely classes of ImageNet, of a photograph's central square."""
    size = min(image.size)
    left, top = ((side - size) // 2 for side in image.size)
    square = image.convert("RGB").crop((left, top, left + size, top + size)).resize((224, 224))
    features = jax.jit(efficientnet.features)(params, np.asarray(square)[None])
    return np.argsort(-efficientnet.logits(params, features)[0])[:3].tolist()


def test_a_portrait_of_an_officer_is_a_military_uniform(params):
    file = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    assert classes(params, Image.open(file))[0] == 652


@pytest.mark.parametrize(
    "name, expected",
    [("chelsea.png", {281, 282, 285}), ("coffee.png", {967}), ("rocket.jpg", {657})],
)
def test_photographs_have_their_classes(params, name, expected):
    skimage = pytest.importorskip("skimage")
    file = Path(skimage.__file__).parent / "data" / name
    if not file.exists():
        pytest.skip("not in this version of scikit-image")
    assert classes(params, Image.open(file))[0] in expected


def test_resizing_is_that_of_pillow():
    image = np.random.default_rng(0).integers(64, 192, (300, 200, 3), np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC))
    found = efficientnet.resize(image[None].astype(np.float32), 224)[0]
    assert np.abs(found - expected).max() < 1.2  # Pillow rounds after each axis


def test_the_network_has_the_published_layers():
    params = efficientnet.abstract_params()
    assert params["_blocks.3._depthwise_conv"]["kernel"].shape == (5, 5, 1, 144)
    assert "_blocks.0._expand_conv" not in params and "_blocks.15._project_conv" in params
