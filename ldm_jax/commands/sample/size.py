"""Whether the images that a command asks for can be held, before any of them is sampled."""

from __future__ import annotations

import jax

from ldm_jax.bounds import LARGEST_SIDE
from ldm_jax.commands.sample.command import SampleCommand
from ldm_jax.commands.sample.outputs import OutputKind
from ldm_jax.commands.sample.plan import Request
from ldm_jax.errors import UserError
from ldm_jax.training.memory import check_memory

MOST_PIXELS = 2**28  # of all images in one file: what viewers of images still open


def check_size(
    command: SampleCommand, kind: OutputKind, request: Request, memory: float | None = None
) -> None:
    """Raises UserError for a file of too many images, MemoryError for images that are too large.

    The memory is a lower bound, that of one array of the decoder: what the whole program takes is
    known when it is compiled, see `LatentDiffusion.batches`.

    Args:
      memory: bytes of this machine; None: as `host_bytes` finds them.
    """
    model, settings = request.model, request.settings
    geometry = model.geometry(settings)
    h, w = geometry.height, geometry.width
    n = len(request.labels) * request.images_per_prompt * (command.edit.interpolate or 1)
    frames = settings.steps if kind == "animation" or command.trajectory else 1
    if kind in ("grid", "animation") and n * frames * h * w > MOST_PIXELS:
        each = f" of {frames} steps" if frames > 1 else ""
        raise UserError(
            f"{n} images{each} of {w}x{h} pixels are too many for one file, which has at most "
            f"{MOST_PIXELS:,} pixels; --out FOLDER writes single images, one by one"
        )
    rows, tile = min(n, settings.batch_size, geometry.at_once), settings.tile or LARGEST_SIDE
    largest = rows * model.first.network.largest_array(min(h, tile), min(w, tile))
    what = f"sampling {rows} image{'s' * (rows > 1)} of {w}x{h} pixels at a time"
    check_memory(what, 4 * largest, jax.devices()[:1], memory)
