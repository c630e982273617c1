"""Nearest training images: copies are seen, and a model that generalises is not accused."""

import numpy as np
import pytest

from ldm_jax.evaluation.nearest import memorisation


def sets(seed=0, num=200, width=6):
    return np.random.default_rng(seed).normal(size=(3, num, width))


def test_the_nearest_is_that_of_the_definition():
    training, generated, held_out = sets(num=25, width=3)
    result = memorisation(training=training, generated=generated[:7], held_out=held_out)
    distances = [[np.linalg.norm(x - t) for t in training] for x in generated[:7]]
    np.testing.assert_array_equal(result.generated.index, np.argmin(distances, axis=1))
    np.testing.assert_allclose(result.generated.distance, np.min(distances, axis=1), rtol=1e-10)
    assert result.held_out.index.shape == result.held_out.distance.shape == (25,)
    closer = np.mean([[a < b for b in result.held_out.distance] for a in result.generated.distance])
    assert result.closer == pytest.approx(closer, abs=1e-12)


def test_samples_of_the_same_distribution_are_no_closer_than_held_out_images():
    training, generated, held_out = sets()
    result = memorisation(training=training, generated=generated, held_out=held_out)
    assert result.closer == pytest.approx(0.5, abs=0.1)


def test_copies_are_at_distance_zero_and_known_by_their_index():
    training, _, held_out = sets()
    result = memorisation(training=training, generated=training[::-1], held_out=held_out)
    assert result.closer == 1 and np.all(result.generated.distance == 0)
    np.testing.assert_array_equal(result.generated.index, np.arange(200)[::-1])


def test_half_copied_is_three_quarters_and_ties_count_half():
    training, generated, held_out = sets()
    half = np.concatenate([training[:100], generated[:100]])
    result = memorisation(training=training, generated=half, held_out=held_out)
    assert result.closer == pytest.approx(0.75, abs=0.06)
    same = memorisation(training=training, generated=held_out, held_out=held_out)
    assert same.closer == 0.5


def test_bad_samples_are_further_away():
    training, generated, held_out = sets()
    result = memorisation(training=training, generated=3 * generated, held_out=held_out)
    assert result.closer < 0.2


def test_only_samples_that_are_closer_than_chance_allows_are_improbable():
    training, generated, held_out = sets()

    def p_value(samples, n=6):
        found = memorisation(training=training, generated=samples, held_out=held_out[:n])
        return found.p_value

    assert p_value(training[:5]) < 0.01  # five samples and six held-out images are enough
    assert p_value(generated) > 0.05 and p_value(held_out[:6]) >= 0.5
    assert p_value(3 * generated) > 0.5  # bad ones are no copies
