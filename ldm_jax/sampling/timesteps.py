"""The grid of timesteps that a solver walks down: the sub-sequence tau of DDIM, and where it ends.

A grid has S+1 decreasing timesteps: the S at which the network is asked, and the one where the last
step ends. -1 is clean data. Timesteps are whole (int32) or fractional (float32).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.errors import UserError

Spacing = Literal[
    "uniform", "quadratic", "log-snr", "karras", "compvis", "compvis-quadratic", "compvis-dpm"
]
FRACTIONAL = ("log-snr", "karras", "compvis-dpm")


def timestep_grid(spacing: Spacing, steps: int, schedule: Schedule) -> np.ndarray:
    """The grid `[S+1]` of a spacing, decreasing.

    The first four start at T-1, make exactly S = `steps` steps and end in clean data:

    - uniform: evenly spread.
    - quadratic: steps grow with t, tau_i ~ i^2 (DDIM, arXiv:2010.02502), but are 1 at least.
    - log-snr: even in log(alpha/sigma) from T-1 to 0 (DPM-Solver, arXiv:2206.00927), fractional.
    - karras: even in (sigma/alpha)^(1/7) from T-1 to 0 (Karras et al., arXiv:2206.00364, Eq. 5),
      fractional.

    The others are the published code's, for results like its own. They end at timestep 0, so a
    little noise stays in the image:

    - compvis: every (T // steps)-th timestep, shifted up by 1. As many steps as that gives, which
      is another number than `steps` for most; where the shift leads beyond T-1, there is no grid.
    - compvis-quadratic: from 0.8 T downwards; the smallest timesteps are visited more than once.
    - compvis-dpm: from T-1 to 0 in exactly S equal, fractional steps (its DPM-Solver).

    Raises:
      UserError: see `check_steps`.
    """
    check_steps(spacing, steps, schedule.timesteps)
    if spacing == "log-snr":
        return log_snr(steps, schedule)
    if spacing == "karras":
        return karras(steps, schedule)
    return GRIDS[spacing](steps, schedule.timesteps)


def custom_grid(tau: Sequence[int], timesteps: int) -> np.ndarray:
    """The grid of the given timesteps, and clean data: int32 `[S+1]`.

    Raises:
      UserError: they do not decrease, or are not all of 0 to T-1.
    """
    if not (timesteps > tau[0] and tau[-1] >= 0 and (np.diff(tau) < 0).all()):
        raise UserError(
            f"timesteps are {' '.join(map(str, tau))}; they decrease, from {timesteps - 1} at most "
            "to 0 at least, such as "
            f"{' '.join(map(str, quadratic(min(4, timesteps), timesteps)[:-1]))}"
        )
    return np.array([*tau, -1], np.int32)


def check_steps(spacing: str, steps: int, timesteps: int) -> None:
    """Raises UserError for an unknown spacing, or a number of steps it has no grid for."""
    if spacing not in get_args(Spacing):
        raise UserError(f"unknown spacing {spacing!r}; there are: {', '.join(get_args(Spacing))}")
    if not 1 <= steps <= timesteps:
        raise UserError(f"steps is {steps}; this model takes 1 to {timesteps}")
    if spacing in ("log-snr", "karras"):
        return

    def works(n: int) -> bool:
        grid = GRIDS[spacing](n, timesteps)
        return timesteps > grid[0] > grid[-1]

    if not works(steps):
        nearest = [next(filter(works, range(steps, 0, -1)), None)]
        nearest += [next(filter(works, range(steps, timesteps + 1)), None)]
        found = " or ".join(str(n) for n in nearest if n) or "none"
        raise UserError(
            f"steps is {steps}, but spacing {spacing} would then leave the {timesteps} timesteps "
            f"of this model; the nearest numbers that work: {found}"
        )


def uniform(steps: int, timesteps: int) -> np.ndarray:
    """timestep_grid's, int32 `[S+1]`."""
    tau = np.arange(steps + 1) * timesteps // steps - 1
    return tau[::-1].astype(np.int32)


def quadratic(steps: int, timesteps: int) -> np.ndarray:
    """timestep_grid's, int32 `[S+1]`."""
    i = np.arange(steps + 1)
    tau = np.maximum(np.rint(timesteps * (i / steps) ** 2), i) - 1
    return tau[::-1].astype(np.int32)


def log_snr(steps: int, schedule: Schedule) -> np.ndarray:
    """timestep_grid's, float32 `[S+1]`."""
    return _at_half_log_snr(np.linspace(*_ends(schedule), steps), schedule)


def karras(steps: int, schedule: Schedule, rho: float = 7.0) -> np.ndarray:
    """timestep_grid's, float32 `[S+1]`."""
    noisy, clean = np.exp(-_ends(schedule) / rho)  # (sigma/alpha)^(1/rho)
    return _at_half_log_snr(-rho * np.log(np.linspace(noisy, clean, steps)), schedule)


def _ends(schedule: Schedule) -> np.ndarray:
    """log(alpha/sigma) at T-1 and at 0."""
    alpha_bar = schedule.alpha_bar[[-1, 0]]
    return (np.log(alpha_bar) - np.log1p(-alpha_bar)) / 2


def _at_half_log_snr(half_log_snr: np.ndarray, schedule: Schedule) -> np.ndarray:
    """The timesteps of these log(alpha/sigma), and clean data: float32 `[S+1]`.

    As `Schedule.timestep`, which cannot be asked without compiling something for each S.
    """
    log_alpha, t = np.log(schedule.alpha_bar) / 2, np.arange(schedule.timesteps)
    tau = np.interp(-0.5 * np.logaddexp(0.0, -2 * half_log_snr), log_alpha[::-1], t[::-1])
    return np.append(tau, -1).astype(np.float32)


def compvis(steps: int, timesteps: int) -> np.ndarray:
    """timestep_grid's, int32, ceil(T / (T // steps)) + 1 of them."""
    tau = np.arange(0, timesteps, timesteps // steps) + 1
    return np.append(tau[::-1], 0).astype(np.int32)


def compvis_quadratic(steps: int, timesteps: int) -> np.ndarray:
    """timestep_grid's, int32 `[S+1]`; it does not decrease strictly."""
    tau = (np.linspace(0, (0.8 * timesteps) ** 0.5, steps) ** 2).astype(int) + 1
    return np.append(tau[::-1], 0).astype(np.int32)


def compvis_dpm(steps: int, timesteps: int) -> np.ndarray:
    """timestep_grid's, float32 `[S+1]`."""
    return np.linspace(timesteps - 1, 0, steps + 1, dtype=np.float32)


GRIDS = {
    "uniform": uniform,
    "quadratic": quadratic,
    "compvis": compvis,
    "compvis-quadratic": compvis_quadratic,
    "compvis-dpm": compvis_dpm,
}
