"""Noise schedules: beta_t, and the alpha_t, sigma_t of App. B that follow from it.

The paper's alpha_t is the signal *amplitude*: alpha_t^2 = alpha_bar_t (DDPM's cumulative product)
and sigma_t^2 = 1 - alpha_bar_t. Steps are indexed 0..T-1; step -1 means clean data, where
alpha = 1 and sigma = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.bounds import Bounds, NonNegative
from ldm_jax.errors import UserError

Array = jax.Array


@dataclass(frozen=True)
class ScheduleConfig:
    """The forward process: how much noise each of the T steps adds."""

    kind: Literal["sqrt-linear", "linear", "cosine"] = "sqrt-linear"
    """sqrt-linear is what the paper calls "linear": sqrt(beta) rises linearly."""
    timesteps: Annotated[int, Bounds(1, 1_000_000)] = 1000
    """Number of diffusion steps T."""
    beta_start: NonNegative = 0.0015
    """beta of the first step (not used by cosine)."""
    beta_end: NonNegative = 0.0195
    """beta of the last step (not used by cosine)."""
    zero_terminal_snr: bool = False
    """Rescale the schedule so that z_T is noise alone, as in sampling: images may then be darker
    or brighter than average. It needs --diffusion.prediction v or z_0."""


@dataclass(frozen=True)
class Schedule:
    """Tables over the T steps, NumPy float64; the methods return float32.

    (float64 under `jax.enable_x64`.) Timesteps t are integers, or floats from -1 to T-1.
    """

    beta: np.ndarray
    alpha_bar: np.ndarray

    @property
    def timesteps(self) -> int:
        """The number of steps T."""
        return len(self.beta)

    @property
    def has_zero_snr(self) -> bool:
        """Whether z_T is noise alone: alpha is 0 at T-1, and log(alpha/sigma) is infinite."""
        return self.alpha_bar[-1] == 0

    def alpha(self, t: Array) -> Array:
        """alpha_t of App. B, Eq. (4): float32, the shape of `t`; 1 at t = -1.

        Between integer steps log alpha is linear in t, as in DPM-Solver (arXiv:2206.00927).
        """
        if _is_integer(t):
            return jnp.asarray(np.sqrt(self._with_clean_data()))[t + 1]
        return jnp.exp(self._log_alpha(t))

    def sigma(self, t: Array) -> Array:
        """sigma_t of App. B, Eq. (4): float32, the shape of `t`; 0 at t = -1."""
        if _is_integer(t):
            return jnp.asarray(np.sqrt(1.0 - self._with_clean_data()))[t + 1]
        return jnp.sqrt(-jnp.expm1(2 * self._log_alpha(t)))

    def snr(self, t: Array) -> Array:
        """SNR(t) = alpha_t^2 / sigma_t^2 (App. B), t >= 0."""
        return (self.alpha(t) / self.sigma(t)) ** 2

    def half_log_snr(self, t: Array) -> Array:
        """log(alpha_t / sigma_t), DPM-Solver's lambda: the shape of `t`; infinite at t = -1."""
        return jnp.log(self.alpha(t) / self.sigma(t))

    def timestep(self, half_log_snr: Array) -> Array:
        """The inverse of `half_log_snr`: t from -1 to T-1, float32, the same shape."""
        log_alpha = -0.5 * jnp.logaddexp(0.0, -2 * half_log_snr)
        table = 0.5 * np.log(self._with_clean_data())
        return jnp.interp(log_alpha, table[::-1], np.arange(-1.0, self.timesteps)[::-1])

    def _log_alpha(self, t: Array) -> Array:
        below = jnp.clip(jnp.floor(t).astype(int), -1, self.timesteps - 2)
        table = 0.5 * np.log(self._with_clean_data())
        slope = jnp.asarray(np.diff(table))[below + 1]
        return jnp.asarray(table)[below + 1] + slope * (t - below)

    def _with_clean_data(self) -> np.ndarray:
        return np.concatenate([[1.0], self.alpha_bar])


def make_schedule(config: ScheduleConfig) -> Schedule:
    """The tables of a configuration, computed in float64.

    Raises:
      UserError: T < 1, or betas that do not satisfy 0 < beta_start <= beta_end < 1.
    """
    T, start, end = config.timesteps, config.beta_start, config.beta_end
    if T < 1:
        raise UserError(f"schedule.timesteps is {T}; it must be at least 1")
    if not 0 < start <= end < 1:
        raise UserError(f"schedule betas {start}, {end} must satisfy 0 < start <= end < 1")
    if config.kind == "sqrt-linear":
        beta = np.linspace(start**0.5, end**0.5, T, dtype=np.float64) ** 2
    elif config.kind == "linear":
        beta = np.linspace(start, end, T, dtype=np.float64)
    else:  # cosine (Nichol and Dhariwal, arXiv:2102.09672, Eq. 17), offset s = 0.008
        u = (np.arange(T + 1, dtype=np.float64) / T + 0.008) / 1.008
        alpha_bar = np.cos(u * np.pi / 2) ** 2
        beta = np.clip(1.0 - alpha_bar[1:] / alpha_bar[:-1], 0.0, 0.999)
    if config.zero_terminal_snr:
        return rescaled_to_zero_snr(beta)
    return Schedule(beta=beta, alpha_bar=np.cumprod(1.0 - beta))


def rescaled_to_zero_snr(beta: np.ndarray) -> Schedule:
    """The schedule whose alpha falls to 0 at T-1 (Lin et al., arXiv:2305.08891, Algorithm 1).

    alpha is shifted and scaled: 0 at the last step, as before at the first.
    """
    alpha = np.sqrt(np.cumprod(1.0 - beta))
    if len(alpha) > 1:
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    else:
        alpha = np.zeros(1)
    alpha_bar = alpha**2
    return Schedule(beta=1.0 - alpha_bar / np.append(1.0, alpha_bar[:-1]), alpha_bar=alpha_bar)


def _is_integer(t: Array) -> bool:
    return jnp.issubdtype(jnp.result_type(t), jnp.integer)


def bcast(per_sample: Array, like: Array) -> Array:
    """Adds axes to `[B]` (or a scalar), so that it broadcasts with `like` `[B, ...]`."""
    return per_sample.reshape(per_sample.shape + (1,) * (like.ndim - per_sample.ndim))
