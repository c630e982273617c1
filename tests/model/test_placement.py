"""Weights on the devices: split or whole, on some or all of them, the images are the same."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from ldm_jax.autoencoder.network import Autoencoder
from ldm_jax.conditioning.transformer import TransformerConfig
from ldm_jax.diffusion.unet import UNetConfig
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.model.conditioning import build_model
from ldm_jax.model.data_info import DataInfo
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.weights import Weights
from ldm_jax.training.config import MeshConfig
from ldm_jax.training.sharding import SMALLEST_SHARDED

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def described(drawn):
    """(configuration, info, weights) of a model whose encoder is wide enough to be split."""
    smoke = EXPERIMENTS["smoke"]()
    network = replace(smoke.autoencoder.network, channels=4, channel_mult=(1,), groups=2)
    unet = UNetConfig(8, (1,), 1, attention_factors=(), head_channels=8, groups=4)
    text = TransformerConfig(dim=64, depth=1, heads=1)
    config = replace(
        smoke,
        data=replace(smoke.data, size=8),
        autoencoder=replace(smoke.autoencoder, network=network),
        diffusion=replace(smoke.diffusion, unet=unet, text=text),
    )
    info = DataInfo(3, "text", vocabulary=("a", "blue", "red", "square"), caption_length=3)
    model = LatentDiffusion(config, info)
    c = model.first.latent_channels
    _, params = drawn(build_model, config.diffusion, model.spec, c, config.precision)
    _, autoencoder = drawn(Autoencoder, network, 3, remat=False, dtype=np.float32)
    return (
        config,
        info,
        Weights(params, {"autoencoder": autoencoder, "scale_factor": np.float32(1)}),
    )


def test_images_do_not_depend_on_the_devices(described):
    config, info, weights = described
    large = {a.shape for a in jax.tree.leaves(weights.params) if a.size >= SMALLEST_SHARDED}
    assert large == {(64, 256), (256, 64)}  # of tau's MLP, which tensor parallelism splits
    prompts = ["a red square", "a blue square"] * 4

    def sampled(mesh, n):
        model = LatentDiffusion(replace(config, mesh=mesh), info, weights)
        placed, _ = model.placed(n)
        assert model.placed(n)[0] is placed  # they are kept there
        arrays = jax.tree.leaves((placed.params, placed.constants))
        used = {len(array.sharding.device_set) for array in arrays}
        parts = any(not array.is_fully_replicated for array in arrays)
        return model.sample(prompts[:n], steps=3, guidance=2.0, batch_size=8), used, parts

    alone, devices, _ = sampled(MeshConfig(), 1)
    assert devices == {1}  # one image, one device
    for mesh, n, split in (
        (MeshConfig(fsdp=2, tensor=2), 8, True),
        (MeshConfig(fsdp=4), 8, False),  # which is a matter of training
        (MeshConfig(tensor=3), 2, False),  # eight devices cannot be split so: each of two has all
    ):
        images, devices, parts = sampled(mesh, n)
        assert devices == {min(n, 8)} and parts == split, mesh
        assert images.shape[0] == n
        np.testing.assert_allclose(np.int32(images[:1]), np.int32(alone), atol=1)
        assert np.abs(np.int32(images[0]) - images[1]).max() > 1  # of another prompt, and noise


def test_weights_that_lie_on_devices_stay_there(described):
    """As a training state's, between two steps: nothing is placed anew."""
    config, info, weights = described
    model = LatentDiffusion(config, info, weights)
    placed, sharding = model.placed(2)
    other = model.with_weights(placed, sharding.mesh)
    assert other.placed(8)[0] is placed and other.placed(8)[1] == sharding
    images = model.sample("a red square", num_images=2, steps=2)
    programs = model.sampler.compiled_programs()
    same = other.sample("a red square", num_images=2, steps=2)
    np.testing.assert_array_equal(same, images)
    assert other.sampler.compiled_programs() == programs
