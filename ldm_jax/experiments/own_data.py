"""Experiments on data that the user has: a TFDS data set, a folder of images."""

from dataclasses import replace

from ldm_jax.data.folder import FolderConfig
from ldm_jax.data.tfds import TfdsConfig
from ldm_jax.experiments.config import EvaluationConfig, Experiment
from ldm_jax.experiments.scenes import scenes
from ldm_jax.sampling.settings import SamplingSettings


def tfds() -> Experiment:
    """Any prepared TFDS data set at 32x32: mnist, unless --data.name says another."""
    laptop = scenes()
    return replace(
        laptop,
        data=TfdsConfig(name="mnist", size=32, fit="pad"),
        sampling=SamplingSettings(steps=25, guidance=2.0),
        evaluation=EvaluationConfig(num_images=64),
    )


def folder() -> Experiment:
    """Your own images, --data.path FOLDER, at 64x64: flat, one sub-folder a class, or captions."""
    laptop = scenes()
    return replace(
        laptop,
        data=FolderConfig(),
        sampling=SamplingSettings(steps=50, guidance=2.0),
        evaluation=EvaluationConfig(num_images=64),
    )
