"""All measures as one report: what swapping the sets does, and what JSON it is."""

import json

import numpy as np
import pytest

from ldm_jax.errors import UserError
from ldm_jax.evaluation.measures import check_enough, compare, compare_pairs


def gaussian(n, d=4, mean=0.0, scale=1.0, seed=0):
    return mean + scale * np.random.default_rng(seed).normal(size=(n, d))


def test_to_swap_the_sets_swaps_precision_and_recall_alone():
    wide, narrow = gaussian(60), gaussian(60, scale=0.3, seed=1)
    one, other = compare(real=wide, generated=narrow), compare(real=narrow, generated=wide)
    assert one["precision_recall"]["precision"] > one["precision_recall"]["recall"]
    assert one["precision_recall"]["precision"] == other["precision_recall"]["recall"]
    assert one["precision_recall"]["recall"] == other["precision_recall"]["precision"]
    for name in ("frechet_distance", "sliced_wasserstein"):
        assert one[name]["distance"] == pytest.approx(other[name]["distance"])
    assert one["kid"]["mean"] == pytest.approx(other["kid"]["mean"])


def test_a_report_is_json_with_its_numbers_of_images_and_cautions():
    found = compare(real=gaussian(30), generated=gaussian(20), logits=gaussian(20, 5))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found) == {
        "kid", "frechet_distance", "sliced_wasserstein", "precision_recall", "density_coverage",
        "inception_score",
    }  # fmt: skip
    assert (found["kid"]["num_real"], found["kid"]["num_generated"]) == (30, 20)
    assert "20 images are few" in found["frechet_distance"]["caution"]
    assert "inception_score" not in compare(real=gaussian(30), generated=gaussian(20))
    many = compare(real=gaussian(1000), generated=gaussian(1000, seed=1))
    assert "caution" not in many["frechet_distance"]


def test_the_same_images_again_are_at_distance_0():
    found = compare_pairs(originals=gaussian(30), reconstructions=gaussian(30))
    assert found["frechet_distance"]["distance"] == pytest.approx(0, abs=1e-9)
    assert found["sliced_wasserstein"]["distance"] == 0
    assert "kid" not in found


@pytest.mark.parametrize("real, generated, name", [(9, 20, "real"), (20, 9, "generated")])
def test_too_few_images_are_refused(real, generated, name):
    with pytest.raises(UserError, match=f"9 {name} images are too few"):
        compare(real=gaussian(real), generated=gaussian(generated))
    with pytest.raises(UserError, match="3 held out images"):
        check_enough(held_out=3)
