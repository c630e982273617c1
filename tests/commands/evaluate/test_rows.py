"""What each row compares: never an image with what was made of it, but for the pairs."""

import numpy as np

from ldm_jax.commands.evaluate.rows import memorised, rows


def features(n, seed=0, shift=0.0):
    return shift + np.random.default_rng(seed).normal(size=(n, 4))


def numbers(row):
    return row["kid"]["num_generated"], row["kid"]["num_real"]


def test_other_examples_are_compared_with_all_real_images():
    examples = features(30, 1)
    sets = {"real": features(30), "examples": examples, "samples": features(40, 2, shift=3)}
    sets |= {"reconstructions": examples + 0.1, "bicubic": examples + 1}
    found = rows(sets, independent=True, logits=None)
    assert list(found) == [
        "samples", "reconstructions", "bicubic", "held_out", "reconstructions_paired"
    ]  # fmt: skip
    assert numbers(found["samples"]) == (40, 30)
    assert numbers(found["held_out"]) == numbers(found["reconstructions"]) == (30, 30)
    kid = {name: found[name]["kid"]["mean"] for name in list(found)[:-1]}
    assert max(kid["held_out"], kid["reconstructions"]) < kid["bicubic"] < kid["samples"]
    paired = found["reconstructions_paired"]["sliced_wasserstein"]["distance"]
    np.testing.assert_allclose(paired, 4 * 0.1**2, rtol=0.1)  # a shift, times the dimension


def test_one_set_is_halved_but_for_the_samples():
    real = features(40)
    sets = {"real": real, "examples": real, "samples": features(40, 1), "reconstructions": real}
    found = rows(sets, independent=False, logits=None)
    assert numbers(found["samples"]) == (40, 40)
    assert numbers(found["held_out"]) == numbers(found["reconstructions"]) == (20, 20)
    assert found["reconstructions"] == found["held_out"]  # of the second half, against the first
    assert found["held_out"]["frechet_distance"]["distance"] > 0
    assert found["reconstructions_paired"]["frechet_distance"]["num_real"] == 40


def test_halves_of_too_few_images_are_left_out():
    real = features(18)
    sets = {"real": real, "examples": real, "samples": features(12, 1)}
    assert set(rows(sets, independent=False, logits=None)) == {"samples"}


def test_memorised_images_come_first():
    training = features(50)
    samples = features(20, 1)
    samples[7] = training[33]
    report, whole = memorised({"samples": samples, "real": features(20, 2)}, training)
    assert report["closest"][0] == {"sample": 7, "training": 33, "distance": 0.0}
    assert report["samples"]["least"] == 0 < report["held_out"]["least"]
    assert report["training_images"] == 50 and 0.3 < report["closer"] < 0.7
    assert whole.generated.index[7] == 33
