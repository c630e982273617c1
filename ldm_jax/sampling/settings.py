"""How images are sampled: one set of settings for the command line, the experiments and Python."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

import numpy as np

from ldm_jax.bounds import (
    BatchSize,
    Bounds,
    Finite,
    NonNegative,
    PositiveInt,
    Seed,
    Side,
    UnitFloat,
)
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.errors import UserError
from ldm_jax.sampling.decoding import AT_ONCE
from ldm_jax.sampling.solvers import SOLVERS, SolverName, check_eta
from ldm_jax.sampling.tiling import Tiles
from ldm_jax.sampling.timesteps import (
    FRACTIONAL,
    Spacing,
    check_steps,
    custom_grid,
    timestep_grid,
)


class Geometry(NamedTuple):
    """The size of images and of their latents, and the tiles in which networks see them."""

    height: int
    """Of the images, in pixels."""
    width: int
    """Likewise."""
    shape: tuple[int, int, int]
    """Of a latent: (h, w, c)."""
    unet_tiles: Tiles | None = None
    decoder_tiles: Tiles | None = None
    at_once: int = AT_ONCE
    """Images that each device decodes at a time, at most."""


@dataclass(frozen=True)
class SamplingSettings:
    """How images are sampled from a trained model."""

    sampler: SolverName = "ddim"
    """Solver; heun, dpmpp-2s and dpmpp-sde evaluate the network twice a step."""
    steps: PositiveInt = 50
    """Solver steps S, 1 to T."""
    spacing: Spacing = "quadratic"
    """Which S of the T timesteps are visited; the compvis ones are the published code's."""
    timesteps: Annotated[tuple[int, ...], Bounds(0)] = ()
    """The timesteps themselves, decreasing, in place of --steps and --spacing."""
    guidance: Finite = 3.0
    """Guidance scale s; 1 is none."""
    guidance_rescale: UnitFloat = 0.0
    """How much of the contrast that guidance adds is taken back: 0 nothing, 1 all; 0.7 is usual."""
    eta: UnitFloat = 0.0
    """Stochasticity of ddim: 0 deterministic, 1 as ddpm; the other solvers have none."""
    temperature: NonNegative = 1.0
    """Factor on the noise that a stochastic solver adds."""
    seed: Seed = 0
    """Image i depends on the seed, i and its condition alone."""
    batch_size: BatchSize = 16
    """Images sampled at a time; changes speed and memory, not the images."""
    height: Side | None = None
    """Height of the images in pixels (Sec. 4.3.2); None: as in training."""
    width: Side | None = None
    """Width likewise."""
    window: Side | None = None
    """Tiles for the UNet, squares of so many pixels, which overlap by half and are blended: for
    images so large that the UNet makes no sense of the whole, or has no memory for it."""
    tile: Side | None = None
    """Tiles for the decoder, likewise: saves memory. Larger tiles differ less from the whole."""

    def grid(self, schedule: Schedule) -> np.ndarray:
        """The grid of timesteps `[S+1]` that the solver walks down, see `sampling.timesteps`.

        Raises:
          UserError: there is none.
        """
        if self.timesteps:
            return custom_grid(self.timesteps, schedule.timesteps)
        return timestep_grid(self.spacing, self.steps, schedule)

    def check(self, schedule: Schedule) -> None:
        """Raises UserError for settings that do not go together, or timesteps that do not exist."""
        check_eta(self.sampler, self.eta)
        if not 0.0 <= self.guidance_rescale <= 1.0:
            raise UserError(
                f"guidance rescale is {self.guidance_rescale}; it lies between 0 (none) and 1"
            )
        if self.guidance_rescale and self.guidance == 1.0:
            raise UserError(
                "guidance rescale does nothing without guidance: give a guidance other than 1"
            )
        if self.timesteps:
            custom_grid(self.timesteps, schedule.timesteps)
        else:
            check_steps(self.spacing, self.steps, schedule.timesteps)
        if not schedule.has_zero_snr:
            return
        if not SOLVERS[self.sampler].zero_snr:
            names = ", ".join(name for name, solver in SOLVERS.items() if solver.zero_snr)
            raise UserError(
                f"sampler {self.sampler} cannot start from noise alone, as this model's schedule "
                f"does (zero terminal SNR); these can: {names}"
            )
        if self.spacing in FRACTIONAL and not self.timesteps:
            raise UserError(
                f"spacing {self.spacing} cannot start from noise alone, as this model's schedule "
                "does (zero terminal SNR); uniform and quadratic can"
            )

    def geometry(self, size: int, f: int, unet_factor: int, channels: int) -> Geometry:
        """The sizes that these settings give.

        Args:
          size: side of the training images. f, unet_factor: how much the first stage and the UNet
            reduce it. channels: of a latent.

        Raises:
          UserError: a size that the networks cannot have.
        """
        multiple = f * unet_factor
        for name, divisor in (("height", multiple), ("width", multiple), ("window", multiple)):
            _check_multiple(name, getattr(self, name), divisor)
        _check_multiple("tile", self.tile, f)
        height = size if self.height is None else self.height
        width = size if self.width is None else self.width
        return Geometry(
            height,
            width,
            (height // f, width // f, channels),
            self.window and Tiles.square(self.window // f),
            self.tile and Tiles.square(self.tile // f),
        )


def unguided(settings: SamplingSettings) -> SamplingSettings:
    """The same without guidance."""
    return replace(settings, guidance=1.0, guidance_rescale=0.0)


def _check_multiple(name: str, value: int | None, multiple: int) -> None:
    if value is None or (value >= multiple and value % multiple == 0):
        return
    below = value // multiple * multiple
    nearest = f"{below} or {below + multiple}" if below > 0 else f"{multiple}"
    raise UserError(
        f"--{name} is {value}; for this model it is a multiple of {multiple}, such as {nearest}"
    )
