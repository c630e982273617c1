"""The tasks on scenes: whose first stage they borrow, and why some need that of f = 4."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ldm_jax.commands.train.run import parse_command
from ldm_jax.data.masks import thinnest
from ldm_jax.data.scenes import SEMANTIC_NAMES, ScenesConfig, ScenesSource
from ldm_jax.evaluation.scene_reports import mean_iou
from ldm_jax.experiments import EXPERIMENTS, TRAINED_ALONE

TASKS = {
    "scenes-text": 8,
    "scenes-class": 8,
    "scenes-unconditional": 8,
    "scenes-layout": 8,
    "scenes-semantic": 4,
    "scenes-inpainting": 4,
    "scenes-super-resolution": 4,
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_on_the_first_stage_of_its_lender(name):
    task = EXPERIMENTS[name]()
    lender = EXPERIMENTS[task.autoencoder.from_run]()
    assert task.autoencoder == replace(lender.autoencoder, from_run=task.autoencoder.from_run)
    assert task.autoencoder.network.f == TASKS[name] and task.data.size == lender.data.size == 64
    assert replace(task.data, level=lender.data.level) == lender.data
    # A first stage of its own is one option away.
    _, command = parse_command([name, "--autoencoder.from-run", ""])
    assert command.experiment.autoencoder == lender.autoencoder and command.stage == "both"


def test_the_lender_of_fine_latents_has_the_first_stage_alone():
    coarse, fine = EXPERIMENTS["scenes-64"](), EXPERIMENTS["scenes-64-f4"]()
    assert "scenes-64-f4" in TRAINED_ALONE and "scenes-64" not in TRAINED_ALONE
    network = replace(fine.autoencoder.network, channel_mult=(1, 2, 4, 4), z_channels=8)
    trained = {"optimiser": coarse.autoencoder.optimiser, "steps": coarse.autoencoder.steps}
    first = replace(fine.autoencoder, network=network, **trained)
    assert replace(fine, autoencoder=first) == coarse
    assert fine.autoencoder.optimiser == EXPERIMENTS["scenes"]().autoencoder.optimiser


def test_a_mask_shows_in_the_latent():
    task = EXPERIMENTS["scenes-inpainting"]()
    assert thinnest(task.diffusion.masks, task.data.size) >= task.autoencoder.network.f


@pytest.mark.parametrize("f, left", [(4, 0.96), (8, 0.87)])
def test_what_is_left_of_a_map_averaged_down_to_its_latent(f, left):
    config = EXPERIMENTS["scenes-semantic"]().data
    config = ScenesConfig(config.size, config.level, validation_count=100)
    truth = ScenesSource(config, "validation", 0, ("semantic",)).read(range(100))["semantic"]
    classes, n = len(SEMANTIC_NAMES), config.size // f
    shares = np.eye(classes, dtype=np.float32)[truth]
    low = shares.reshape(100, n, f, n, f, classes).mean(axis=(2, 4))

    def enlarged(share):
        return np.asarray(Image.fromarray(share).resize(truth.shape[1:], Image.BICUBIC))

    high = [[enlarged(image[..., c]) for c in range(classes)] for image in low]
    assert mean_iou(np.argmax(high, axis=1), truth, classes) == pytest.approx(left, abs=0.01)
