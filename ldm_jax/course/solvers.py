"""Notebook 8, from noise to latents: its exercises."""

from __future__ import annotations

import numpy as np

from ldm_jax.course.exercise import Build, Predict

Array = np.ndarray

_BETA = np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2  # the paper's
_LOG_POWER = np.append(0.0, np.cumsum(np.log1p(-_BETA)))  # log alpha_t^2; t = -1 is clean data


def _alpha(t: Array, exponent: float = 1.0) -> Array:
    """alpha_t of whole and fractional t, to the power of an exponent."""
    return np.exp(exponent / 2 * np.interp(t, np.arange(-1, 1000), _LOG_POWER))


def _sigma(t: Array, exponent: float = 1.0) -> Array:
    return np.sqrt(1 - _alpha(t, exponent) ** 2)


def _step(
    z_t: Array,
    eps_hat: Array,
    t: Array,
    s: Array,
    eta: Array,
    noise: Array,
    *,
    exponent: float = 1.0,
    power_of_sigma: int = 1,
    room: bool = True,
    root: bool = True,
) -> Array:
    """DDIM's step: arXiv:2010.02502, Eqs. 12 and 16. The last four say which mistake is made."""
    alpha_t, alpha_s = _alpha(t, exponent), _alpha(s, exponent)
    sigma_t, sigma_s = (_sigma(i, exponent) ** power_of_sigma for i in (t, s))
    z_0 = (z_t - sigma_t * eps_hat) / alpha_t
    var_ts = np.maximum(sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2, 0)
    rho = eta * sigma_s / sigma_t * (np.sqrt(var_ts) if root else var_ts)
    old = np.sqrt(np.maximum(sigma_s**2 - (rho**2 if room else 0), 0))
    return alpha_s * z_0 + old * eps_hat + rho * noise


def _cases() -> list[tuple[Array, ...]]:
    """(z_t, eps_hat, t, s, eta, noise): with and without new noise, and a step to clean data."""
    rng = np.random.default_rng(0)
    cases = []
    for t, s, eta in ((500, 400, 0.0), (900, 650, 1.0), (300, 299, 0.5), (120, -1, 1.0)):
        z_t, eps_hat, noise = rng.normal(size=(3, 4, 2))
        cases.append((z_t, eps_hat, np.array(t), np.array(s), np.array(eta), noise))
    return cases


ddim_step = Build(
    task="ddim_step(z_t, eps_hat, t, s, eta, noise) returns z_s.",
    right=_step,
    mistakes={
        "You take the square root of alpha(t). Here alpha(t) is the amplitude itself; the DDIM "
        "paper's alpha is its square.": (lambda *arguments: _step(*arguments, exponent=0.5)),
        "You take alpha(t)**2 for the amplitude. The amplitude is alpha(t) itself.": (
            lambda *arguments: _step(*arguments, exponent=2.0)
        ),
        "The noise has the variance sigma^2 in the place of the standard deviation sigma.": (
            lambda *arguments: _step(*arguments, power_of_sigma=2)
        ),
        "There is too much noise: where rho of new noise comes in, only sqrt(sigma_s^2 - rho^2) "
        "of the old may stay.": lambda *arguments: _step(*arguments, room=False),
        "In rho, sigma_t|s is a standard deviation: take the square root.": (
            lambda *arguments: _step(*arguments, root=False)
        ),
        "The noise of the step has no effect. Add rho times noise.": (
            lambda z_t, eps_hat, t, s, eta, noise: _step(z_t, eps_hat, t, s, eta, 0 * noise)
        ),
        "eta has no effect: this is right for eta = 0 only.": (
            lambda z_t, eps_hat, t, s, eta, noise: _step(z_t, eps_hat, t, s, 0 * eta, noise)
        ),
        "eta has no effect: this is right for eta = 1 only.": (
            lambda z_t, eps_hat, t, s, eta, noise: _step(z_t, eps_hat, t, s, 0 * eta + 1, noise)
        ),
        "You add the predicted noise where you should remove it: z_0 is (z_t - ...) / alpha_t.": (
            lambda z_t, eps_hat, t, s, eta, noise: (
                _step(z_t, eps_hat, t, s, eta, noise)
                + 2 * _alpha(s) * _sigma(t) / _alpha(t) * eps_hat
            )
        ),
        "This is z_0. The step goes to z_s: mix z_0 with noise again.": (
            lambda z_t, eps_hat, t, s, eta, noise: _step(z_t, eps_hat, t, -1, eta, noise)
        ),
    },
    told="All noise that is seen is taken out, and as much as belongs to s is put back.",
    cases=_cases(),
)


order_at_the_end = Predict(
    task="the order of Heun's method on a grid that ends in clean data, a number.",
    right=1.0,
    mistakes={
        "All steps but one are of order 2. But what does Heun's method ask at the end of the last "
        "step, and is there an answer?": 2.0,
        "More steps do help, as the cell below shows.": 0.0,
        "No solver here is of order 3 or 4.": 4.0,
    },
    told="The last step has only one end that can be asked, so it is a step of order 1; and its "
    "error is the largest of all.",
    tolerance=0.25,
)
