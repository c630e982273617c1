"""From a run directory or published weights to a `LatentDiffusion`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ldm_jax.errors import UserError
from ldm_jax.experiments.config import Experiment
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.published import read_published
from ldm_jax.model.run_dir import RunDir
from ldm_jax.model.weights import Weights
from ldm_jax.parameters import not_finite
from ldm_jax.paths import user_path


def load(path: str, model: str = "", **options: Any) -> LatentDiffusion:
    """A trained model: a run directory, or published weights.

        ldm_jax.load("runs/scenes")
        ldm_jax.load("celebahq.ckpt", model="celeba256")

    Args:
      path: a run directory; with `model` a CompVis checkpoint (.ckpt, .safetensors) or the folder
        of a diffusers pipeline.
      model: the experiment whose published weights they are.
      options: of `published.read_published`: `ema`, `tokenizer`, `names`.

    Raises:
      UserError: nothing there, no checkpoint yet, or weights that do not fit.
    """
    if model:
        return read_published(path, model, **options).model
    if not user_path(path).exists():
        raise UserError(f"{path} is neither a run directory nor published weights")
    if not (user_path(path) / "config.json").exists():
        raise UserError(
            f"{path} is no run directory: it has no config.json; published weights need "
            'model="NAME", such as model="celeba256"'
        )
    return load_run(RunDir(path))


def load_run(run: RunDir) -> LatentDiffusion:
    """The model of a run: both stages, or the first alone where there is no second yet."""
    name, config, info = run.load()
    weights = diffusion_weights(run, config)
    if weights is None:
        autoencoder = autoencoder_weights(run, config)
        weights = Weights(None, {"autoencoder": autoencoder, "scale_factor": np.float32(1)})
    if damaged := not_finite((weights.params or {}) | weights.constants):
        raise UserError(f"{run.path}: the weights {damaged} hold NaN or infinity; they are damaged")
    return LatentDiffusion(config, info, weights, f"{run.path} ({name})")


def diffusion_weights(run: RunDir, config: Experiment) -> Weights | None:
    """The newest checkpoint of a run's second stage; None without one.

    The parameters are the moving average where the run keeps one; NumPy arrays.
    """
    name = "ema" if config.diffusion.ema_decay else "params"
    saved = run.checkpoints("diffusion").restore_part([name, "constants"])
    return saved and Weights(saved[name], saved["constants"])


def autoencoder_weights(run: RunDir, config: Experiment) -> dict:
    """The parameters of a run's autoencoder, NumPy arrays; a UserError if there are none."""
    if parts := first_stage_weights(run, config):
        return parts["autoencoder"]
    if saved := run.checkpoints("diffusion").restore_part(["constants"]):
        return saved["constants"]["autoencoder"]
    raise UserError(f"{run.path} has no trained autoencoder")


def first_stage_weights(run: RunDir, config: Experiment) -> dict:
    """The parameters of all networks of a run's first stage, its adversary's too; {} without any.

    The moving average where the run keeps one; NumPy arrays.
    """
    name = "ema" if config.autoencoder.ema_decay else "params"
    saved = run.checkpoints("autoencoder").restore_part([name])
    return saved[name] if saved else {}
