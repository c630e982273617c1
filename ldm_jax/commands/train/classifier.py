"""The classifier of noisy latents, for classifier guidance (App. C)."""

from __future__ import annotations

import jax
import numpy as np

from ldm_jax.commands.train.diffusion import settled_scale_factor
from ldm_jax.commands.train.latents import LatentView, latent_loader
from ldm_jax.commands.train.stage import StageTask
from ldm_jax.data.source import Source
from ldm_jax.data.spread import spread
from ldm_jax.diffusion.classifier_step import accuracies
from ldm_jax.model.classifier import Classifier
from ldm_jax.model.conditions import ClassCondition
from ldm_jax.model.data import OpenData
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.run_dir import RunDir
from ldm_jax.training.sharding import fetch, map_batches, replicate_fsdp
from ldm_jax.training.step import TrainState

MEASURED = 1024  # held-out images that are classified, at most
LEVELS = 8  # noise levels of each


def classifier_task(
    model: LatentDiffusion,
    classifier: Classifier,
    autoencoder: dict,
    data: OpenData,
    run: RunDir,
    mesh: jax.sharding.Mesh,
) -> StageTask:
    """The classifier of a run, on the latents of this autoencoder.

    Their scale factor is that of the run's diffusion model, if there is one already.
    """
    config, seed = model.config.classifier, model.config.seed
    autoencoder = fetch(autoencoder)
    view = LatentView(model.first, autoencoder, ClassCondition(classifier.labels), data.flip)
    loader, measure = latent_loader(view, data, mesh, config.batch_size, seed, model.config.loader)
    scale_factor = settled_scale_factor(model.config.diffusion.scale_factor, run, measure)
    constants = {"autoencoder": autoencoder, "scale_factor": scale_factor}
    return StageTask("classifier", config, classifier.objective, loader, constants)


def measure_classifier(
    classifier: Classifier, state: TrainState, held_out: Source, mesh: jax.sharding.Mesh, seed: int
) -> dict[str, float]:
    """The share of held-out images classified right, of all and by noise level.

    Each is classified at `LEVELS` timesteps, one drawn from each of as many equal parts of T.
    """
    objective, key = classifier.objective, jax.random.key(seed)
    batch = held_out.read(spread(held_out, MEASURED))
    n, T = len(batch["image"]), objective.schedule.timesteps
    rng = np.random.default_rng([seed, 3])
    rows, level = np.divmod(np.arange(n * LEVELS), LEVELS)
    t = (T * (level + rng.random(n * LEVELS)) / LEVELS).astype(np.int32)

    @jax.jit
    def is_right(params, constants, image, label, t, number):
        batch = {"image": image, "condition": label}
        return objective.judge(params, constants, batch, jax.random.fold_in(key, number[0]), t)[1]

    right = map_batches(
        is_right,
        replicate_fsdp((state.weights, state.constants), mesh),
        (
            batch["image"][rows],
            batch["class_label"][rows].astype(np.int32),
            t,
            np.arange(n * LEVELS, dtype=np.int32),
        ),
        mesh,
    )
    shares = accuracies(right, t, T)
    shares = {name: round(float(share), 4) for name, share in shares.items()}
    return shares | {"held_out_images": n}
