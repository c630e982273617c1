"""Notebook 6, noise and the best denoiser: its exercises."""

from __future__ import annotations

import numpy as np

from ldm_jax.course.exercise import Build, Predict

Array = np.ndarray

_ALPHA_BAR = np.cumprod(1 - np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2)  # the paper's
_ALPHA, _SIGMA = np.sqrt(_ALPHA_BAR), np.sqrt(1 - _ALPHA_BAR)


def _over(table: Array, like: Array) -> Array:
    """[B] -> [B, 1, 1, 1]"""
    return table.reshape(-1, *[1] * (like.ndim - 1))


def _noisy(z_0: Array, t: Array, eps: Array, signal: Array = _ALPHA, noise: Array = _SIGMA):
    return _over(signal[t], z_0) * z_0 + _over(noise[t], z_0) * eps


def _estimate(z_t: Array, t: Array, score: Array, sign: float = 1.0):
    return (z_t + sign * _over(_SIGMA[t] ** 2, z_t) * score) / _over(_ALPHA[t], z_t)


def _cases(seed: int) -> list[tuple[Array, Array, Array]]:
    """(array, t, array): t at both ends, and channels as many as examples."""
    rng = np.random.default_rng(seed)
    cases = []
    for t, shape in (((0, 400, 999), (1, 2, 3)), ((250, 1, 700, 998), (1, 2, 1))):
        first, last = rng.normal(size=(2, len(t), *shape))
        cases.append((first, np.array(t), last))
    return cases


q_sample = Build(
    task="q_sample(z_0, t, eps) returns z_t, Eq. (4).",
    right=_noisy,
    mistakes={
        "You use alpha_bar as the amplitude. It is the power of the signal: alpha_t is its square "
        "root.": lambda z_0, t, eps: _noisy(z_0, t, eps, _ALPHA_BAR, 1 - _ALPHA_BAR),
        "The noise has the factor sigma_t^2. That is its variance; eps needs the standard "
        "deviation sigma_t.": lambda z_0, t, eps: _noisy(z_0, t, eps, _ALPHA, _SIGMA**2),
        "The signal has the factor alpha_t^2. Eq. (4) has alpha_t.": lambda z_0, t, eps: _noisy(
            z_0, t, eps, _ALPHA_BAR, _SIGMA
        ),
        "The noise has the factor 1 - alpha_t. It is sigma_t, the square root of 1 - alpha_t^2.": (
            lambda z_0, t, eps: _noisy(z_0, t, eps, _ALPHA, 1 - _ALPHA)
        ),
        "Signal and noise are exchanged: alpha_t belongs to z_0.": lambda z_0, t, eps: _noisy(
            z_0, t, eps, _SIGMA, _ALPHA
        ),
        "The noise is subtracted. Eq. (4) adds it.": lambda z_0, t, eps: _noisy(z_0, t, -eps),
        "You look up t - 1. The tables here begin with t = 0, so it is alpha[t].": (
            lambda z_0, t, eps: _noisy(z_0, t - 1, eps)
        ),
        "You look up t + 1. The tables here begin with t = 0, so it is alpha[t].": (
            lambda z_0, t, eps: _noisy(
                z_0, t + 1, eps, np.append(_ALPHA, _ALPHA[0]), np.append(_SIGMA, _SIGMA[0])
            )
        ),
        "alpha[t] has the shape [B]; z_0 has [B, h, w, c]. NumPy lines up the last axes, so each "
        "example must have its factor in the shape [B, 1, 1, 1].": (
            lambda z_0, t, eps: _ALPHA[t] * z_0 + _SIGMA[t] * eps
        ),
    },
    told="z_t = alpha_t z_0 + sigma_t eps, each example with its own t.",
    cases=_cases(0),
)

mean_at_the_end = Predict(
    task="the best guess of z_0 at t = 999, a number.",
    right=0.5,
    mistakes={
        "0 is the middle between the two points, but they are not equally frequent.": 0.0,
        "1 is the more frequent point. It is the likeliest value, and not the one with the "
        "smallest mean squared error.": 1.0,
        "-1 is the rarer point.": -1.0,
        "0.75 is the probability of the point +1. The guess is a mean of points.": 0.75,
        "The weights are right, but they are exchanged: +1 is the frequent point.": -0.5,
    },
    told="z_999 says next to nothing, so the mean of all data is the best guess: "
    "0.75 * 1 + 0.25 * (-1).",
)

tweedie = Build(
    task="tweedie(z_t, t, score) returns the best guess of z_0.",
    right=_estimate,
    mistakes={
        "The sign is wrong: the score points to where data are denser, and the guess lies that "
        "way.": lambda z_t, t, score: _estimate(z_t, t, score, -1.0),
        "The score has the factor sigma_t. In Tweedie's formula it is the variance sigma_t^2.": (
            lambda z_t, t, score: (z_t + _over(_SIGMA[t], z_t) * score) / _over(_ALPHA[t], z_t)
        ),
        "You have the mean of alpha_t z_0. Divide it by alpha_t.": (
            lambda z_t, t, score: z_t + _over(_SIGMA[t] ** 2, z_t) * score
        ),
        "You divide by alpha_bar_t. It is alpha_t, the amplitude.": (
            lambda z_t, t, score: (
                (z_t + _over(_SIGMA[t] ** 2, z_t) * score) / _over(_ALPHA_BAR[t], z_t)
            )
        ),
        "Only z_t is divided by alpha_t. The score's part must be divided, too.": (
            lambda z_t, t, score: z_t / _over(_ALPHA[t], z_t) + _over(_SIGMA[t] ** 2, z_t) * score
        ),
        "You treat the score as if it were eps. It is -eps / sigma_t.": (
            lambda z_t, t, score: (z_t - _over(_SIGMA[t], z_t) * score) / _over(_ALPHA[t], z_t)
        ),
        "alpha[t] has the shape [B]; z_t has [B, h, w, c]. Each example must have its factor in "
        "the shape [B, 1, 1, 1].": lambda z_t, t, score: (z_t + _SIGMA[t] ** 2 * score) / _ALPHA[t],
    },
    told="(z_t + sigma_t^2 score) / alpha_t: a step up the density of the noisy data.",
    cases=_cases(1),
)
