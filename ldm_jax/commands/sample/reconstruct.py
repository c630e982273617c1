"""`--reconstruct`: encodes and decodes images with the first stage of a model."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
from etils import epath

from ldm_jax import plots
from ldm_jax.commands.sample.images import open_image
from ldm_jax.commands.sample.trained_on import parts
from ldm_jax.data.folder_index import EXTENSIONS
from ldm_jax.data.images import ImageConfig, Preprocessor, fit
from ldm_jax.errors import UserError
from ldm_jax.evaluation.distortion import psnr
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.paths import user_path


def reconstruct(model: LatentDiffusion, images: str, out: epath.Path, n: int) -> str:
    """Writes a grid of images, each above D(E(x)); returns a line with their mean PSNR.

    Where the first stage was trained on images of a folder or of a TFDS set, further lines say
    which of these images it was trained on, and their PSNR.

    Args:
      images: an image, or a folder whose first `n` images are taken; each is made a square of the
        size of the training images in the same way as these.

    Raises:
      UserError: no autoencoder in the model, or no image there that can be read.
    """
    if model.first.bottleneck == "none":
        raise UserError(f"{model.name} has no autoencoder: its diffusion model works on pixels")
    files = _files(images, n)
    x = np.stack([_square(model, file) for file in files])
    x_hat = model.reconstruct(x)
    if jax.process_index() == 0:
        plots.save_png(out, plots.reconstructions(x, x_hat, columns=min(8, len(x))))
    decibels = psnr(x, x_hat)
    said = [f"{len(x)} images and their reconstructions in {out}, PSNR {decibels.mean():.1f} dB"]
    found = np.array(parts(model, x))
    for part in ("trained on", "held out", "neither"):
        if len(rows := np.flatnonzero(found == part)):
            names = ", ".join(files[i].name for i in rows)
            said.append(f"{part}: {len(rows)}, PSNR {decibels[rows].mean():.1f} dB: {names}")
    return "\n".join(said)


def _square(model: LatentDiffusion, file: epath.Path) -> np.ndarray:
    """The image in a file as the model's data would have it: uint8 `[H, H, C]`."""
    data = model.config.data
    image = open_image("--reconstruct", file, model)
    if not isinstance(data, ImageConfig):
        return fit(image, data.size)
    view = Preprocessor.of(replace(data, crop="centre"), model.info.channels)
    with file.open("rb") as content:  # as for training: large JPEGs are decoded smaller
        return view.read(content).image


def _files(images: str, n: int) -> list[epath.Path]:
    path = user_path(images)
    if not path.is_dir():
        return [path]
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in EXTENSIONS)
    if not files:
        raise UserError(f"--reconstruct {images}: there is no image in this folder")
    return files[:n]
