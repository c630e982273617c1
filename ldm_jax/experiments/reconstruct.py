"""Encodes and decodes pictures with the autoencoder of a run: `sample.py RUN --reconstruct`."""

from __future__ import annotations

import jax
import numpy as np
from etils import epath

from ldm_jax import plots
from ldm_jax.data.contents import EXTENSIONS
from ldm_jax.data.images import fit
from ldm_jax.errors import UserError
from ldm_jax.evaluation.distortion import psnr
from ldm_jax.experiments.first_stage import trained_autoencoder
from ldm_jax.experiments.models import FirstStage
from ldm_jax.experiments.pictures import open_picture
from ldm_jax.experiments.run_dir import RunDir


def reconstruct_from_run(run: RunDir, pictures: str, out: epath.Path, n: int) -> str:
    """Writes a grid of pictures, each above D(E(x)); returns a line with their mean PSNR.

    Args:
      pictures: an image, or a folder whose first `n` images are taken; each is cut to a square and
        brought to the size of the run's pictures.

    Raises:
      UserError: no autoencoder in the run, or no picture there that can be read.
    """
    _, experiment, facts = run.load()
    first = FirstStage(experiment, facts)
    if first.bottleneck == "none":
        raise UserError(f"{run.path} has no autoencoder: its diffusion model works on pixels")
    opened = [open_picture("--reconstruct", f, facts.channels) for f in _files(pictures, n)]
    x = np.stack([fit(picture, experiment.data.size) for picture in opened])
    weights = jax.device_put(trained_autoencoder(run, experiment))
    program = jax.jit(first.reconstruct)
    x_hat = np.concatenate([program(weights, image[None]) for image in x])
    if jax.process_index() == 0:
        plots.save_png(out, plots.reconstructions(x, x_hat, columns=min(8, len(x))))
    decibels = psnr(x, x_hat).mean()
    return f"{len(x)} pictures and their reconstructions in {out}, PSNR {decibels:.1f} dB"


def _files(pictures: str, n: int) -> list[epath.Path]:
    path = epath.Path(pictures).expanduser()
    if not path.is_dir():
        return [path]
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in EXTENSIONS)
    if not files:
        raise UserError(f"--reconstruct {pictures}: there is no image in this folder")
    return files[:n]
