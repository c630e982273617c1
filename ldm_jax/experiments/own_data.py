"""Experiments on data that the user has: a TFDS data set, a folder of images."""

from dataclasses import replace

from ldm_jax.data.folder import FolderConfig
from ldm_jax.data.tfds import TfdsConfig
from ldm_jax.experiments.config import EvaluationConfig, Experiment
from ldm_jax.experiments.scenes import scenes, scenes_64
from ldm_jax.sampling.settings import SamplingSettings
from ldm_jax.training.config import Progress

KL_WEIGHT = 1e-6  # the paper's: what real images are like is not known before


def tfds() -> Experiment:
    """Any prepared TFDS data set at 32x32: mnist, unless --data.name says another."""
    laptop = scenes()
    stage = laptop.autoencoder
    return replace(
        laptop,
        data=TfdsConfig(name="mnist", size=32, fit="pad"),
        # Without LPIPS, which knows photographs, not digits of 28 pixels.
        autoencoder=replace(stage, loss=replace(stage.loss, kl_weight=KL_WEIGHT), init_gain=2.45),
        sampling=SamplingSettings(steps=25, guidance=2.0),
        evaluation=EvaluationConfig(num_images=64),
    )


def folder() -> Experiment:
    """Your own images, --data.path FOLDER, at 64x64: flat, one sub-folder a class, or captions.

    About an hour on two cores. The networks are those of scenes-64, from which it can start:
    --init-from scenes-64.
    """
    laptop = scenes_64()
    return replace(
        laptop,
        # A tenth, so that of 60 images some are there to judge the others by.
        data=FolderConfig(size=64, validation=0.1),
        autoencoder=replace(
            laptop.autoencoder,
            # The adversary pays once reconstructions get no better without it, after hours.
            loss=replace(laptop.autoencoder.loss, kl_weight=KL_WEIGHT),
            progress=Progress(log_every=25, preview_every=500, save_every=250),
            steps=4000,
        ),
        diffusion=replace(
            laptop.diffusion,
            # Few images are learnt by heart sooner than a network of this size is trained.
            unet=replace(laptop.diffusion.unet, dropout=0.1),
            drop_clauses=0.0,
            progress=Progress(log_every=50, preview_every=1000, save_every=500),
            steps=3000,
        ),
        sampling=SamplingSettings(steps=50, guidance=2.0),
        evaluation=EvaluationConfig(num_images=64),
    )
