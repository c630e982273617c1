"""The second stage of a run (Sec. 3.2, 3.3): what is trained, on the frozen first stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import numpy as np

from ldm_jax.commands.train.clauses import in_training
from ldm_jax.commands.train.held_out import HeldOut
from ldm_jax.commands.train.latents import LatentView, latent_loader
from ldm_jax.commands.train.stage import StageTask
from ldm_jax.data.source import Source
from ldm_jax.data.spread import spread
from ldm_jax.model.data import OpenData
from ldm_jax.model.initial import InitialWeights
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.run_dir import RunDir
from ldm_jax.model.weights import Weights
from ldm_jax.training.sharding import fetch, map_batches, replicate_fsdp
from ldm_jax.training.step import TrainState, quickly

PREVIEWS = 16  # images in a preview
FOLLOWED = 64  # held-out images whose loss is followed while training, at most
DRAWS = 4  # of t and of the noise for each of them


def diffusion_task(
    model: LatentDiffusion,
    autoencoder: dict,
    data: OpenData,
    run: RunDir,
    mesh: jax.sharding.Mesh,
    initial: InitialWeights,
) -> StageTask:
    """Stage 2 of a run, on the autoencoder of these parameters."""
    config, seed = model.config.diffusion, model.config.seed
    autoencoder = fetch(autoencoder)
    full = LatentView(model.first, autoencoder, model.condition, data.flip)
    view = replace(full, condition=in_training(model.condition, config.drop_clauses))
    loader, measure = latent_loader(view, data, mesh, config.batch_size, seed, model.config.loader)
    known = config.scale_factor or initial.scale_factor
    scale_factor = settled_scale_factor(known, run, measure)
    held_out = HeldOut.read(data.validation, model.condition, PREVIEWS)

    def preview(state: TrainState) -> np.ndarray:
        return held_out.figure(held_out.sample(trained_model(model, state, mesh), model.settings))

    constants = {"autoencoder": autoencoder, "scale_factor": scale_factor}
    return StageTask(
        "diffusion",
        config,
        model.objective,
        loader,
        constants,
        preview,
        held_out_loss(model, full, data.validation, mesh),
        initial=initial.diffusion,
    )


def held_out_loss(
    model: LatentDiffusion, view: LatentView, held_out: Source, mesh: jax.sharding.Mesh
) -> Callable[[TrainState], dict[str, float]]:
    """The training loss on held-out examples, with the same t and noise each time."""
    rows = np.repeat(spread(held_out, FOLLOWED), DRAWS)
    rngs = [np.random.default_rng([model.config.seed, 4, i]) for i in range(len(rows))]
    batch = view.transform(cached=False)(held_out.read(rows), rngs)
    names, seed = list(batch), model.config.seed

    @partial(jax.jit, compiler_options=quickly(mesh))
    def loss(params, constants, number, *arrays):
        key = jax.random.fold_in(jax.random.key(seed), number[0])
        return model.objective.loss(params, constants, dict(zip(names, arrays, strict=True)), key)[
            0
        ]

    def measure(state: TrainState) -> dict[str, float]:
        weights = replicate_fsdp((state.params, state.constants), mesh)
        arrays = np.arange(len(rows), dtype=np.int32), *batch.values()
        return {"held_out_loss": float(np.mean(map_batches(loss, weights, arrays, mesh)))}

    return measure


def settled_scale_factor(
    configured: float, run: RunDir, measure: Callable[[], np.float32]
) -> np.float32:
    """The factor on the latents of a run: the configured one, else the one that its diffusion model
    has been trained with, else the one measured now (App. G), which may encode 2,048 images."""
    if configured:
        return np.float32(configured)
    if saved := run.checkpoints("diffusion").restore_part(["constants"]):
        return np.float32(saved["constants"]["scale_factor"])
    return measure()


def trained_model(
    model: LatentDiffusion, state: TrainState, mesh: jax.sharding.Mesh
) -> LatentDiffusion:
    """The model with the weights of a training state, on the devices where they are."""
    return model.with_weights(
        Weights(*replicate_fsdp((state.weights, state.constants), mesh)), mesh
    )
