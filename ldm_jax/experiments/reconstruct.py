"""Encodes and decodes pictures with the autoencoder of a run: `sample.py RUN --reconstruct`."""

from __future__ import annotations

import jax
import numpy as np
from etils import epath

from ldm_jax import plots
from ldm_jax.data.folder import EXTENSIONS
from ldm_jax.data.images import View
from ldm_jax.errors import UserError
from ldm_jax.evaluation.distortion import psnr
from ldm_jax.experiments.first_stage import trained_autoencoder
from ldm_jax.experiments.models import FirstStage
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
    view = View(experiment.data.size, facts.channels)
    x = np.stack([_read(file, view) for file in _files(pictures, n)])
    weights = jax.device_put(trained_autoencoder(run, experiment))
    program = jax.jit(first.reconstruct)
    x_hat = np.concatenate([program(weights, image[None]) for image in x])
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


def _read(file: epath.Path, view: View) -> np.ndarray:
    try:
        with file.open("rb") as content:
            return view.read(content)
    except Exception as error:  # Pillow raises whatever a damaged file leads to
        raise UserError(f"--reconstruct: {file} cannot be read as an image: {error}") from error
