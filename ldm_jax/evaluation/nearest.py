"""Nearest training images in feature space: does a model repeat what it was trained on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import mannwhitneyu, rankdata

from ldm_jax.evaluation.feature_arrays import (
    check_widths,
    checked,
    row_blocks,
    squared_distances,
)


class Nearest(NamedTuple):
    """Nearest training image of each image: `index` int `[N]`, Euclidean `distance` `[N]`."""

    index: np.ndarray
    distance: np.ndarray


class Memorisation(NamedTuple):
    """`closer`: of all pairs of a sample and a held-out image the share with the sample closer.

    Closer to the training images, that is; ties count half. 0.5 where the model only generalises, 1
    where it copies, less than 0.5 where samples are further from the training images than
    real ones are, because they are bad. `p_value`: how probable samples as close as these are, were
    they as far from training images as held-out ones (one-sided Mann-Whitney test).
    """

    closer: float
    p_value: float
    generated: Nearest
    held_out: Nearest


def memorisation(*, training: ArrayLike, generated: ArrayLike, held_out: ArrayLike) -> Memorisation:
    """Are samples nearer to training images than held-out images are? Features `[N, d]`.

    Images that were held out cannot have been memorised, so their distances are what a model has
    that learnt the distribution. `closer` is the Mann-Whitney statistic (Meehan et al. 2020 test
    data-copying with it). All training images are needed: a copy of one left out is not seen.

    Raises:
      UserError: a set without images, values that are not finite, different widths.
    """
    sets = {"training": training, "generated": generated, "held-out": held_out}
    arrays = {
        name: checked(features, name=name, least=1, measure="the nearest training image")
        for name, features in sets.items()
    }
    check_widths(**arrays)
    near_generated = _nearest(arrays["generated"], arrays["training"])
    near_held_out = _nearest(arrays["held-out"], arrays["training"])
    closer = _share_smaller(near_generated.distance, near_held_out.distance)
    test = mannwhitneyu(near_generated.distance, near_held_out.distance, alternative="less")
    return Memorisation(closer, float(test.pvalue), near_generated, near_held_out)


def _nearest(queries: np.ndarray, targets: np.ndarray) -> Nearest:
    index, squared = [], []
    for rows in row_blocks(len(queries), len(targets)):
        block = squared_distances(queries[rows], targets)
        index.append(block.argmin(axis=1))
        squared.append(block.min(axis=1))
    return Nearest(np.concatenate(index), np.sqrt(np.concatenate(squared)))


def _share_smaller(a: np.ndarray, b: np.ndarray) -> float:
    """Of all pairs the share with a < b, ties half: the Mann-Whitney U over n m."""
    ranks_b = rankdata(np.concatenate([a, b]))[len(a) :]
    return float((ranks_b.sum() - len(b) * (len(b) + 1) / 2) / (len(a) * len(b)))
