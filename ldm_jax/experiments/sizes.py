"""Images of another size than the run was trained on, whole or piece by piece (Sec. 4.3.2)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ldm_jax.errors import UserError
from ldm_jax.experiments.config import Experiment
from ldm_jax.sampling.tiling import Tiles


class Size(NamedTuple):
    """How large images are drawn, and in which pieces."""

    height: int
    width: int
    shape: tuple[int, int, int]
    """Of their latents."""
    windows: Tiles | None
    tiles: Tiles | None


@dataclass(frozen=True)
class SizeOptions:
    """Size: a network of convolutions draws images of any size (Sec. 4.3.2)."""

    height: int | None = None
    """Of the images, in pixels. Left out: as the run was trained."""
    width: int | None = None
    """Likewise."""
    window: int | None = None
    """The UNet sees squares of so many pixels, one by one, which overlap by half and are blended:
    for sizes at which the whole has no order, or finds no room in memory."""
    tile: int | None = None
    """The decoder sees squares of so many pixels, one by one, likewise: saves memory. The larger,
    the nearer to the whole."""

    def given(self) -> dict[str, Any]:
        """The options that are not left out, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def of(self, experiment: Experiment, channels: int) -> Size:
        """What they mean for a run with latents of so many channels.

        Raises:
          UserError: a size that its networks cannot have.
        """
        size, f = experiment.data.size, experiment.autoencoder.network.f
        multiple = f * experiment.diffusion.unet.factor
        for name, of in (("height", multiple), ("width", multiple), ("window", multiple)):
            _check(name, getattr(self, name), of)
        _check("tile", self.tile, f)
        height = size if self.height is None else self.height
        width = size if self.width is None else self.width
        return Size(
            height,
            width,
            (height // f, width // f, channels),
            self.window and Tiles.square(self.window // f),
            self.tile and Tiles.square(self.tile // f),
        )


def _check(name: str, value: int | None, multiple: int) -> None:
    if value is None or (value >= multiple and value % multiple == 0):
        return
    below = value // multiple * multiple
    nearest = f"{below} or {below + multiple}" if below > 0 else f"{multiple}"
    raise UserError(
        f"--{name} is {value}; for this run it is a multiple of {multiple}, such as {nearest}"
    )
