"""Precision and recall, density and coverage: does one set of features lie within the other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ldm_jax.evaluation.feature_arrays import (
    check_at_least,
    checked_pair,
    row_blocks,
    squared_distances,
)

# Images of a kind. These measures are shares of the images, whose standard error is up to
# 1 / (2 sqrt(N)): 0.016 at 1,000.
ENOUGH = 1000
# Balls are closed. A copy of an image on the border of a ball is inside in exact arithmetic; its
# squared distance is rounded otherwise in another block.
_BORDER = 1 + 1e-9


class PrecisionRecall(NamedTuple):
    """Shares from 0 to 1. `caution` is empty, or says in one line that the images are too few."""

    precision: float
    recall: float
    num_real: int
    num_generated: int
    caution: str = ""


class DensityCoverage(NamedTuple):
    """Density is about 1 for equal distributions and may be more; coverage is a share.

    `caution` is empty, or says in one line that the images are too few.
    """

    density: float
    coverage: float
    num_real: int
    num_generated: int
    caution: str = ""


def precision_recall(*, real: ArrayLike, generated: ArrayLike, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall of features `[N, d]`.

    Kynkaanniemi et al. 2019: each image has a ball that reaches its k-th nearest neighbour in its
    own set. Precision is the share of generated images in any ball of a real one, recall the share
    of real images in any ball of a generated one. To swap the sets is to swap the two.

    Raises:
      UserError: k images of a kind or fewer, values that are not finite, different widths.
    """
    real, generated = _checked(real, generated, k, "precision and recall")
    radii_real, radii_generated = _squared_radii(real, k), _squared_radii(generated, k)
    in_real = np.zeros(len(generated), bool)
    in_generated = np.zeros(len(real), bool)
    for rows in row_blocks(len(real), len(generated)):
        squared = squared_distances(real[rows], generated)
        in_real |= (squared <= _BORDER * radii_real[rows, None]).any(axis=0)
        in_generated[rows] = (squared <= _BORDER * radii_generated).any(axis=1)
    return PrecisionRecall(
        float(in_real.mean()),
        float(in_generated.mean()),
        len(real),
        len(generated),
        _caution(len(real), len(generated)),
    )


def density_coverage(*, real: ArrayLike, generated: ArrayLike, k: int = 5) -> DensityCoverage:
    """Density and coverage of features `[N, d]`.

    Naeem et al. 2020: with the balls of the real images as in `precision_recall`, density is the
    mean number of them that a generated image lies in, over k; coverage the share of them
    with a generated image inside. One outlier among the real images raises precision, but hardly
    these. For equal distributions and numbers coverage is 1 - 2^-k on average; it
    depends on how many images there are of each kind, so compare at equal numbers.

    Raises:
      UserError: k images of a kind or fewer, values that are not finite, different widths.
    """
    real, generated = _checked(real, generated, k, "density and coverage")
    radii = _squared_radii(real, k)
    inside = np.zeros(len(real))  # generated images in the ball of each real one
    for rows in row_blocks(len(real), len(generated)):
        squared = squared_distances(real[rows], generated)
        inside[rows] = (squared <= _BORDER * radii[rows, None]).sum(axis=1)
    return DensityCoverage(
        float(inside.sum() / (k * len(generated))),
        float((inside > 0).mean()),
        len(real),
        len(generated),
        _caution(len(real), len(generated)),
    )


def _checked(
    real: ArrayLike, generated: ArrayLike, k: int, measure: str
) -> tuple[np.ndarray, np.ndarray]:
    check_at_least(1, k=k)
    measure = f"{measure} with k = {k}"
    return checked_pair(real=real, generated=generated, least=k + 1, measure=measure)


def _squared_radii(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each row to its k-th nearest other row: `[n]`."""
    radii = []
    for rows in row_blocks(len(x), len(x)):
        squared = squared_distances(x[rows], x)  # 0 to itself: number k of 0, 1, ..., k
        squared.partition(k, axis=1)
        radii.append(squared[:, k].copy())
    return np.concatenate(radii)


def _caution(num_real: int, num_generated: int) -> str:
    num = min(num_real, num_generated)
    if num >= ENOUGH:
        return ""
    return (
        f"{num} images are few for a share of them: its standard error is up to "
        f"{0.5 / np.sqrt(num):.3f} (0.016 at {ENOUGH})"
    )
