"""Trains the autoencoder of an experiment (Sec. 3.1)."""

from __future__ import annotations

import jax
import numpy as np

from ldm_jax import plots
from ldm_jax.data.loader import Batch, Loader, flip
from ldm_jax.evaluation.distortion import psnr
from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.data import OpenData
from ldm_jax.experiments.models import FirstStage
from ldm_jax.experiments.run_dir import RunDir
from ldm_jax.experiments.stages import Trained, train_stage
from ldm_jax.training.sharding import batch_sharding
from ldm_jax.training.state import TrainState

NAME = "autoencoder"
PREVIEWS = 16  # held-out pictures in a preview
SCORED = 512  # held-out pictures whose PSNR is reported, at most
BATCH = 16  # pictures reconstructed at a time on each device


def train_autoencoder(
    experiment: Experiment, data: OpenData, run: RunDir, mesh: jax.sharding.Mesh, key: jax.Array
) -> Trained:
    """Stage 1 inside a run directory; the summary holds the PSNR on held-out pictures."""
    config = experiment.autoencoder
    first = FirstStage(experiment, data.facts.channels)
    reconstruct = jax.jit(first.reconstruct)
    held_out = data.validation.read(np.arange(min(SCORED, len(data.validation))))["image"]

    def transform(batch: Batch, rngs: list[np.random.Generator]) -> Batch:
        batch = {"image": batch["image"]}
        return flip(batch, rngs) if experiment.data.flip else batch

    def preview(state: TrainState, step: int) -> None:
        weights = state.params if state.ema is None else state.ema
        x = held_out[:PREVIEWS]
        x_hat = in_batches(reconstruct, weights["autoencoder"], x, mesh)
        if jax.process_index() == 0:
            file = run.sample_file(f"autoencoder_{step:07d}")
            plots.save_png(file, plots.reconstructions(x, x_hat))

    trained = train_stage(
        NAME,
        config,
        first.problem,
        Loader(
            data.train,
            config.batch_size,
            experiment.seed,
            transform=transform,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ),
        run,
        mesh,
        key,
        constants=dict,
        preview=preview,
    )
    x_hat = in_batches(reconstruct, trained.weights["autoencoder"], held_out, mesh)
    scores = psnr(held_out, x_hat)
    trained.summary["psnr"] = round(float(np.mean(scores)), 2)
    trained.summary["psnr_std"] = round(float(np.std(scores)), 2)
    trained.summary["held_out_pictures"] = len(held_out)
    return trained


def in_batches(function, params, image: np.ndarray, mesh: jax.sharding.Mesh) -> np.ndarray:
    """function(params, bytes `[B, ...]`) over any number of pictures, one program for all."""
    n, size = len(image), BATCH * mesh.shape["data"] * mesh.shape["fsdp"]
    rows = np.minimum(np.arange(-(-n // size) * size), n - 1).reshape(-1, size)
    batches = (jax.device_put(image[r], batch_sharding(mesh)) for r in rows)
    return np.concatenate([np.asarray(function(params, batch)) for batch in batches])[:n]
