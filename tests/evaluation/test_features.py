"""Features in batches: each image's own, for any number of images."""

import jax
import numpy as np
import pytest

from ldm_jax.autoencoder import perceptual
from ldm_jax.errors import UserError
from ldm_jax.evaluation import efficientnet, inception
from ldm_jax.evaluation.features import NETWORKS, FeatureNetwork, extract

MEAN = FeatureNetwork("mean", 3, lambda params, x: x.mean(axis=(1, 2)) * params["scale"], None)
PARAMS = {"scale": np.float32([[1, 2, 3]])}


def images(n, channels=3):
    return np.random.default_rng(1).integers(0, 256, (n, 6, 8, channels), np.uint8)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 7])
def test_each_image_has_its_features_in_any_batch(batch_size):
    x = images(5)
    found = extract(MEAN, PARAMS, x, batch_size)
    assert found.shape == (5, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found, x.mean(axis=(1, 2)) * [1, 2, 3], rtol=1e-5)


def test_batches_share_one_program():
    sizes = []

    def features(params, x):
        sizes.append(len(x))  # called when it is compiled
        return x.mean(axis=(1, 2))

    extract(FeatureNetwork("mean", 3, features, None), {}, images(5), 2)
    assert sizes == [2]


def test_a_grey_image_is_three_equal_channels():
    grey = images(2, 1)
    found = extract(MEAN, PARAMS, grey)
    np.testing.assert_array_equal(found, extract(MEAN, PARAMS, grey.repeat(3, axis=-1)))


@pytest.mark.parametrize(
    "x, message",
    [
        (images(2).astype(np.float32), "float32"),
        (images(2, 4), r"\[2, 6, 8, 4\]"),
        (images(2)[0], r"\[6, 8, 3\]"),
        (images(2)[:0], "at least one image"),
    ],
)
def test_what_is_no_image_is_refused(x, message):
    with pytest.raises(UserError, match=message):
        extract(MEAN, PARAMS, x)


@pytest.mark.parametrize(
    "name, params",
    [
        ("inception", inception.abstract_params),
        ("efficientnet-lite0", efficientnet.abstract_params),
        ("squeezenet", lambda: perceptual.abstract_params("squeezenet")),
    ],
)
def test_networks_have_the_sizes_that_they_say(name, params):
    network, params = NETWORKS[name], params()
    features = jax.eval_shape(network.features, params, np.zeros((2, 20, 24, 3), np.uint8))
    assert (features.shape, features.dtype) == ((2, network.dimension), np.float32)
    if network.logits is not None:
        logits = jax.eval_shape(network.logits, params, features)
        assert logits.shape == (2, {"inception": 1008, "efficientnet-lite0": 1000}[name])
