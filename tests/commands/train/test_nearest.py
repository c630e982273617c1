"""The check at the end of a run whether samples are copies of training images."""

import numpy as np
import pytest

from ldm_jax.commands.train.at_end import is_checked
from ldm_jax.commands.train.nearest import nearest_check
from ldm_jax.commands.train.summary import summary_line
from ldm_jax.data.source import ArraySource
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.model.data import OpenData
from ldm_jax.model.data_info import DataInfo


def images(n, seed, channels=3):
    """Coloured noise of 4x4 pixels, enlarged to 32x32: uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, channels), np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def data(training, held_out):
    sources = (ArraySource({"image": x}) for x in (training, held_out))
    return OpenData(*sources, DataInfo(training.shape[-1], "none"), flip=False)


@pytest.mark.parametrize("channels", [1, 3])
def test_copies_fail_and_new_images_pass(channels):
    training, held_out = images(20, 0, channels), images(6, 1, channels)
    passed, figure = nearest_check(data(training, held_out), images(8, 2, channels))
    assert passed["passed"] and 0.1 < passed["closer"] < 0.9 and passed["p_value"] > 0.01
    assert (passed["training_images"], passed["held_out_images"], passed["samples"]) == (20, 6, 8)
    assert figure.dtype == np.uint8 and figure.shape[-1] == 3
    noise = np.random.default_rng(3).integers(-20, 21, (8, 32, 32, channels))
    copies = np.clip(training[:8] + noise, 0, 255).astype(np.uint8)
    failed, _ = nearest_check(data(training, held_out), copies)
    assert not failed["passed"] and failed["closer"] > 0.9
    said = [summary_line({"diffusion": {"nearest": one}}) for one in (passed, failed)]
    assert "nearest-neighbour check passed" in said[0] and "FAILED" in said[1]
    assert "unlike" not in said[0]
    unlike = {"diffusion": {"nearest": passed | {"closer": 0.1}}}
    assert "unlike real images" in summary_line(unlike)


@pytest.mark.parametrize("held_out, samples, said", [(4, 9, "4 held-out"), (9, 4, "4 samples")])
def test_too_few_images_give_no_verdict(held_out, samples, said):
    report, figure = nearest_check(data(images(20, 0), images(held_out, 1)), images(samples, 2))
    assert figure is None and said in report["why_not"]
    assert said in summary_line({"diffusion": {"nearest": report}})


def test_what_is_checked():
    scenes, folder = EXPERIMENTS["scenes"](), EXPERIMENTS["folder"]()
    assert is_checked(folder, "none") and is_checked(folder, "text")
    assert not is_checked(scenes, "text")
    assert not is_checked(folder, "inpainting")
