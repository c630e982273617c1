"""The experiments of the paper: the published sizes, the tables' figures, commands that work."""

import functools
import inspect
import json
import math
import re

import jax
import pytest
from flax import nnx

from ldm_jax.autoencoder.discriminator import Discriminator
from ldm_jax.autoencoder.network import Autoencoder
from ldm_jax.commands.estimate.step import abstract_step
from ldm_jax.commands.train.run import parse_command
from ldm_jax.data.folder import FolderConfig
from ldm_jax.data.tfds import TfdsConfig
from ldm_jax.experiments import EXPERIMENTS, FIRST_STAGES, PUBLISHED, UNPUBLISHED
from ldm_jax.experiments.config import AutoencoderStage, DiffusionStage, Experiment
from ldm_jax.model.check import check
from ldm_jax.model.config_json import from_json, to_json
from ldm_jax.parameters import abstract_module
from ldm_jax.training.step import count_parameters

PAPER = FIRST_STAGES | PUBLISHED | UNPUBLISHED

# Encoder, decoder (each with the 1x1 convolution on its side), codes, discriminator.
FIRST_STAGE_SIZES = {
    "kl-f4": (22_351_280, 32_960_783, 0, 2_765_633),
    "kl-f8": (34_163_664, 49_490_199, 0, 2_765_633),
    "kl-f16": (28_266_816, 41_344_147, 0, 2_765_633),
    "kl-f32": (42_631_168, 61_248_963, 0, 2_765_633),
    "vq-f4": (22_337_423, 32_960_783, 24_576, 2_765_633),
    "vq-f4-noattn": (21_285_775, 31_909_135, 24_576, 2_765_633),
    "vq-f8": (27_397_784, 40_253_975, 65_536, 663_361),
    "vq-f8-n256": (27_397_784, 40_253_975, 1_024, 2_765_633),
    "vq-f16": (28_155_216, 41_307_083, 131_072, 663_361),
}
# Latents, |Z| (0: KL) of every row of Table 8 that is the authors' own.
TABLE_8 = {
    "kl-f2": (128, 2, 0),
    "kl-f4": (64, 3, 0),
    "kl-f8": (32, 4, 0),
    "kl-f16": (16, 16, 0),
    "kl-f16-c8": (16, 8, 0),
    "kl-f32": (8, 64, 0),
    "kl-f32-c16": (8, 16, 0),
    "vq-f2": (128, 2, 2048),
    "vq-f2-n64": (128, 2, 64),
    "vq-f4": (64, 3, 8192),
    "vq-f4-noattn": (64, 3, 8192),
    "vq-f4-n256": (64, 3, 256),
    "vq-f8": (32, 4, 16_384),
    "vq-f8-n256": (32, 4, 256),
    "vq-f16": (16, 8, 16_384),
    "vq-f32": (8, 16, 16_384),
    "vq-f32-c32": (8, 32, 16_384),  # of LDM-32 in Tables 13 and 14
}


def unused_head(dim: int, vocabulary: int) -> int:
    """Parameters of the matrix towards the vocabulary that the published encoders hold as well."""
    return (dim + 1) * vocabulary


# Side and channels of the latents, parameters of UNet and tau, heads of the attention in the
# middle, betas' end, loss, factor on the latents.
MODELS = {
    "celeba256": (64, 3, 274_056_163, 0, 28, 0.0195, "l2", 1),
    "ffhq256": (64, 3, 274_056_163, 0, 28, 0.0195, "l2", 1),
    "lsun_beds256": (64, 3, 274_056_163, 0, 28, 0.0195, "l2", 1),
    "lsun_churches256": (32, 4, 294_966_916, 0, 8, 0.0155, "l1", 0),
    "cin256": (32, 4, 394_984_196, 512_000, 32, 0.0195, "l2", 1),
    "cin256-v2": (64, 3, 400_920_579, 512_512, 1, 0.0195, "l2", 1),
    "text2img256": (
        64,
        3,
        403_623_939,
        186_154_682 - unused_head(640, 30_522),
        30,
        0.0195,
        "l2",
        1,
    ),
    "txt2img-1p4B": (
        32,
        4,
        872_300_484,
        581_994_042 - unused_head(1280, 30_522),
        8,
        0.012,
        "l2",
        0.18215,
    ),
    "layout2img-openimages256": (
        64,
        3,
        246_277_379,
        58_858_496 - unused_head(512, 8192),
        16,
        0.0205,
        "l1",
        1,
    ),
    "semantic_synthesis256": (64, 3, 215_229_315, 546, 8, 0.0205, "l1", 1),
    "semantic_synthesis512": (128, 3, 215_229_315, 546, 8, 0.0205, "l1", 1),
    "bsr_sr": (64, 3, 113_622_563, 0, 20, 0.0155, "l2", 1),
    "inpainting_big": (64, 3, 387_245_827, 0, 8, 0.0205, "l1", 1),
    "rdm768x768": (48, 16, 1_335_480_400, 0, 56, 0.015, "l2", 0.22765929),
    "stable-diffusion-v1": (64, 4, 859_520_964, 123_060_480, 8, 0.012, "l2", 0.18215),
}
# Side and channels of the latents, millions of parameters of the UNet.
ANALYSIS = {
    "cin256-f1": (256, 3, 396.8),
    "cin256-f2": (128, 2, 390.9),
    "cin256-f4": (64, 3, 400.9),
    "cin256-f8": (32, 4, 395.0),
    "cin256-f16": (16, 8, 395.0),
    "cin256-f32": (8, 32, 395.1),
    "celeba256-f1": (256, 3, 270.5),
    "celeba256-f2": (128, 2, 264.5),
    "celeba256-f4": (64, 3, 274.1),
    "celeba256-f8": (32, 4, 257.7),
    "celeba256-f16": (16, 8, 257.8),
    "celeba256-f32": (8, 32, 257.9),
    "layout2img-coco256": (32, 4, 312.2),
    "layout2img-coco256-f4": (64, 3, 246.3),
    "sr-imagenet256": (64, 3, 113.6),  # with the first stage 169M, as in Table 5
    "inpainting-f1": (256, 3, 215.2),
    "inpainting-kl-f4": (64, 3, 215.2),
    "inpainting-vq-f4": (64, 3, 215.2),
    "inpainting-vq-f4-noattn": (64, 3, 215.2),
}
# Batch, steps, learning rate.
TABLES_12_TO_15 = {
    "celeba256": (48, 410_000, 9.6e-5),
    "ffhq256": (42, 635_000, 8.4e-5),
    "lsun_churches256": (96, 500_000, 5e-5),
    "lsun_beds256": (48, 1_900_000, 9.6e-5),
    "cin256-f1": (7, 2_000_000, 4.9e-5),
    "cin256-f2": (9, 2_000_000, 6.3e-5),
    "cin256-f4": (40, 2_000_000, 8e-5),
    "cin256-f8": (64, 2_000_000, 6.4e-5),
    "cin256-f16": (112, 2_000_000, 4.5e-5),
    "cin256-f32": (112, 2_000_000, 4.5e-5),
    "celeba256-f1": (9, 500_000, 9e-5),
    "celeba256-f2": (11, 500_000, 1.1e-4),
    "celeba256-f4": (48, 500_000, 9.6e-5),
    "celeba256-f8": (96, 500_000, 9.6e-5),
    "celeba256-f16": (128, 500_000, 1.3e-4),
    "celeba256-f32": (128, 500_000, 1.3e-4),
    "txt2img-1p4B": (680, 390_000, 1e-4),
    "layout2img-openimages256": (24, 4_400_000, 4.8e-5),
    "layout2img-coco256": (48, 170_000, 4.8e-5),
    "cin256-v2": (1200, 178_000, 1e-4),
    "sr-imagenet256": (64, 860_000, 6.4e-5),
    "inpainting-vq-f4": (128, 360_000, 128 * 1e-6),
    "semantic_synthesis256": (48, 360_000, 4.8e-5),
}


def count(module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module)))


@functools.cache
def first_stage_size(network) -> tuple[int, int, int]:
    model = abstract_module(lambda rngs: Autoencoder(network, 3, rngs=rngs))
    encoder = count(model.encoder) + count(model.quant_conv)
    decoder = count(model.decoder) + count(model.post_quant_conv)
    return encoder, decoder, count(model) - encoder - decoder


@functools.cache
def discriminator_size(config) -> int:
    return count(abstract_module(lambda rngs: Discriminator(config, 3, rngs=rngs)))


@functools.cache
def _model_size(experiment) -> tuple[int, int]:
    step = abstract_step(experiment, "diffusion")  # by placeholder data
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(step.objective.init, key)
    if experiment.diffusion.condition != "none":
        y = jax.eval_shape(step.objective.condition, step.constants, step.batch, key)
        assert y.shape[0] == experiment.diffusion.batch_size
    return tuple(count_parameters(params.get(name, {})) for name in ("unet", "tau"))


def model_size(experiment) -> tuple[int, int]:
    """Parameters of UNet and tau. Nothing is allocated, and equal models are made once."""
    stage = experiment.diffusion
    names = ("unet", "condition", "tokenizer", "text", "class_dim", "class_entry", "degradation")
    names += ("drop_probability", "objects", "sections")
    diffusion = DiffusionStage(**{name: getattr(stage, name) for name in names})
    autoencoder = AutoencoderStage(network=experiment.autoencoder.network)
    data = FolderConfig(size=experiment.data.size)
    return _model_size(Experiment(data=data, autoencoder=autoencoder, diffusion=diffusion))


def latents(experiment) -> tuple[int, int]:
    network = experiment.autoencoder.network
    return experiment.data.size // network.f, network.z_channels


def test_every_row_is_there_under_its_name():
    assert set(FIRST_STAGES) == set(TABLE_8) > set(FIRST_STAGE_SIZES)
    assert set(PUBLISHED) == set(MODELS) and set(UNPUBLISHED) == set(ANALYSIS)
    assert list(EXPERIMENTS)[-len(PAPER) :] == list(PAPER)
    for name, make in EXPERIMENTS.items():
        assert make.__name__ == re.sub("[^a-zA-Z0-9]", "_", name)
    assert len({to_text(make()) for make in EXPERIMENTS.values()}) == len(EXPERIMENTS)


def to_text(experiment) -> str:
    return json.dumps(to_json(experiment))


@pytest.mark.parametrize("name", PAPER)
def test_each_can_run_and_be_saved(name, one_device):
    experiment = PAPER[name]()
    check(experiment, one_device)
    assert from_json(Experiment, json.loads(to_text(experiment))) == experiment


@pytest.mark.parametrize("name", FIRST_STAGES)
def test_first_stages_are_the_rows_of_table_8(name):
    stage, diffusion = FIRST_STAGES[name]().autoencoder, FIRST_STAGES[name]().diffusion
    side, channels, codes = TABLE_8[name]
    network, loss = stage.network, stage.loss
    assert latents(FIRST_STAGES[name]()) == (side, channels) and diffusion.condition == "none"
    assert network.bottleneck == ("vq" if codes else "kl")
    if codes:
        assert network.codebook_size == codes
        # the quantiser as published: the latents are pulled to the codes more than they to them
        assert (loss.codebook_weight, loss.commitment_weight) == (0.25, 1.0)
    assert (loss.l1_weight, loss.l2_weight, loss.perceptual_weight) == (1.0, 0.0, 1.0)
    assert loss.kl_weight == 1e-6 and loss.perceptual == "vgg16"
    assert math.isclose(stage.optimiser.learning_rate, 4.5e-6 * stage.batch_size)
    assert (stage.optimiser.b1, stage.optimiser.b2, stage.optimiser.weight_decay) == (0.5, 0.9, 0.0)


@pytest.mark.parametrize("name", FIRST_STAGE_SIZES)
def test_published_first_stages_have_their_number_of_parameters(name):
    stage = FIRST_STAGES[name]().autoencoder
    size = *first_stage_size(stage.network), discriminator_size(stage.discriminator)
    assert size == FIRST_STAGE_SIZES[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_sizes(name):
    experiment = PUBLISHED[name]()
    stage = experiment.diffusion
    side, channels, unet, tau, heads, beta_end, norm, scale_factor = MODELS[name]
    assert latents(experiment) == (side, channels)
    assert model_size(experiment) == (unet, tau)
    assert stage.unet.num_heads(stage.unet.channels * stage.unet.channel_mult[-1]) == heads
    assert (stage.schedule.beta_end, stage.loss_norm, stage.scale_factor) == (
        beta_end,
        norm,
        scale_factor,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", UNPUBLISHED)
def test_the_other_rows_have_their_sizes(name):
    experiment = UNPUBLISHED[name]()
    side, channels, millions = ANALYSIS[name]
    assert latents(experiment) == (side, channels)
    assert round(model_size(experiment)[0] / 1e6, 1) == millions


@pytest.mark.parametrize("name", TABLES_12_TO_15)
def test_batch_steps_and_rate_are_those_of_the_tables(name):
    stage = EXPERIMENTS[name]().diffusion
    batch, steps, rate = TABLES_12_TO_15[name]
    assert (stage.batch_size, stage.steps) == (batch, steps)
    assert math.isclose(stage.optimiser.learning_rate, rate)


@pytest.mark.parametrize("name", PUBLISHED | UNPUBLISHED)
def test_models_are_trained_and_sampled_as_the_paper_has_it(name):
    experiment = EXPERIMENTS[name]()
    stage, data = experiment.diffusion, experiment.data
    assert stage.condition != "auto" and stage.prediction == "eps" and stage.ema_decay == 0.9999
    assert stage.optimiser.weight_decay == 0.01 and stage.optimiser.clip_norm == 0
    assert (stage.drop_probability > 0) == (experiment.sampling.guidance != 1)
    # A mirror image would belie "left" and "right".
    assert not (stage.condition == "text" and data.flip)
    assert isinstance(data, TfdsConfig if "cin256" in name or "imagenet" in name else FolderConfig)


@pytest.mark.parametrize("name", PAPER)
def test_the_command_in_the_docstring_runs_it(name):
    doc = inspect.getdoc(PAPER[name])
    first_line, *_ = doc.splitlines()
    assert len(first_line) < 100 and first_line.endswith(".")
    [words] = re.findall(r"^    python train\.py (.+(?:\n        .+)*)", doc, re.MULTILINE)
    assert doc.endswith(words)  # it stands at the end
    trained, command = parse_command(words.replace("\\", " ").split())
    experiment, stage = command.experiment, command.stage
    assert trained == name and stage == ("autoencoder" if name in FIRST_STAGES else "both")
    borrowed = experiment.autoencoder.from_run
    if name in FIRST_STAGES or experiment.autoencoder.network.bottleneck == "none":
        assert not borrowed
    else:  # all of its first stage is in the experiment
        lender = FIRST_STAGES[borrowed.removeprefix("runs/")]()
        assert PAPER[name]().autoencoder == lender.autoencoder
