"""Commands called as the command line calls them, and small published models to convert."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from ldm_jax.autoencoder.discriminator import DiscriminatorConfig
from ldm_jax.autoencoder.loss import AutoencoderLossConfig
from ldm_jax.autoencoder.network import AutoencoderConfig
from ldm_jax.commands.convert import check_main, convert_main
from ldm_jax.commands.export import main as export_main
from ldm_jax.conditioning.transformer import TransformerConfig
from ldm_jax.data.folder import FolderConfig
from ldm_jax.diffusion.unet import UNetConfig
from ldm_jax.experiments import EXPERIMENTS, FIRST_STAGES
from ldm_jax.model.networks import Networks
from ldm_jax.model.parts import network_parts
from ldm_jax.model.published_info import published_info
from ldm_jax.pretrained.convert import write_compvis
from ldm_jax.pretrained.files import write_ckpt, write_safetensors


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation():
    """Programs that run a few steps are not worth optimising.

    Module by module: pytest would undo it for the whole folder only at the end of everything.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def tiny(**diffusion):
    """A model with every part of a published one, on 16x16 images."""
    smoke = EXPERIMENTS["smoke"]()
    stage = smoke.diffusion
    return replace(
        smoke,
        data=FolderConfig(size=16),
        autoencoder=replace(
            smoke.autoencoder,
            network=AutoencoderConfig(
                4, (1, 2), 1, mid_attention=False, z_channels=2, groups=2, bottleneck="vq",
                codebook_size=8,
            ),
            loss=AutoencoderLossConfig(disc_weight=0.5),
            discriminator=DiscriminatorConfig(4, 1),
        ),
        diffusion=replace(
            stage,
            unet=UNetConfig(8, (1, 2), 1, attention_factors=(), head_channels=4, groups=4),
            text=TransformerConfig(8, 1, 1),
            class_dim=8,
            scale_factor=2.0,
            **diffusion,
        ),
    )  # fmt: skip


MODELS = {
    "tiny-class": lambda: tiny(condition="class"),
    "tiny-measured": lambda: replace(
        tiny(condition="none"),
        diffusion=replace(tiny(condition="none").diffusion, scale_factor=0.0, drop_probability=0.0),
    ),
    "tiny-text": lambda: tiny(condition="text", tokenizer="bert", ema_decay=0.0),
    "tiny-layout": lambda: tiny(condition="layout"),
    "tiny-first": lambda: tiny(condition="none"),
}


@pytest.fixture
def models(monkeypatch):
    for name, make in MODELS.items():
        monkeypatch.setitem(EXPERIMENTS, name, make)
    monkeypatch.setitem(FIRST_STAGES, "tiny-first", MODELS["tiny-first"])


def random_trees(name, seed):
    """part -> parameters drawn at random."""
    experiment, rng = MODELS[name](), np.random.default_rng(seed)
    stage = "autoencoder" if name == "tiny-first" else "diffusion"
    info = published_info(experiment.diffusion, stage)
    wanted = network_parts(Networks(experiment, info), stage)
    return wanted, {
        part.name: jax.tree.map(
            lambda leaf: (0.3 * rng.normal(size=leaf.shape)).astype(np.float32), part.shapes
        )
        for part in wanted
    }


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """(model, further arrays) -> a file as CompVis publishes it, and the arrays in it."""

    def make(name, ending=".ckpt", **buffers):
        wanted, trees = random_trees(name, 0)
        average = {"unet": random_trees(name, 1)[1]["unet"]} if "unet" in trees else None
        arrays = write_compvis(trees, wanted, ema=average, buffers=buffers)
        path = tmp_path_factory.mktemp("published") / f"model{ending}"
        (write_ckpt if ending == ".ckpt" else write_safetensors)(path, arrays)
        return path, arrays

    return make


@pytest.fixture
def convert(command, models):
    """`convert(...)`, `convert('check', ...)`, `convert('export', ...)`: the three commands."""
    mains = {"check": check_main, "export": export_main}

    def run(*words):
        if words[0] in mains:
            return command(mains[words[0]], words[1:])
        return command(convert_main, words)

    return run
