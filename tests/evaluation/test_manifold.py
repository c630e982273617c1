"""Precision, recall, density and coverage against their definitions."""

import numpy as np
import pytest

from ldm_jax.errors import UserError
from ldm_jax.evaluation.manifold import ENOUGH, density_coverage, precision_recall


def two_sets(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(40, 3)), rng.normal(0.7, 0.8, size=(30, 3))


def balls(x, y, k):
    """[len(x), len(y)]: does y_j lie in the ball of x_i."""
    inside = []
    for i, a in enumerate(x):
        radius = sorted(np.linalg.norm(a - x[j]) for j in range(len(x)) if j != i)[k - 1]
        inside.append([np.linalg.norm(b - a) <= radius for b in y])
    return np.array(inside)


def test_they_agree_with_their_definitions():
    real, generated = two_sets()
    result = precision_recall(real=real, generated=generated, k=3)
    assert result.precision == np.mean(balls(real, generated, 3).any(axis=0))
    assert result.recall == np.mean(balls(generated, real, 3).any(axis=0))
    result = density_coverage(real=real, generated=generated, k=5)
    assert result.density == pytest.approx(balls(real, generated, 5).sum() / (5 * 30), rel=1e-12)
    assert result.coverage == np.mean(balls(real, generated, 5).any(axis=1))


def test_precision_and_recall_swap_with_the_sets():
    real, generated = two_sets()
    there = precision_recall(real=real, generated=generated)
    back = precision_recall(real=generated, generated=real)
    assert there.precision != there.recall
    assert (there.precision, there.recall) == (back.recall, back.precision)
    assert (there.num_real, there.num_generated) == (40, 30)


def test_few_of_the_real_modes_are_precise_and_all_with_rubbish_recall():
    rng = np.random.default_rng(1)
    modes = np.concatenate([rng.normal(size=(50, 2)), rng.normal(100, 1, size=(50, 2))])
    one_mode = precision_recall(real=modes, generated=rng.normal(0, 0.5, size=(100, 2)))
    assert one_mode.precision > 0.9 and one_mode.recall <= 0.5
    rubbish = np.concatenate([modes + 0.01, rng.uniform(200, 900, size=(100, 2))])
    more = precision_recall(real=modes, generated=rubbish)
    assert more.precision == pytest.approx(0.5, abs=0.02) and more.recall == 1
    assert density_coverage(real=modes, generated=modes[:50]).coverage <= 0.5


@pytest.mark.parametrize("offset", [0, 1e5])
def test_equal_sets(offset):
    x = offset + np.random.default_rng(2).normal(size=(60, 8))
    result = precision_recall(real=x, generated=x)
    assert (result.precision, result.recall) == (1, 1)
    # A ball holds its centre and k neighbours, the k-th on its border
    result = density_coverage(real=x, generated=x, k=5)
    assert (result.density, result.coverage) == (pytest.approx(6 / 5, rel=1e-12), 1)


def test_disjoint_sets():
    x = np.random.default_rng(3).normal(size=(20, 4))
    result = precision_recall(real=x, generated=x + 100)
    assert (result.precision, result.recall) == (0, 0)
    result = density_coverage(real=x, generated=x + 100)
    assert (result.density, result.coverage) == (0, 0)


def test_one_image_many_times_covers_itself_alone():
    x = np.random.default_rng(4).normal(size=(100, 16))
    collapsed = np.tile(x[7], (100, 1))
    result = precision_recall(real=x, generated=collapsed)
    assert (result.precision, result.recall) == (1, 0.01)


def test_equal_distributions_have_the_documented_density_and_coverage():
    rng = np.random.default_rng(5)
    result = density_coverage(real=rng.normal(size=(1000, 4)), generated=rng.normal(size=(1000, 4)))
    assert result.density == pytest.approx(1, abs=0.1)
    assert result.coverage == pytest.approx(1 - 2**-5, abs=0.02)


def test_one_outlier_raises_precision_but_not_density():
    rng = np.random.default_rng(6)
    real = np.concatenate([rng.normal(size=(99, 2)), [[60.0, 0.0]]])
    generated = rng.normal(size=(100, 2)) + [20, 0]  # all within the ball of the outlier
    assert precision_recall(real=real, generated=generated).precision == 1
    assert density_coverage(real=real, generated=generated).density == pytest.approx(0.2)


def test_few_images_are_said_and_impossible_neighbours_refused():
    x = np.random.default_rng(7).normal(size=(ENOUGH, 2))
    for measure in (precision_recall, density_coverage):
        assert measure(real=x, generated=x).caution == ""
        few = measure(real=x, generated=x[:100])
        assert few.caution.startswith("100 images are few") and "0.050" in few.caution
        with pytest.raises(UserError, match="k is 0; it must be at least 1"):
            measure(real=x, generated=x, k=0)
        with pytest.raises(UserError, match="with k = 9 needs at least 10 real images, got 9"):
            measure(real=x[:9], generated=x, k=9)
