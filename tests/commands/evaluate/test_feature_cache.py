"""Features that were computed once are read again; damaged ones are computed again."""

import jax
import numpy as np
import pytest
from etils import epath
from jax.sharding import SingleDeviceSharding

from ldm_jax.commands.evaluate.feature_cache import PART, CachedFeatures
from ldm_jax.errors import UserError
from ldm_jax.evaluation.features import FeatureNetwork, extract
from ldm_jax.training.sharding import batch_sharding, make_mesh

MEAN = FeatureNetwork("mean", 3, lambda params, x: x.mean(axis=(1, 2)) * params["scale"], None)
PARAMS = {"scale": np.float32([[1, 2, 3]])}
IMAGES = np.random.default_rng(1).integers(0, 256, (PART + 5, 4, 6, 3), np.uint8)


def cached(folder, network=MEAN, params=PARAMS, sharding=None):
    sharding = sharding or SingleDeviceSharding(jax.devices()[0])
    return CachedFeatures(network, params, 256, sharding, epath.Path(folder))


def counting():
    """A reader of the images, and what it was asked for."""
    asked = []

    def read(rows):
        asked.append(rows)
        return IMAGES[rows.start : rows.stop]

    return read, asked


def test_what_is_there_is_not_computed_again(tmp_path):
    read, asked = counting()
    first = cached(tmp_path).of_source(read, len(IMAGES), "key", "images")
    np.testing.assert_allclose(first, IMAGES.mean(axis=(1, 2)) * [1, 2, 3], rtol=1e-5)
    assert asked == [range(PART), range(PART, PART + 5)]
    again = cached(tmp_path).of_source(read, len(IMAGES), "key", "images")
    assert len(asked) == 2
    np.testing.assert_array_equal(again, first)


def test_other_images_and_other_weights_are_others(tmp_path):
    read, asked = counting()
    cached(tmp_path).of_source(read, 5, "key", "images")
    cached(tmp_path).of_source(read, 5, "another key", "images")
    cached(tmp_path, params={"scale": np.float32([[1, 2, 4]])}).of_source(read, 5, "key", "images")
    assert len(asked) == 3
    one, other = (cached(tmp_path).of_images(x, "images") for x in (IMAGES[:5], IMAGES[5:10]))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda f: f.write_bytes(b"half")])
def test_a_part_that_is_missing_or_damaged_is_computed_again(tmp_path, damage):
    read, asked = counting()
    first = cached(tmp_path).of_source(read, len(IMAGES), "key", "images")
    (file,) = tmp_path.rglob("000001.npz")
    damage(file)
    again = cached(tmp_path).of_source(read, len(IMAGES), "key", "images")
    assert asked[2:] == [range(PART, PART + 5)]
    np.testing.assert_array_equal(again, first)


def test_eight_devices_give_what_one_gives(tmp_path):
    split = batch_sharding(make_mesh())
    assert split.num_devices == 8
    one = extract(MEAN, PARAMS, IMAGES[:21], 16)
    np.testing.assert_allclose(extract(MEAN, PARAMS, IMAGES[:21], 16, sharding=split), one)
    np.testing.assert_allclose(
        cached(tmp_path, sharding=split).of_images(IMAGES[:21], "images"), one
    )


def test_features_that_are_not_finite_are_refused_and_not_kept(tmp_path):
    wrong = cached(tmp_path, params={"scale": np.float32([[1, np.nan, 3]])})
    with pytest.raises(UserError, match=r"7 images \(samples\) have mean features .* not finite"):
        wrong.of_images(IMAGES[:7], "samples")
    assert not list(tmp_path.rglob("*.npz"))
