"""Encodes and decodes images with the autoencoder of a run: `sample.py RUN --reconstruct`."""

from __future__ import annotations

import jax
import numpy as np
from etils import epath

from ldm_jax import plots
from ldm_jax.data.folder_index import EXTENSIONS
from ldm_jax.data.images import fit
from ldm_jax.errors import UserError
from ldm_jax.evaluation.distortion import psnr
from ldm_jax.experiments.first_stage import trained_autoencoder
from ldm_jax.experiments.images import open_image
from ldm_jax.experiments.models import FirstStage
from ldm_jax.experiments.run_dir import RunDir


def reconstruct_from_run(run: RunDir, images: str, out: epath.Path, n: int) -> str:
    """Writes a grid of images, each above D(E(x)); returns a line with their mean PSNR.

    Args:
      images: an image, or a folder whose first `n` images are taken; each is cut to a square and
        brought to the size of the run's images.

    Raises:
      UserError: no autoencoder in the run, or no image there that can be read.
    """
    _, experiment, facts = run.load()
    first = FirstStage(experiment, facts)
    if first.bottleneck == "none":
        raise UserError(f"{run.path} has no autoencoder: its diffusion model works on pixels")
    opened = [open_image("--reconstruct", f, facts.channels) for f in _files(images, n)]
    x = np.stack([fit(one, experiment.data.size) for one in opened])
    weights = jax.device_put(trained_autoencoder(run, experiment))
    program = jax.jit(first.reconstruct)
    x_hat = np.concatenate([program(weights, image[None]) for image in x])
    if jax.process_index() == 0:
        plots.save_png(out, plots.reconstructions(x, x_hat, columns=min(8, len(x))))
    decibels = psnr(x, x_hat).mean()
    return f"{len(x)} images and their reconstructions in {out}, PSNR {decibels:.1f} dB"


def _files(images: str, n: int) -> list[epath.Path]:
    path = epath.Path(images).expanduser()
    if not path.is_dir():
        return [path]
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in EXTENSIONS)
    if not files:
        raise UserError(f"--reconstruct {images}: there is no image in this folder")
    return files[:n]
