"""The training step of a stage as a program, without data, weights or devices."""

from __future__ import annotations

from ldm_jax.commands.train.abstract import AbstractStep
from ldm_jax.commands.train.abstract import abstract_step as step_of_model
from ldm_jax.data.scenes import ScenesConfig
from ldm_jax.experiments.config import Experiment
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.placeholder import placeholder_data


def abstract_step(experiment: Experiment, stage: str) -> AbstractStep:
    """The step of `autoencoder` or `diffusion` by an experiment.

    UserError where only the data could tell what the model is (see `placeholder_data`). Latents are
    taken to be cached unless images are cropped at random: how many there will be is not known.
    """
    info, example = placeholder_data(experiment)
    model = LatentDiffusion(experiment, info)
    return step_of_model(model, stage, example, cached=not crops(experiment))


def crops(experiment: Experiment) -> bool:
    """Whether images are cropped at random, so that every step of stage 2 encodes them."""
    data = experiment.data
    return not isinstance(data, ScenesConfig) and data.crop == "random"
