"""Conditions in files: layouts, maps, images to enlarge, images with a hole, embeddings."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ldm_jax.commands.sample.command import ConditionOptions, EditOptions, given, option
from ldm_jax.commands.sample.images import open_image, open_map, open_mask, sized
from ldm_jax.commands.sample.prompts import Prompts
from ldm_jax.data.embeddings import read_embedding
from ldm_jax.errors import UserError
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.paths import user_path
from ldm_jax.sampling.settings import SamplingSettings
from ldm_jax.text_files import read_text

# The files that each kind of model takes; for all others --image and --mask are an edit.
FILES = {
    "layout": "--layout FILE.json",
    "semantic": "--semantic-map FILE.png",
    "super-resolution": "--low-res FILE.png",
    "inpainting": "--image FILE.png --mask FILE.png",
    "image-embedding": "--embedding FILE.npy",
}


def open_condition(
    options: ConditionOptions,
    edit: EditOptions,
    settings: SamplingSettings,
    model: LatentDiffusion,
) -> Prompts | None:
    """The condition of a model that takes files; None for any other model.

    Raises:
      UserError: a file that is missing, cannot be read, or is not what this model takes.
    """
    kind = model.info.condition
    files = [
        option(name)
        for name in given(options)
        if name in ("layout", "semantic_map", "low_res", "embedding")
    ]
    if wrong := [name for name in files if name != FILES.get(kind, "").split(" ")[0]]:
        takes = FILES.get(kind) or {"text": "captions", "class": "classes"}.get(kind, "nothing")
        raise UserError(f"{wrong[0]} is not what this model was trained on; it takes {takes}")
    if kind not in FILES:
        return None
    words = [option(n) for n in given(options) if n in ("prompt", "class_label", "from_file")]
    if words and (files or kind == "inpainting"):
        raise UserError(f"{words[0]} is not what this model was trained on; it takes {FILES[kind]}")
    if (not files and kind != "inpainting") or (
        kind == "inpainting" and not (edit.image and edit.mask)
    ):
        raise UserError(f"this model was trained for {kind}: give {FILES[kind]}")
    if kind == "layout":
        conditions = model.parse(read_text(options.layout, "--layout"))
        labels = model.condition.encoder.describe(conditions["condition"])
        return Prompts(conditions, labels, [])
    if kind == "image-embedding":
        path = user_path(options.embedding)
        return Prompts(model.parse(read_embedding(path)), [path.name], [])
    f, unet_factor = model.first.f, model.config.diffusion.unet.factor
    size = settings.height or settings.width, settings.width or settings.height
    if kind == "super-resolution":
        opened = open_image("--low-res", options.low_res, model)
        small = tuple(side and max(1, side // f) for side in size)
        value = sized("--low-res", opened, small, unet_factor)
    elif kind == "semantic":
        value = open_map("--semantic-map", options.semantic_map, size, f * unet_factor)
    else:
        if edit.outpaint or edit.strength is not None:
            raise UserError("a model for in-painting takes no --outpaint and no --strength")
        opened = open_image("--image", edit.image, model)

        def cut(image: Image.Image) -> np.ndarray:
            return sized("--image", image, size, f * unet_factor)

        value = {"image": cut(opened), "mask": open_mask(edit, opened, cut)}
    return Prompts(model.parse(value), [""], [])
