"""Trains the diffusion model of an experiment on the frozen first stage (Sec. 3.2, 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import plots
from ldm_jax.data.loader import Batch
from ldm_jax.experiments.conditions import Condition
from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.data import OpenData
from ldm_jax.experiments.latents import latent_loader
from ldm_jax.experiments.models import SecondStage
from ldm_jax.experiments.run_dir import RunDir
from ldm_jax.experiments.stages import Trained, train_stage
from ldm_jax.training.sharding import batch_sharding, fetch, gathered
from ldm_jax.training.state import TrainState

NAME = "diffusion"
PREVIEWS = 16  # images in a preview, and drawn at a time at the end: one program for both


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
    autoencoder = fetch(autoencoder)
    loader, scale = latent_loader(
        experiment, second.first, autoencoder, data, second.condition, mesh
    )
    held_out = HeldOut.of(data, second, PREVIEWS)

    def preview(state: TrainState, step: int) -> None:
        images = draw(experiment, second, mesh, state, held_out)
        if jax.process_index() == 0:
            plots.save_png(run.sample_file(f"diffusion_{step:07d}"), held_out.figure(images))

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


@dataclass(frozen=True)
class HeldOut:
    """Held-out examples, whose conditions a model is asked to draw."""

    condition: Condition | None
    truth: Batch
    """As the source reads them; again from the first on where there are not as many."""
    seen: Batch | None
    """Their conditions, as the model sees them; None without any."""

    @classmethod
    def of(cls, data: OpenData, second: SecondStage, n: int) -> HeldOut:
        """The first `n` of a data set. What is random in a condition depends on its number."""
        truth = data.validation.read(np.arange(n) % len(data.validation))
        if second.condition is None:
            return cls(None, truth, None)
        rngs = [np.random.default_rng(i) for i in range(n)]
        return cls(
            second.condition, truth, second.condition.view(second.condition.keep(truth), rngs)
        )

    def figure(self, images: np.ndarray) -> np.ndarray:
        """Samples above their conditions' names, or between their conditions and the truth."""
        if self.condition is None:
            return plots.grid(images, 8, least_side=144)
        n = len(images)
        shown = self.condition.show({key: rows[:n] for key, rows in self.seen.items()})
        names = self.condition.names(self.truth)[:n]
        if shown is None:
            return plots.labelled_grid(images, names)
        return plots.stacked([shown, images, self.truth["image"][:n]])


def guidance_of(experiment: Experiment, second: SecondStage) -> float:
    """The experiment's own guidance scale; 1 where there is nothing to guide by."""
    return experiment.sampling.guidance if second.guidable else 1.0


def draw(
    experiment: Experiment,
    second: SecondStage,
    mesh: jax.sharding.Mesh,
    state: TrainState,
    held_out: HeldOut,
    progress: str | None = None,
) -> np.ndarray:
    """An image for each of these conditions by the experiment's own settings: bytes `[n, ...]`."""
    settings = experiment.sampling
    average = state.params if state.ema is None else state.ema
    weights, constants = gathered((average, state.constants), mesh)
    images = second.generator(
        weights,
        constants,
        second.ys(constants, held_out.seen),
        num_images=len(held_out.truth["image"]),
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
    return images if held_out.seen is None else second.condition.finish(held_out.seen, images)
