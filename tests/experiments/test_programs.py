"""Every experiment becomes programs: its networks build, its steps lower, its arrays are bounded.

Nothing is compiled or run. `benchmarks/programs.py` does the same for all of them, at full size, on
1, 4 and 8 devices, and prints tables.
"""

import functools
import importlib
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from ldm_jax.autoencoder.discriminator import DiscriminatorConfig
from ldm_jax.commands.estimate.step import abstract_step, crops
from ldm_jax.conditioning.transformer import TransformerConfig
from ldm_jax.experiments import EXPERIMENTS, PUBLISHED, UNPUBLISHED
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.placeholder import placeholder_data
from ldm_jax.training.cost import largest_array

pytestmark = pytest.mark.slow
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
KEY = jax.eval_shape(lambda: jax.random.key(0))
GIB = 2**30


@pytest.fixture(scope="module")
def programs():
    """The module benchmarks/programs.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("programs")


@pytest.mark.parametrize("name", [n for n in EXPERIMENTS if n not in PUBLISHED | UNPUBLISHED])
def test_networks_and_condition_build_from_placeholder_data(name, programs):
    """Those of the others do so in test_published.py."""
    experiment = programs.settled(EXPERIMENTS[name]())
    info, example = placeholder_data(experiment)
    model = LatentDiffusion(experiment, info)
    h, w, c = model.geometry().shape
    f = experiment.autoencoder.network.f
    assert (h, w) == (experiment.data.size // f,) * 2
    if model.first.bottleneck != "none":
        frozen = jax.eval_shape(model.first.objective.init, KEY)["autoencoder"]
        z = jax.eval_shape(
            lambda p, x: model.first.mean(model.first.encode(p, x)), frozen, example["image"]
        )
        assert z.shape == (1, h, w, c)
    if "diffusion" in programs.stages(name, experiment):
        step = abstract_step(experiment, "diffusion")
        params = jax.eval_shape(model.objective.init, KEY)
        n = experiment.diffusion.batch_size
        if model.condition:
            y = jax.eval_shape(model.condition.encode, step.constants, step.batch)
            assert y.shape[0] == n
        assert ("tau" in params) == (model.spec.tau is not None)


def kind_of_step(experiment, stage):
    """What makes a training step another program than the next, whatever the sizes."""
    config, network = getattr(experiment, stage), experiment.autoencoder.network
    if stage == "autoencoder":
        perceptual = config.loss.perceptual_weight > 0 and config.loss.perceptual
        adversary, crops_squares = config.loss.disc_weight > 0, config.crop_size > 0
        return stage, network.bottleneck, perceptual, adversary, crops_squares
    names = ("condition", "tokenizer", "class_entry", "prediction", "freeze_encoder")
    how = [getattr(config, name) for name in names]
    return stage, network.bottleneck == "none", crops(experiment), *how


@functools.cache
def distinct_steps():
    """{kind: (name of the first experiment that has it, stage)}"""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        programs = importlib.import_module("programs")
    found = {}
    for name, make in EXPERIMENTS.items():
        experiment = programs.settled(make())
        for stage in programs.stages(name, experiment):
            found.setdefault(kind_of_step(experiment, stage), (name, stage))
    return list(found.values())


def narrow(experiment):
    """The experiment with few channels and blocks, and a batch of one image a device."""
    first, second = experiment.autoencoder, experiment.diffusion
    network = replace(first.network, channels=8, groups=4, num_res_blocks=1, codebook_size=16)
    unet = replace(
        second.unet,
        channels=16,
        channel_mult=(1,),
        num_res_blocks=1,
        attention_factors=(1,),
        heads=0,
        head_channels=16,
        groups=4,
        transformer_depth=1,
    )
    text, discriminator = TransformerConfig(16, 1, 1), DiscriminatorConfig(4, 2)
    return replace(
        experiment,
        autoencoder=replace(
            first, network=network, discriminator=discriminator, batch_size=8 * first.accumulate
        ),
        diffusion=replace(second, unet=unet, text=text, batch_size=8 * second.accumulate),
    )


@pytest.mark.parametrize(("name", "stage"), distinct_steps())
def test_every_distinct_training_step_lowers_at_eight_devices(name, stage, programs):
    state, mesh = programs.lowered(narrow(programs.settled(EXPERIMENTS[name]())), stage, 8)
    assert mesh.size == 8 and all(hasattr(leaf, "sharding") for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("name", ["kl-f2", "vq-f4", "stable-diffusion-v1"])
def test_no_array_of_one_image_has_more_than_a_gibibyte(name, programs):
    """These have the most positions that attend to each other, and the most codes."""
    for what, program in programs.of_one_image(name, programs.settled(EXPERIMENTS[name]())):
        array = largest_array(program)
        assert array.size * array.dtype.itemsize <= GIB, (what, array)
