"""The Frechet distance between Gaussians fitted to two sets of features; FID on Inception's."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ldm_jax.errors import UserError
from ldm_jax.evaluation.feature_arrays import SquaredDistance, check_widths, checked

# Images for each feature. Two sets of N images of one distribution have a distance of about d / 2N
# of the trace of its covariance where they should have 0: 5 % at N = 10 d.
ENOUGH_PER_FEATURE = 10


class Moments(NamedTuple):
    """What the distance needs of a set: `mean` `[d]`, `covariance` `[d, d]` (N - 1), and N."""

    mean: np.ndarray
    covariance: np.ndarray
    num: int


def moments(features: ArrayLike, *, name: str = "real") -> Moments:
    """Mean and unbiased covariance in float64 of features `[N, d]`, N >= 2.

    Raises:
      UserError: the features are not as `feature_arrays.checked` wants them.
    """
    array = checked(features, name=name, least=2, measure="the Frechet distance")
    return Moments(array.mean(axis=0), np.atleast_2d(np.cov(array, rowvar=False)), len(array))


def frechet_distance(*, real: ArrayLike, generated: ArrayLike) -> SquaredDistance:
    """Frechet distance between features `[N, d]` of real and of generated images.

    Heusel et al. 2017: |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)), the square of the
    2-Wasserstein distance between two Gaussians. It is FID on the 2048 features of the Inception
    network of that paper only. Biased: the fewer images, the larger (`ENOUGH_PER_FEATURE`), so two
    values compare at equal N only (App. E.3.5).

    Raises:
      UserError: fewer than two images of a kind, values that are not finite, different widths.
    """
    return frechet_distance_of_moments(
        real=moments(real), generated=moments(generated, name="generated")
    )


def frechet_distance_of_moments(*, real: Moments, generated: Moments) -> SquaredDistance:
    """`frechet_distance` of sets of which only the moments are kept.

    Raises:
      UserError: different widths, or values that are not finite.
    """
    check_widths(real=real.covariance, generated=generated.covariance)
    for name, side in (("real", real), ("generated", generated)):
        if not (np.isfinite(side.mean).all() and np.isfinite(side.covariance).all()):
            raise UserError(f"the moments of the {name} features are not finite")
    # S_1 S_2 has the eigenvalues of R S_2 R with R = S_1^(1/2), which is symmetric: they are real
    # and not negative but for rounding, and no root of a matrix that may be singular is needed.
    values, vectors = np.linalg.eigh(real.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ generated.covariance @ root)
    trace_of_root = np.sum(np.sqrt(np.maximum(product, 0)))
    distance = np.sum((real.mean - generated.mean) ** 2)
    distance += np.trace(real.covariance) + np.trace(generated.covariance) - 2 * trace_of_root
    return SquaredDistance(
        max(float(distance), 0.0),  # below 0 by rounding alone
        real.num,
        generated.num,
        _caution(min(real.num, generated.num), len(real.mean)),
    )


def _caution(num: int, width: int) -> str:
    if num >= ENOUGH_PER_FEATURE * width:
        return ""
    return (
        f"{num} images are few for a Frechet distance of {width} features: much of it is bias, "
        f"which falls below 5 % of their variance at {ENOUGH_PER_FEATURE * width}"
    )
