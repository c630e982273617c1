"""`--reconstruct`: encodes and decodes images with the first stage of a model."""

from __future__ import annotations

import jax
import numpy as np
from etils import epath

from ldm_jax import plots
from ldm_jax.commands.sample.images import open_image
from ldm_jax.data.folder_index import EXTENSIONS
from ldm_jax.data.images import fit
from ldm_jax.errors import UserError
from ldm_jax.evaluation.distortion import psnr
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.paths import user_path


def reconstruct(model: LatentDiffusion, images: str, out: epath.Path, n: int) -> str:
    """Writes a grid of images, each above D(E(x)); returns a line with their mean PSNR.

    Args:
      images: an image, or a folder whose first `n` images are taken; each is cropped to a square
        and resized to the size of the training images.

    Raises:
      UserError: no autoencoder in the model, or no image there that can be read.
    """
    if model.first.bottleneck == "none":
        raise UserError(f"{model.name} has no autoencoder: its diffusion model works on pixels")
    opened = [open_image("--reconstruct", f, model) for f in _files(images, n)]
    x = np.stack([fit(one, model.config.data.size) for one in opened])
    x_hat = model.reconstruct(x)
    if jax.process_index() == 0:
        plots.save_png(out, plots.reconstructions(x, x_hat, columns=min(8, len(x))))
    decibels = psnr(x, x_hat).mean()
    return f"{len(x)} images and their reconstructions in {out}, PSNR {decibels:.1f} dB"


def _files(images: str, n: int) -> list[epath.Path]:
    path = user_path(images)
    if not path.is_dir():
        return [path]
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in EXTENSIONS)
    if not files:
        raise UserError(f"--reconstruct {images}: there is no image in this folder")
    return files[:n]
