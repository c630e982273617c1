"""Notebook 7, build eps_theta and train it: its exercises."""

from __future__ import annotations

import numpy as np

from ldm_jax.course.exercise import Build, Predict

Array = np.ndarray


def _embedding(t: Array, frequency: Array) -> Array:
    angle = np.asarray(t, np.float64)[:, None] * frequency
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


def _frequency(dim: Array, divisor: Array, sign: float = -1.0) -> Array:
    return 10_000.0 ** (sign * np.arange(dim // 2) / divisor)


def _right(t: Array, dim: Array) -> Array:
    return _embedding(t, _frequency(dim, dim // 2))


def _interleaved(t: Array, dim: Array) -> Array:
    cosines, sines = np.split(_right(t, dim), 2, axis=1)
    return np.stack([cosines, sines], axis=2).reshape(len(t), -1)


timestep_embedding = Build(
    task="timestep_embedding(t, dim) returns cosines, then sines, of the shape [B, dim].",
    right=_right,
    mistakes={
        "The sines come first. The order is a convention, and the published weights have the "
        "cosines first.": lambda t, dim: np.roll(_right(t, dim), dim // 2, axis=1),
        "Cosines and sines take turns. Here all cosines come first, then all sines.": _interleaved,
        "The exponent is i / (dim / 2 - 1), as in some other code. Divide by dim / 2.": (
            lambda t, dim: _embedding(t, _frequency(dim, dim // 2 - 1))
        ),
        "The exponent is i / dim. There are dim / 2 frequencies, so divide by dim / 2.": (
            lambda t, dim: _embedding(t, _frequency(dim, dim))
        ),
        "The exponent has no minus sign. The frequencies fall, from 1 to almost 1/10000.": (
            lambda t, dim: _embedding(t, _frequency(dim, dim // 2, 1.0))
        ),
        "There is a factor 2 pi. The angle is t times the frequency.": (
            lambda t, dim: _embedding(2 * np.pi * t, _frequency(dim, dim // 2))
        ),
        "You divide t by T. Then no angle is larger than 1, and all t look alike.": (
            lambda t, dim: _embedding(t / 1000, _frequency(dim, dim // 2))
        ),
    },
    told="All t have different vectors, and neighbours have similar ones.",
    cases=[(np.array([0, 3, 999]), np.array(8)), (np.array([500, 17]), np.array(32))],
    tolerance=1e-3,
)

loss_at_start = Predict(
    task="the loss of Eq. (2) before the first step, a mean over all elements.",
    right=1.0,
    mistakes={
        "0 would be perfect. The network says 0 for each element of eps, which is not 0.": 0.0,
        "That would be so if the output were noise of variance 1, independent of eps. It is 0.": (
            2.0
        ),
        "The error is eps itself. What is the mean square of a standard normal variable?": 0.5,
    },
    told="The output is 0, so the error is eps, and its mean square is 1.",
    tolerance=0.02,
)


def _average(old: Array, new: Array, decay: Array) -> Array:
    return decay * old + (1 - decay) * new


_OLD, _NEW = np.random.default_rng(0).normal(size=(2, 3, 4))

ema = Build(
    task="ema(average, weights, decay) returns the next average.",
    right=_average,
    mistakes={
        "The decay belongs to the old average: at 0.999 it changes by a thousandth.": (
            lambda old, new, decay: _average(old, new, 1 - decay)
        ),
        "The old average is kept whole, so the sum grows without end. Multiply it by the decay.": (
            lambda old, new, decay: old + (1 - decay) * new
        ),
        "The new weights are taken whole. Multiply them by 1 - decay.": (
            lambda old, new, decay: decay * old + new
        ),
        "You move away from the new weights: the difference has the wrong sign.": (
            lambda old, new, decay: old + (1 - decay) * (old - new)
        ),
    },
    told="decay * average + (1 - decay) * weights.",
    cases=[(_OLD, _NEW, np.array(decay)) for decay in (0.9, 0.99)],
)
