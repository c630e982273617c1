"""The second stage of a run (Sec. 3.2, 3.3): what is trained, on the frozen first stage."""

from __future__ import annotations

import jax
import numpy as np

from ldm_jax import plots
from ldm_jax.commands.train.held_out import HeldOut
from ldm_jax.commands.train.latents import LatentView, latent_loader
from ldm_jax.commands.train.stage import StageTask
from ldm_jax.model.data import OpenData
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.run_dir import RunDir
from ldm_jax.model.weights import Weights
from ldm_jax.training.sharding import fetch, replicate_fsdp
from ldm_jax.training.step import TrainState

PREVIEWS = 16  # images in a preview


def diffusion_task(
    model: LatentDiffusion,
    autoencoder: dict,
    data: OpenData,
    run: RunDir,
    mesh: jax.sharding.Mesh,
) -> StageTask:
    """Stage 2 of a run, on the autoencoder of these parameters."""
    config, seed = model.config.diffusion, model.config.seed
    autoencoder = fetch(autoencoder)
    view = LatentView(model.first, autoencoder, model.condition, data.flip)
    loader, measured = latent_loader(view, data, mesh, config.batch_size, seed, model.config.loader)
    scale_factor = np.float32(config.scale_factor or measured)
    held_out = HeldOut.read(data.validation, model.condition, PREVIEWS)

    def preview(state: TrainState, step: int) -> None:
        images = held_out.sample(trained_model(model, state, mesh), model.settings)
        if jax.process_index() == 0:
            file = run.to_write(f"samples/diffusion_{step:07d}.png")
            plots.save_png(file, held_out.figure(images))

    constants = {"autoencoder": autoencoder, "scale_factor": scale_factor}
    return StageTask("diffusion", config, model.objective, loader, constants, preview)


def trained_model(
    model: LatentDiffusion, state: TrainState, mesh: jax.sharding.Mesh
) -> LatentDiffusion:
    """The model with the weights of a training state, on the devices where they are."""
    return model.with_weights(
        Weights(*replicate_fsdp((state.weights, state.constants), mesh)), mesh
    )
