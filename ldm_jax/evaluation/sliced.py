"""Sliced Wasserstein distance between two sets of features; MIND on Inception's."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ldm_jax.evaluation.feature_arrays import check_at_least, checked_pair

# Images of a kind. The distance between two sets of one distribution falls as 1 / N; with fewer
# than these it hides what differs, and it is the least number that the paper of MIND works with.
ENOUGH = 1000
_DIRECTIONS_AT_ONCE = 64


class SlicedWasserstein(NamedTuple):
    """The squared distance, and the numbers of images on which it depends.

    `caution` is empty, or says in one line that there are too few of them.
    """

    distance: float
    num_real: int
    num_generated: int
    caution: str = ""


def sliced_wasserstein(
    *, real: ArrayLike, generated: ArrayLike, directions: int = 1000, seed: int = 0
) -> SlicedWasserstein:
    """Squared sliced 2-Wasserstein distance between features `[N, d]`, times 3 d.

    Berthet et al. 2026 (arXiv:2605.06797), whose MIND it is on Inception's features: both sets are
    projected onto random directions, and in one dimension the optimal transport pairs the
    values in their order. 3 d is the paper's factor: with it a shift by mu of the whole set has
    the distance 3 |mu|^2. Sets of different sizes are compared by their quantile functions, with
    no image left out. Biased upwards for few images (`ENOUGH`).

    Raises:
      UserError: no image of a kind, values that are not finite, different widths.
    """
    real, generated = checked_pair(
        real=real, generated=generated, least=1, measure="the sliced Wasserstein distance"
    )
    check_at_least(1, directions=directions)
    width = real.shape[1]
    u = np.random.default_rng(seed).normal(size=(directions, width))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    ranks_real, ranks_generated, weights = _coupling(len(real), len(generated))
    total = 0.0
    for start in range(0, directions, _DIRECTIONS_AT_ONCE):
        some = u[start : start + _DIRECTIONS_AT_ONCE].T
        x, y = np.sort(real @ some, axis=0), np.sort(generated @ some, axis=0)
        total += np.sum(weights @ (x[ranks_real] - y[ranks_generated]) ** 2)
    num = min(len(real), len(generated))
    caution = ""
    if num < ENOUGH:
        caution = (
            f"{num} images are few for a sliced Wasserstein distance: equal distributions "
            f"differ visibly below {ENOUGH}"
        )
    return SlicedWasserstein(
        float(3 * width * total / directions), len(real), len(generated), caution
    )


def _coupling(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Optimal transport of n sorted values to m: pairs of ranks `[k]`, `[k]` and weights `[k]`.

    Both quantile functions are constant between neighbours of i / n and j / m; in units of 1 / nm
    these are whole numbers, so equal ones are met exactly.
    """
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    starts = np.concatenate([[0], ends[:-1]])
    return starts // m, starts // n, (ends - starts) / (n * m)
