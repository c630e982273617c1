"""What every distance says of bad features, and its blocks of pairs."""

import ml_dtypes
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ldm_jax.errors import UserError
from ldm_jax.evaluation import feature_arrays
from ldm_jax.evaluation.frechet import frechet_distance
from ldm_jax.evaluation.kid import kid
from ldm_jax.evaluation.manifold import density_coverage, precision_recall
from ldm_jax.evaluation.nearest import memorisation
from ldm_jax.evaluation.sliced import sliced_wasserstein

RNG = np.random.default_rng(0)
GOOD = RNG.normal(size=(12, 4))


def of_samples(*, real, generated):
    return memorisation(training=real, generated=generated, held_out=GOOD)


def of_held_out(*, real, generated):
    return memorisation(training=real, generated=GOOD, held_out=generated)


PAIRS = [kid, frechet_distance, sliced_wasserstein, precision_recall, density_coverage, of_samples]


def with_value(value):
    bad = GOOD.copy()
    bad[5, 2] = value
    return bad


@pytest.mark.parametrize("distance", [*PAIRS, of_held_out])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (with_value(np.nan), "not finite.*row 5 with nan"),
        (with_value(-np.inf), "not finite.*row 5 with -inf"),
        (with_value(1e30), r"out of range; the first is row 5 with 1e\+30"),
        (GOOD[:, :3], "different widths .*; take all from one network"),
        (GOOD[0], r"the shape \(4,\); it must be \[N, d\]"),
        (GOOD.reshape(12, 2, 2), r"the shape \(12, 2, 2\)"),
        (GOOD[:, :0], r"the shape \(12, 0\)"),
        (GOOD[:0], "needs at least . .* images, got 0"),
        ([[1.0, 2.0, 3.0, 4.0], [1.0]], "not an array of real numbers"),
        (GOOD + 1j, "not an array of real numbers"),
        (np.full((12, 4), "a"), "not an array of real numbers"),
        (None, "not an array of real numbers"),
    ],
)
def test_bad_features_are_refused_in_one_line(distance, bad, message):
    with pytest.raises(UserError, match=message) as refused:
        distance(real=GOOD, generated=bad)
    assert "\n" not in str(refused.value)
    if distance is not of_held_out:
        with pytest.raises(UserError, match=message):
            distance(real=bad, generated=GOOD)


@pytest.mark.parametrize(
    ("distance", "least"),
    [(kid, 3), (frechet_distance, 2), (sliced_wasserstein, 1), (precision_recall, 4)]
    + [(density_coverage, 6), (of_samples, 1)],
)
def test_the_fewest_images_that_are_allowed_give_finite_numbers(distance, least):
    few = distance(real=GOOD[:least], generated=GOOD[-least:])
    assert all(np.isfinite(x) for x in few if isinstance(x, float))
    with pytest.raises(UserError, match=f"at least {least} generated images, got {least - 1}"):
        distance(real=GOOD, generated=GOOD[: least - 1])


@pytest.mark.parametrize("distance", PAIRS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.uint8])
def test_features_of_any_type_are_computed_in_float64(distance, dtype):
    real = (10 * RNG.random((12, 4))).astype(dtype)
    generated = (10 * RNG.random((12, 4))).astype(dtype)
    expected = distance(real=real.astype(np.float64), generated=generated.astype(np.float64))
    assert distance(real=real, generated=generated)[0] == expected[0]


def test_squared_distances_are_those_of_scipy_also_far_from_zero():
    x, y = RNG.normal(size=(7, 5)), RNG.normal(size=(9, 5))
    expected = cdist(x, y, "sqeuclidean")
    np.testing.assert_allclose(feature_arrays.squared_distances(x, y), expected, rtol=1e-12)
    far = feature_arrays.squared_distances(x + 1e6, y + 1e6)
    np.testing.assert_allclose(far, expected, rtol=1e-8)


def test_equal_rows_are_at_distance_zero():
    x = 1e3 + RNG.normal(size=(50, 40))
    assert np.all(np.diag(feature_arrays.squared_distances(x, x)) == 0)


def test_blocks_cover_the_rows_once_and_hold_at_most_their_size():
    half = feature_arrays.BLOCK // 2
    assert list(feature_arrays.row_blocks(5, half)) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert list(feature_arrays.row_blocks(2, 3 * half)) == [slice(0, 1), slice(1, 2)]
    assert list(feature_arrays.row_blocks(10, 1)) == [slice(0, 10)]
