"""The Inception Score: are the images of one class each, and of all classes together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import rel_entr, softmax

from ldm_jax.errors import UserError
from ldm_jax.evaluation.feature_arrays import check_at_least, real_numbers


class InceptionScore(NamedTuple):
    """Mean and standard deviation over the splits, and the number of images.

    `caution` is empty, or says in one line that there are too few of them.
    """

    mean: float
    std: float
    num: int
    splits: int
    caution: str = ""


def inception_score(*, logits: ArrayLike, splits: int = 10, seed: int = 2020) -> InceptionScore:
    """Inception Score of generated images, from a classifier's logits `[N, classes]`.

    Salimans et al. 2016: exp of the mean of KL(p(y given x) || p(y)), where p(y) is the mean over
    the images of a split. Probabilities are given as their logarithms. From 1 (all images alike) to
    the number of classes, and never more than the images of a split: with fewer of
    them than classes the score is too small, which `caution` says.

    Args:
      splits: equal parts of the images in random order, so images sorted by class are no trap.
      seed: of that order, which is torch-fidelity's for the same seed.

    Raises:
      UserError: logits that are no finite numbers `[N, classes]`, or fewer images than splits.
    """
    logits = _checked(logits)
    check_at_least(1, splits=splits)
    num, classes = logits.shape
    if num < splits:
        raise UserError(
            f"the Inception Score over {splits} splits needs at least {splits} images, got {num}"
        )
    order = np.random.RandomState(seed).permutation(num)
    p = softmax(logits[order], axis=1)
    scores = []
    for i in range(splits):
        part = p[i * num // splits : (i + 1) * num // splits]
        scores.append(np.exp(np.mean(rel_entr(part, part.mean(axis=0)).sum(axis=1))))
    caution = ""
    if num // splits < classes:
        caution = (
            f"{num // splits} images a split are few for an Inception Score of {classes} classes: "
            "it cannot exceed the number of images"
        )
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)), num, splits, caution)


def _checked(logits: ArrayLike) -> np.ndarray:
    """As float64; -inf is the logarithm of the probability 0 and allowed beside finite ones."""
    logits = real_numbers(logits, name="logits")
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise UserError(f"the logits have the shape {logits.shape}; it must be [N, classes]")
    wrong = np.isnan(logits).any(axis=1) | ~np.isfinite(logits.max(axis=1))
    if wrong.any():
        raise UserError(
            f"{wrong.sum()} of {len(logits)} images have logits that are not finite; "
            f"the first is row {np.argmax(wrong)}"
        )
    return logits
