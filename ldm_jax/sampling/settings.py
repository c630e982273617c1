"""How images are sampled: one set of settings for the command line, the experiments and Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ldm_jax.bounds import BatchSize, Finite, NonNegative, PositiveInt, Seed, Side, UnitFloat
from ldm_jax.errors import UserError
from ldm_jax.sampling.solvers import SolverName
from ldm_jax.sampling.tiling import Tiles
from ldm_jax.sampling.timesteps import Spacing


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


@dataclass(frozen=True)
class SamplingSettings:
    """How images are sampled from a trained model."""

    sampler: SolverName = "ddim"
    """Solver; heun and dpmpp-2s evaluate the network twice a step."""
    steps: PositiveInt = 50
    """Solver steps S, 1 to T."""
    spacing: Spacing = "uniform"
    """Which S of the T timesteps are visited; the compvis ones are the published code's."""
    guidance: Finite = 3.0
    """Guidance scale s; 1 is none."""
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


def _check_multiple(name: str, value: int | None, multiple: int) -> None:
    if value is None or (value >= multiple and value % multiple == 0):
        return
    below = value // multiple * multiple
    nearest = f"{below} or {below + multiple}" if below > 0 else f"{multiple}"
    raise UserError(
        f"--{name} is {value}; for this model it is a multiple of {multiple}, such as {nearest}"
    )
