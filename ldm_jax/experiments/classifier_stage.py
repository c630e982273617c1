"""Trains the classifier of noisy latents, which can guide the diffusion model (App. C)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.classifier_step import accuracies
from ldm_jax.experiments.conditions import Class
from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.data import OpenData
from ldm_jax.experiments.latents import latent_loader
from ldm_jax.experiments.models import Classifier, SecondStage
from ldm_jax.experiments.run_dir import RunDir
from ldm_jax.experiments.second_stage import NAME as DIFFUSION
from ldm_jax.experiments.stages import Trained, train_stage
from ldm_jax.training.sharding import fetch, gathered, in_batches

NAME = "classifier"
SCORED = 1024  # held-out images that are classified, at most
LEVELS = 8  # noise levels of each


def train_classifier(
    experiment: Experiment,
    data: OpenData,
    autoencoder: dict,
    run: RunDir,
    mesh: jax.sharding.Mesh,
    key: jax.Array,
) -> Trained:
    """The classifier inside a run directory, on the latents of this autoencoder.

    Their scale factor is that of the run's diffusion model, if there is one already.
    """
    config = experiment.classifier
    second = SecondStage(experiment, data.facts)
    classifier = Classifier(experiment, data.facts, second)
    autoencoder = fetch(autoencoder)
    condition, batch_size = Class(classifier.labels), config.batch_size
    loader, scale = latent_loader(
        experiment, second.first, autoencoder, data, condition, mesh, batch_size
    )
    if saved := run.checkpoints(DIFFUSION).restore_part(["constants"]):
        scale = saved["constants"]["scale_factor"]
    trained = train_stage(
        NAME,
        config,
        classifier.problem,
        loader,
        run,
        mesh,
        key,
        constants=lambda: {"autoencoder": autoencoder, "scale_factor": jnp.float32(scale)},
    )
    trained.summary.update(score_classifier(experiment, data, classifier, trained, mesh))
    return trained


def score_classifier(
    experiment: Experiment,
    data: OpenData,
    classifier: Classifier,
    trained: Trained,
    mesh: jax.sharding.Mesh,
) -> dict[str, float]:
    """The share of held-out images told right, of all and by noise level.

    Each is classified at `LEVELS` timesteps, one drawn from each of as many equal parts of T.
    """
    problem, key = classifier.problem, jax.random.key(experiment.seed)
    batch = data.validation.read(np.arange(min(SCORED, len(data.validation))))
    n, T = len(batch["image"]), problem.schedule.timesteps
    rng = np.random.default_rng([experiment.seed, 3])
    rows, level = np.divmod(np.arange(n * LEVELS), LEVELS)
    t = (T * (level + rng.random(n * LEVELS)) / LEVELS).astype(np.int32)

    @jax.jit
    def is_right(params, constants, image, label, t, number):
        batch = {"image": image, "condition": label}
        return problem.judge(params, constants, batch, jax.random.fold_in(key, number[0]), t)[1]

    right = in_batches(
        is_right,
        gathered((trained.weights, trained.state.constants), mesh),
        (
            batch["image"][rows],
            batch["class_label"][rows].astype(np.int32),
            t,
            np.arange(n * LEVELS, dtype=np.int32),
        ),
        mesh,
    )
    shares = accuracies(right, t, T)
    return {name: round(float(share), 4) for name, share in shares.items()} | {"held_out_images": n}
