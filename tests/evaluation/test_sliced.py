"""The sliced Wasserstein distance against closed forms and SciPy's linear assignment."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from ldm_jax.errors import UserError
from ldm_jax.evaluation.sliced import ENOUGH, sliced_wasserstein


def test_a_shift_by_mu_is_its_squared_length():
    x = np.random.default_rng(0).normal(size=(50, 6))
    mu = np.array([1.0, -2.0, 0.5, 0.0, 3.0, 1.0])
    value = sliced_wasserstein(real=x, generated=x + mu, directions=20_000).distance
    assert value == pytest.approx(np.sum(mu**2), rel=0.03)


def test_a_scaled_set_is_known_in_closed_form():
    # On each direction u the values are s u.x, in the same order: (s - 1)^2 E[(u.x)^2], and the
    # mean over all u is (s - 1)^2 E|x|^2 / d.
    x = np.random.default_rng(1).normal(size=(40, 3))
    value = sliced_wasserstein(real=x, generated=1.5 * x, directions=20_000).distance
    assert value == pytest.approx(0.25 * np.mean(np.sum(x**2, axis=1)), rel=0.03)


def test_one_dimension_is_the_optimal_assignment_also_of_different_numbers():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(6, 1)), rng.gamma(1, size=(4, 1))
    # 12 units of mass: each of 6 values stands twice, each of 4 three times
    cost = (np.repeat(x, 2) - np.repeat(y, 3)[:, None]) ** 2
    expected = cost[linear_sum_assignment(cost)].mean()
    there = sliced_wasserstein(real=x, generated=y, directions=1)
    assert there.distance == pytest.approx(expected, rel=1e-12)
    back = sliced_wasserstein(real=y, generated=x, directions=1)
    assert back.distance == pytest.approx(expected, rel=1e-12)


def test_it_agrees_with_its_definition_in_many_dimensions():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(30, 5)), rng.gamma(1, size=(30, 5))
    directions = np.random.default_rng(7).normal(size=(70, 5))
    total = 0.0
    for u in directions:
        u = u / np.sqrt(np.sum(u**2))
        pairs = zip(sorted(x @ u), sorted(y @ u), strict=True)
        total += sum((a - b) ** 2 for a, b in pairs) / 30
    value = sliced_wasserstein(real=x, generated=y, directions=70, seed=7).distance
    assert value == pytest.approx(5 * total / 70, rel=1e-12)


def test_equal_sets_are_at_distance_zero_in_any_order_and_number():
    x = np.random.default_rng(4).normal(size=(20, 4))
    assert sliced_wasserstein(real=x, generated=x[::-1]).distance == pytest.approx(0, abs=1e-20)
    twice = sliced_wasserstein(real=x, generated=np.concatenate([x, x]))
    assert twice.distance == pytest.approx(0, abs=1e-20)


def test_few_images_are_said_and_impossible_directions_refused():
    x = np.zeros((ENOUGH, 1))
    assert sliced_wasserstein(real=x, generated=x, directions=1).caution == ""
    few = sliced_wasserstein(real=x, generated=x[:-1], directions=1)
    assert "999 images are few" in few.caution
    with pytest.raises(UserError, match="directions is 0; it must be at least 1"):
        sliced_wasserstein(real=x, generated=x, directions=0)
