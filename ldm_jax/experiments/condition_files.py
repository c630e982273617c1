"""Conditions in files: layouts, semantic maps, images to enlarge, images with a hole."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
from etils import epath
from PIL import Image

from ldm_jax.data.images import to_array
from ldm_jax.data.loader import Batch
from ldm_jax.data.maps import decode_map
from ldm_jax.data.masks import masked_image
from ldm_jax.errors import UserError
from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.edit import EditOptions
from ldm_jax.experiments.images import check_mask, fitted, middle, open_image, white
from ldm_jax.experiments.models import SecondStage
from ldm_jax.experiments.sizes import SizeOptions

File = Annotated[str, tyro.conf.arg(metavar="FILE")]
# What each kind of run takes; --image and --mask are an edit for all others.
OPTIONS = {
    "layout": "--layout FILE.json",
    "semantic": "--semantic-map FILE.png",
    "super-resolution": "--low-res FILE.png",
    "inpainting": "--image FILE.png --mask FILE.png",
}


@dataclass(frozen=True)
class ConditionFiles:
    """Conditions in files, for runs that were trained on such; --image and --mask for in-painting.

    Images are drawn as large as the file says, but for a border that the networks cannot have;
    or it is cut to the proportions of --height and --width and resized.
    """

    layout: File = ""
    """Boxes, as shares of the image: {"objects": [{"label": "red ball", "box": [left, top, right,
    bottom]}, ...]}, or a list of such."""
    semantic_map: File = ""
    """A .png whose pixels are class numbers."""
    low_res: File = ""
    """An image to enlarge, f times."""

    def given(self) -> dict[str, Any]:
        """The options that are not left out, by name."""
        return {name: value for name, value in asdict(self).items() if value}


class Opened(NamedTuple):
    """A condition that was read, a row for each."""

    seen: Batch
    labels: list[str]
    size: SizeOptions
    """With the height and width that the condition decides."""


def open_condition(
    files: ConditionFiles,
    edit: EditOptions,
    size: SizeOptions,
    second: SecondStage,
    experiment: Experiment,
) -> Opened | None:
    """The condition of a run that takes files; None for any other run.

    Raises:
      UserError: a file that is missing, cannot be read, or is not what this run takes.
    """
    kind, given = second.kind, [name.replace("_", "-") for name in files.given()]
    option = OPTIONS.get(kind, "").split(" ")[0].removeprefix("--")
    if wrong := [name for name in given if name != option]:
        takes = OPTIONS.get(kind) or {"text": "captions", "class": "classes"}.get(kind, "nothing")
        raise UserError(f"--{wrong[0]} is not what this run was trained on; it takes {takes}")
    if kind not in OPTIONS:
        return None
    if (not given and kind != "inpainting") or (
        kind == "inpainting" and not (edit.image and edit.mask)
    ):
        raise UserError(f"this run was trained for {kind}: give {OPTIONS[kind]}")
    if kind == "layout":
        tokens = second.condition.encoder
        content = _text("--layout", files.layout)
        asked = tokens.encode(*tokens.parse(content))
        return Opened({"condition": asked}, tokens.describe(asked), size)
    f, k = experiment.autoencoder.network.f, experiment.diffusion.unet.factor
    channels = second.first.channels
    if kind == "super-resolution":
        opened = open_image("--low-res", files.low_res, channels)
        small = replace(size, height=_part(size.height, f), width=_part(size.width, f))
        low = _sized("--low-res", opened, small, k)
        seen, (h, w) = {"low_res": low[None]}, (f * low.shape[0], f * low.shape[1])
    elif kind == "semantic":
        semantic = _map("--semantic-map", files.semantic_map, size, f * k)
        if (highest := int(semantic.max())) >= second.condition.classes:
            raise UserError(
                f"--semantic-map {files.semantic_map} has class {highest}; this run knows 0 to "
                f"{second.condition.classes - 1}"
            )
        seen, (h, w) = {"semantic": semantic[None]}, semantic.shape
    else:
        if edit.outpaint or edit.strength is not None:
            raise UserError("a run for in-painting takes no --outpaint and no --strength")
        opened = open_image("--image", edit.image, channels)
        image = _sized("--image", opened, size, f * k)
        h, w = image.shape[:2]
        mask = open_image("--mask", edit.mask, 1)
        check_mask("--mask", edit.mask, mask, opened.size)
        hole = white("--mask", edit.mask, _sized("--mask", mask, size, f * k))
        seen = {"masked": masked_image(image, hole)[None], "mask": hole[None]}
    return Opened(seen, [""], replace(size, height=h, width=w))


def _part(side: int | None, f: int) -> int | None:
    return side if side is None else max(1, side // f)


def _sized(option: str, image: Image.Image, size: SizeOptions, multiple: int) -> np.ndarray:
    """As large as `size` says, or else its middle, with sides that are multiples: `[H, W, C]`."""
    if size.height is size.width is None:
        return to_array(image.crop(middle(option, image.size, multiple)))
    return fitted(image, size.height or size.width, size.width or size.height)


def _map(option: str, file: str, size: SizeOptions, multiple: int) -> np.ndarray:
    try:
        with epath.Path(file).expanduser().open("rb") as content:
            semantic = decode_map(content)
    except Exception as error:  # Pillow raises whatever a damaged file leads to
        raise UserError(f"{option} {file} cannot be read as a map: {error}") from error
    image = Image.fromarray(semantic.astype(np.int32))
    if size.height is size.width is None:
        return np.asarray(image.crop(middle(option, image.size, multiple)))
    h, w = size.height or size.width, size.width or size.height
    return np.asarray(image.resize((w, h), Image.Resampling.NEAREST))


def _text(option: str, file: str) -> str:
    try:
        return epath.Path(file).expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option} {file} cannot be read: {error}") from error
