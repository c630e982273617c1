"""The solvers by name, and what a solver is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax

from ldm_jax.errors import UserError
from ldm_jax.sampling.multistep import (
    dpmpp_2m_memory,
    dpmpp_2m_sde_step,
    dpmpp_2m_step,
    plms_memory,
    plms_step,
)
from ldm_jax.sampling.single_step import (
    ddim_step,
    ddpm_step,
    dpmpp_2s_step,
    dpmpp_sde_step,
    euler_step,
    heun_step,
)

Array = jax.Array


@dataclass(frozen=True)
class Solver:
    """How to get from z_t to z_s, and what has to be remembered on the way.

    step: (schedule, denoise, z_t, t, s, noise, eta) -> (z_s, z_0), pure; see `single_step`. With a
      memory that is one more argument and one more result.
    memory: (z_T, grid) -> what is remembered before the first step; None: nothing ever is.
    has_eta: whether eta does anything. stochastic: whether it adds noise, whatever eta is.
    noises: how many arrays of new noise a step takes.
    zero_snr: whether it can start where alpha is 0. The others divide by alpha there, or ask for
      the middle of a step that is infinite in log(alpha/sigma).
    """

    step: Callable[..., tuple[Array, ...]]
    memory: Callable[[Array, Array], Any] | None = None
    has_eta: bool = False
    stochastic: bool = False
    noises: int = 1
    zero_snr: bool = False


SOLVERS = {
    "ddim": Solver(ddim_step, has_eta=True, zero_snr=True),
    "ddpm": Solver(ddpm_step, stochastic=True, zero_snr=True),
    "plms": Solver(plms_step, plms_memory),
    "dpmpp-2m": Solver(dpmpp_2m_step, dpmpp_2m_memory, zero_snr=True),
    "dpmpp-2m-sde": Solver(dpmpp_2m_sde_step, dpmpp_2m_memory, stochastic=True, zero_snr=True),
    "dpmpp-2s": Solver(dpmpp_2s_step),
    "dpmpp-sde": Solver(dpmpp_sde_step, stochastic=True, noises=2),
    "dpmpp-1": Solver(euler_step, zero_snr=True),  # the same, derived in another way
    "euler": Solver(euler_step, zero_snr=True),
    "euler-a": Solver(ddpm_step, stochastic=True, zero_snr=True),  # likewise the same as ddpm
    "heun": Solver(heun_step),
}
SolverName = Literal[tuple(SOLVERS)]


def check_eta(sampler: str, eta: float) -> None:
    """Raises UserError for an unknown sampler, or an eta that it does not have."""
    if sampler not in SOLVERS:
        raise UserError(f"unknown sampler {sampler!r}; there are: {', '.join(SOLVERS)}")
    if not 0.0 <= eta <= 1.0:
        raise UserError(f"eta is {eta}; it lies between 0 (deterministic) and 1 (as DDPM)")
    if eta and not SOLVERS[sampler].has_eta:
        takers = ", ".join(name for name, solver in SOLVERS.items() if solver.has_eta)
        raise UserError(f"eta is {eta}, but sampler {sampler} has none: eta 0, or sampler {takers}")
