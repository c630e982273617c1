"""KID against its definition, and its standard error against repeated draws."""

import numpy as np
import pytest

from ldm_jax.errors import UserError
from ldm_jax.evaluation.kid import kid


def mmd2_by_its_definition(x, y):
    """Binkowski et al. 2018, Eq. (4), pair after pair."""

    def k(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j)
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j)
    across = sum(k(a, b) for a in x for b in y)
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across / (n * m)


def test_a_subset_of_all_images_is_the_definition():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 3)), rng.normal(0.5, 2, size=(9, 3))
    result = kid(real=x, generated=y)
    assert result.mean == pytest.approx(mmd2_by_its_definition(x, y), rel=1e-12)
    assert (result.num_subsets, result.subset_size, result.subset_std) == (1, 9, 0)


def test_the_standard_error_of_all_images_is_the_jackknife():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(8, 2)), rng.normal(1, size=(8, 2))
    without_x = [mmd2_by_its_definition(np.delete(x, i, 0), y) for i in range(8)]
    without_y = [mmd2_by_its_definition(x, np.delete(y, i, 0)) for i in range(8)]
    expected = np.sqrt(7 * np.var(without_x) + 7 * np.var(without_y))
    assert kid(real=x, generated=y).standard_error == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("subset_size", [1000, 20])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_standard_error_is_the_spread_of_new_sets(subset_size, shift):
    rng = np.random.default_rng(2)
    results = [
        kid(
            real=rng.normal(size=(60, 4)),
            generated=rng.normal(shift, size=(40, 4)),
            num_subsets=10,
            subset_size=subset_size,
        )
        for _ in range(60)
    ]
    spread = np.std([result.mean for result in results])
    said = np.sqrt(np.mean([result.standard_error**2 for result in results]))
    # Between equal distributions it is too large, as documented: 1.4 times, and more of subsets
    assert (0.75 if shift else 0.95) * spread < said < (1.4 if shift else 2.6) * spread


def test_it_is_unbiased_with_few_images():
    # In one dimension with E k by hand: k = (xy + 1)^3 and independent standard normal values give
    # E k = 1 + 3 E[x^2 y^2] = 1 + 3 E[x^2] E[y^2]; a shift of y by 1 makes MMD^2
    # = sum over powers p of binomial(3, p) (E x^p - E y^p)^2 = 3 * 1 + 3 * 1 + 1 * 16.
    rng = np.random.default_rng(3)
    draws = [
        kid(real=rng.normal(size=(20, 1)), generated=rng.normal(1, size=(20, 1))).mean
        for _ in range(200)
    ]
    assert np.mean(draws) == pytest.approx(22, abs=4 * np.std(draws) / np.sqrt(200))
    draws = [
        kid(real=rng.normal(size=(10, 3)), generated=rng.normal(size=(10, 3))).mean
        for _ in range(200)
    ]
    assert np.mean(draws) == pytest.approx(0, abs=4 * np.std(draws) / np.sqrt(200))


def test_disjoint_sets_are_many_standard_errors_apart_and_a_swap_changes_nothing():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(60, 5)), rng.normal(3, size=(60, 5))
    there, back = kid(real=x, generated=y), kid(real=y, generated=x)
    assert there.mean > 5 * there.standard_error
    assert there.mean == pytest.approx(back.mean, rel=1e-10)


def test_subsets_are_reproducible_and_no_larger_than_the_smaller_set():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(50, 3)), rng.normal(size=(30, 3))
    first = kid(real=x, generated=y, num_subsets=5)
    assert first == kid(real=x, generated=y, num_subsets=5)
    assert (first.subset_size, first.num_subsets) == (30, 5)
    assert first.mean != kid(real=x, generated=y, num_subsets=5, seed=1).mean


def test_impossible_subsets_are_refused():
    x = np.zeros((5, 2))
    with pytest.raises(UserError, match="subset_size is 2; it must be at least 3"):
        kid(real=x, generated=x, subset_size=2)
    with pytest.raises(UserError, match="num_subsets is 0; it must be at least 1"):
        kid(real=x, generated=x, num_subsets=0)
