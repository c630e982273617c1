"""The Frechet distance against closed forms."""

import numpy as np
import pytest

from ldm_jax.errors import UserError
from ldm_jax.evaluation.frechet import (
    ENOUGH_PER_FEATURE,
    Moments,
    frechet_distance,
    frechet_distance_of_moments,
    moments,
)


def distance_of(mean_1, covariance_1, mean_2, covariance_2):
    return frechet_distance_of_moments(
        real=Moments(np.asarray(mean_1), np.asarray(covariance_1), 100),
        generated=Moments(np.asarray(mean_2), np.asarray(covariance_2), 100),
    ).distance


def test_gaussians_whose_covariances_commute():
    # |m_1 - m_2|^2 + |S_1^(1/2) - S_2^(1/2)|^2
    value = distance_of([0, 0, 0], np.diag([1, 4, 9]), [1, 2, 2], np.diag([4, 4, 0]))
    assert value == pytest.approx(9 + 1 + 0 + 9, rel=1e-12)


def test_gaussians_whose_covariances_do_not_commute():
    # Of two 2x2 matrices: tr (S_1 S_2)^(1/2) = sqrt(tr(S_1 S_2) + 2 sqrt(det(S_1 S_2)))
    first, second = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[5.0, -2.0], [-2.0, 1.0]])
    product = first @ second
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = np.trace(first + second) - 2 * root
    assert distance_of([0, 0], first, [0, 0], second) == pytest.approx(expected, rel=1e-12)


def test_one_feature():
    x = np.array([[0.0], [2.0], [4.0]])  # mean 2, standard deviation 2
    y = np.array([[3.0], [4.0], [5.0]])  # mean 4, standard deviation 1
    assert frechet_distance(real=x, generated=y).distance == pytest.approx(4 + 1, rel=1e-12)


def test_equal_sets_are_at_distance_zero_also_with_fewer_images_than_features():
    x = np.random.default_rng(0).normal(size=(8, 30))
    assert frechet_distance(real=x, generated=x).distance == pytest.approx(0, abs=1e-4)
    # No variance at all: the means are left
    constant = np.ones((5, 4))
    assert frechet_distance(real=constant, generated=3 * constant).distance == 16


def test_it_is_symmetric():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(50, 6)), rng.gamma(1, size=(40, 6))
    there, back = frechet_distance(real=x, generated=y), frechet_distance(real=y, generated=x)
    assert there.distance == pytest.approx(back.distance, rel=1e-10)
    assert (there.num_real, there.num_generated) == (50, 40)


def test_moments_kept_of_a_set_serve_as_the_set():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(50, 6)), rng.normal(1, size=(40, 6))
    kept = frechet_distance_of_moments(real=moments(x), generated=moments(y))
    assert kept == frechet_distance(real=x, generated=y)
    with pytest.raises(UserError, match="different widths"):
        frechet_distance_of_moments(real=moments(x), generated=moments(y[:, :5]))
    damaged = moments(x)._replace(mean=np.full(6, np.nan))
    with pytest.raises(UserError, match="moments of the real features are not finite"):
        frechet_distance_of_moments(real=damaged, generated=moments(y))


def test_the_bias_at_the_bound_is_as_documented_and_few_images_are_said():
    rng = np.random.default_rng(3)
    width = 40
    enough = ENOUGH_PER_FEATURE * width
    x, y = rng.normal(size=(2, enough, width))
    result = frechet_distance(real=x, generated=y)
    assert 0.04 < result.distance / width < 0.09  # d / 2N, and 2 / N of the means
    assert result.caution == ""
    fewer = frechet_distance(real=x, generated=y[:-1])
    assert "399 images are few" in fewer.caution and "400" in fewer.caution
