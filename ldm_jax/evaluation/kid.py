"""The kernel distance between two sets of features: KID, unbiased also for few images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ldm_jax.evaluation.feature_arrays import check_at_least, checked_pair, row_blocks


class KID(NamedTuple):
    """Mean over subsets, its standard error, the standard deviation between the subsets.

    The last is what most tables print after KID: it belongs to one subset of `subset_size`
    images, not to the mean.
    """

    mean: float
    standard_error: float
    subset_std: float
    num_real: int
    num_generated: int
    num_subsets: int
    subset_size: int


def kid(
    *,
    real: ArrayLike,
    generated: ArrayLike,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> KID:
    """KID between features `[N, d]` of real and of generated images.

    Binkowski et al. 2018: the unbiased estimate of the squared maximum mean discrepancy with the
    kernel (x.y / d + 1)^3, averaged over subsets drawn without replacement. It is 0 on average
    for equal distributions and may be negative, at any N: too few images show in the
    standard error, not in the mean. With fewer than `subset_size` images of a kind, subsets have
    as many as there are; where they hold all images, there is one.

    The standard error is that of the mean as an estimate of the distance between the
    distributions: the jackknife's, of images left out (a little too large, most of all between
    equal distributions), and the chance of the subsets. Subsets share images, so
    their standard deviation by itself does not tell it.

    Args:
      seed: of the subsets, which are those of torch-fidelity for the same seed.

    Raises:
      UserError: fewer than three images of a kind, values that are not finite, different widths.
    """
    real, generated = checked_pair(real=real, generated=generated, least=3, measure="KID")
    check_at_least(3, subset_size=subset_size)
    check_at_least(1, num_subsets=num_subsets)
    size = min(subset_size, len(real), len(generated))
    if size == len(real) == len(generated):
        num_subsets = 1
    rng = np.random.RandomState(seed)
    draws = []
    for _ in range(num_subsets):
        x = real[rng.choice(len(real), size, replace=False)]
        y = generated[rng.choice(len(generated), size, replace=False)]
        draws.append(_mmd2(x, y))
    values, variances_x, variances_y = np.array(draws).T
    # The variance from all images is less than from a subset, by the number of images of each kind
    variance = size / len(real) * variances_x.mean() + size / len(generated) * variances_y.mean()
    variance += values.var() / num_subsets
    return KID(
        mean=float(values.mean()),
        standard_error=float(np.sqrt(variance)),
        subset_std=float(values.std()),
        num_real=len(real),
        num_generated=len(generated),
        num_subsets=num_subsets,
        subset_size=size,
    )


def _mmd2(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Unbiased MMD^2 of `[m, d]` and `[m, d]`, and the jackknife variance due to x and due to y."""
    within_x, within_y = _sums_within(x), _sums_within(y)
    across_x, across_y = _sums_across(x, y)
    value = _estimate(within_x.sum(), within_y.sum(), across_x.sum(), len(x), len(y))
    # Without image i its sum is missing twice within its set, as row and as column
    without_x = _estimate(
        within_x.sum() - 2 * within_x,
        within_y.sum(),
        across_x.sum() - across_x,
        len(x) - 1,
        len(y),
    )
    without_y = _estimate(
        within_x.sum(),
        within_y.sum() - 2 * within_y,
        across_y.sum() - across_y,
        len(x),
        len(y) - 1,
    )
    return value, (len(x) - 1) * without_x.var(), (len(y) - 1) * without_y.var()


def _estimate(within_x, within_y, across, n, m):
    """Binkowski et al. 2018, Eq. (4), from the sums of the kernel over pairs."""
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across / (n * m)


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _sums_within(x: np.ndarray) -> np.ndarray:
    """Of each row of x the kernel's sum over all other rows: `[n]`."""
    sums = [_kernel(x[rows], x).sum(axis=1) for rows in row_blocks(len(x), len(x))]
    return np.concatenate(sums) - (np.sum(x**2, axis=1) / x.shape[1] + 1) ** 3


def _sums_across(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row of x the kernel's sum over y, and of each row of y that over x: `[n]`, `[m]`."""
    over_y, over_x = [], np.zeros(len(y))
    for rows in row_blocks(len(x), len(y)):
        kernel = _kernel(x[rows], y)
        over_y.append(kernel.sum(axis=1))
        over_x += kernel.sum(axis=0)
    return np.concatenate(over_y), over_x
