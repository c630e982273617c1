"""Commands called as the command line calls them, and small published models to convert."""

import functools

import jax
import numpy as np
import pytest

from ldm_jax.commands import cli
from ldm_jax.commands.convert import check_main, convert_main
from ldm_jax.commands.export import main as export_main
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.experiments.config import Experiment
from ldm_jax.model.networks import Networks
from ldm_jax.model.parts import network_parts
from ldm_jax.model.published_info import published_info
from ldm_jax.pretrained.convert import write_compvis
from ldm_jax.pretrained.files import write_ckpt, write_safetensors

# A model with every part of a published one, on 16x16 images, as changes to an experiment.
TINY = """
    --data.size 16
    --autoencoder.network.channels 4 --autoencoder.network.channel-mult 1 2
    --autoencoder.network.num-res-blocks 1 --autoencoder.network.attention-factors
    --autoencoder.network.mid-attention False --autoencoder.network.z-channels 2
    --autoencoder.network.groups 2 --autoencoder.network.bottleneck vq
    --autoencoder.network.codebook-size 8
    --autoencoder.loss.disc-weight 0.5
    --autoencoder.discriminator.channels 4 --autoencoder.discriminator.layers 1
    --diffusion.unet.channels 8 --diffusion.unet.channel-mult 1 2
    --diffusion.unet.num-res-blocks 1 --diffusion.unet.attention-factors
    --diffusion.unet.head-channels 4 --diffusion.unet.groups 4
    --diffusion.text.dim 8 --diffusion.text.depth 1 --diffusion.text.heads 1
    --diffusion.class-dim 8
"""
SCALE_2, DROP_0 = ["--diffusion.scale-factor", "2"], ["--diffusion.drop-probability", "0"]
MODELS = {  # name -> (experiment, fields beside TINY)
    "class": ("smoke", ["--diffusion.condition", "class", *SCALE_2]),
    "measured": ("smoke", ["--diffusion.condition", "none", *DROP_0]),
    "text": (
        "smoke",
        "--diffusion.condition text --diffusion.tokenizer bert --diffusion.ema-decay 0".split()
        + SCALE_2,
    ),
    "layout": ("smoke", ["--diffusion.condition", "layout", *SCALE_2]),
    "first": ("vq-f8", []),
}


@pytest.fixture(scope="session")
def words_of():
    """`words_of("class")`: the words `--model EXPERIMENT --field value ...` of a tiny model."""

    def words(model):
        experiment, fields = MODELS[model]
        return ["--model", experiment, *TINY.split(), *fields]

    return words


@functools.cache
def random_trees(words, seed):
    """(parts, part -> parameters drawn at random) of the model that these words describe."""
    _, name, *fields = words
    experiment = cli.parse(Experiment, fields, "", EXPERIMENTS[name]())
    rng, stage = np.random.default_rng(seed), "autoencoder" if name == "vq-f8" else "diffusion"
    info = published_info(experiment.diffusion, stage)
    wanted = network_parts(Networks(experiment, info), stage)
    return wanted, {
        part.name: jax.tree.map(
            lambda leaf: (0.3 * rng.normal(size=leaf.shape)).astype(np.float32), part.shapes
        )
        for part in wanted
    }


@pytest.fixture(scope="module")
def file(words_of, tmp_path_factory):
    """(model, further arrays) -> a file as CompVis publishes it, and the arrays in it."""

    def make(name, ending=".ckpt", **buffers):
        words = tuple(words_of(name))
        wanted, trees = random_trees(words, 0)
        average = {"unet": random_trees(words, 1)[1]["unet"]} if "unet" in trees else None
        arrays = write_compvis(trees, wanted, ema=average, buffers=buffers)
        path = tmp_path_factory.mktemp("published") / f"model{ending}"
        (write_ckpt if ending == ".ckpt" else write_safetensors)(path, arrays)
        return path, arrays

    return make


@pytest.fixture
def convert(command):
    """`convert(...)`, `convert('check', ...)`, `convert('export', ...)`: the three commands."""
    mains = {"check": check_main, "export": export_main}

    def run(*words):
        if words[0] in mains:
            return command(mains[words[0]], words[1:])
        return command(convert_main, words)

    return run
