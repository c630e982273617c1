"""What cannot be held is refused before anything is sampled."""

import dataclasses

import pytest

from ldm_jax.commands.sample.command import EditOptions, SampleCommand
from ldm_jax.commands.sample.plan import Request
from ldm_jax.commands.sample.size import check_size
from ldm_jax.errors import UserError
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.model.data_info import DataInfo
from ldm_jax.model.latent_diffusion import LatentDiffusion


@pytest.fixture(scope="module")
def checked():
    """`checked("grid", labels, num_images, height=...)` of a model on 32x32 pixels."""
    model = LatentDiffusion(EXPERIMENTS["smoke"](), DataInfo(3, "none"))

    def check(kind, labels=1, num_images=1, command=None, memory=None, **settings):
        settings = dataclasses.replace(model.settings, **settings)
        request = Request(model, None, [""] * labels, num_images, settings, None)
        check_size(command or SampleCommand("run"), kind, request, memory)

    return check


def test_what_can_be_held_is_taken(checked):
    checked("grid", num_images=2**18)
    checked("folder", num_images=10**7)
    checked("grid", num_images=1, height=2**14, width=2**14, tile=64)


def test_a_file_of_too_many_images_is_refused_with_the_way_out(checked):
    words = "pixels are too many for one file, .*; --out FOLDER writes single images"
    with pytest.raises(UserError, match=f"10000000 images of 32x32 {words}"):
        checked("grid", num_images=10**7)
    with pytest.raises(UserError, match=f"2 images of 16384x16384 {words}"):
        checked("grid", labels=2, height=2**14, width=2**14)
    many = SampleCommand("run", edit=EditOptions(interpolate=10_000))
    with pytest.raises(UserError, match="1000000 images of 32x32"):
        checked("grid", num_images=100, command=many)
    with pytest.raises(UserError, match="1000 images of 1000 steps of 32x32"):
        checked("animation", num_images=1000, steps=1000)


def test_images_larger_than_the_memory_are_refused(checked):
    with pytest.raises(MemoryError, match="sampling 1 image of 16384x16384 pixels at a t"):
        checked("folder", num_images=10**5, height=2**14, width=2**14, memory=4e9)


def test_attention_between_many_positions_is_counted():
    """With f = 2, 128x128 positions attend to each other, which is 1 GiB an image."""
    model = LatentDiffusion(EXPERIMENTS["kl-f2"](), DataInfo(3, "none"))

    def check(memory, **settings):
        settings = dataclasses.replace(model.settings, height=256, width=256, **settings)
        request = Request(model, None, [""], 8, settings, None)
        check_size(SampleCommand("run"), "folder", request, memory)

    with pytest.raises(MemoryError, match="1 image of 256x256 pixels at a time takes 1.1 GB"):
        check(1e9)
    check(2e9)
    check(1e9, tile=64)
