"""Trains the diffusion model of an experiment on the frozen first stage (Sec. 3.2, 3.3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import plots
from ldm_jax.conditioning.class_label import ClassLabels
from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.data import OpenData, encode_condition
from ldm_jax.experiments.latents import latent_loader
from ldm_jax.experiments.models import SecondStage
from ldm_jax.experiments.run_dir import RunDir
from ldm_jax.experiments.stages import Trained, train_stage
from ldm_jax.training.sharding import batch_sharding
from ldm_jax.training.state import TrainState

NAME = "diffusion"
PREVIEWS = 16  # pictures in a preview, and drawn at a time at the end: one program for both


def train_diffusion(
    experiment: Experiment,
    data: OpenData,
    autoencoder: dict,
    run: RunDir,
    mesh: jax.sharding.Mesh,
    key: jax.Array,
) -> tuple[Trained, SecondStage]:
    """Stage 2 inside a run directory, on the autoencoder of these parameters."""
    config = experiment.diffusion
    second = SecondStage(experiment, data.facts)
    autoencoder = jax.tree.map(np.asarray, autoencoder)
    loader, scale = latent_loader(experiment, second.first, autoencoder, data, second.encoder)
    asked, labels = held_out_conditions(data, second, PREVIEWS)

    def preview(state: TrainState, step: int) -> None:
        images = draw(experiment, second, mesh, state, asked, len(labels))
        if jax.process_index() == 0:
            file = run.sample_file(f"diffusion_{step:07d}")
            plots.save_png(file, plots.labelled_grid(images, labels))

    trained = train_stage(
        NAME,
        config,
        second.problem,
        loader,
        run,
        mesh,
        key,
        constants=lambda: {"autoencoder": autoencoder, "scale_factor": jnp.float32(scale)},
        preview=preview,
    )
    trained.summary["scale_factor"] = float(trained.state.constants["scale_factor"])
    return trained, second


def held_out_conditions(
    data: OpenData, second: SecondStage, n: int
) -> tuple[np.ndarray | None, list[str]]:
    """`n` conditions of held-out examples, and how to print them; (None, blanks) without one."""
    if second.encoder is None:
        return None, [""] * n
    rows = np.arange(n) % len(data.validation)
    batch = data.validation.read(rows)
    asked = encode_condition(second.encoder, batch)
    if isinstance(second.encoder, ClassLabels):
        return asked, second.encoder.decode(asked)
    return asked, list(batch["caption"])


def guidance_of(experiment: Experiment, second: SecondStage) -> float:
    """The experiment's own guidance scale; 1 where there is nothing to guide by."""
    return experiment.sampling.guidance if second.guidable else 1.0


def draw(
    experiment: Experiment,
    second: SecondStage,
    mesh: jax.sharding.Mesh,
    state: TrainState,
    asked: np.ndarray | None,
    n: int,
    progress: str | None = None,
) -> np.ndarray:
    """Pictures for these conditions by the experiment's own sampling settings: bytes `[n, ...]`."""
    settings = experiment.sampling
    return second.generator(
        state.params if state.ema is None else state.ema,
        state.constants,
        asked,
        num_images=n,
        sampler=settings.sampler,
        steps=settings.steps,
        spacing=settings.spacing,
        guidance=guidance_of(experiment, second),
        eta=settings.eta,
        seed=experiment.seed,
        batch_size=PREVIEWS,
        sharding=batch_sharding(mesh),
        progress=progress,
    )
