"""Each kind of condition has the encoder and the entry into the UNet that the paper gives it."""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from ldm_jax.conditioning.class_label import ClassEmbedder
from ldm_jax.conditioning.clip_text import ClipTextTransformer
from ldm_jax.conditioning.spatial import SpatialRescaler
from ldm_jax.conditioning.transformer import TransformerEncoder
from ldm_jax.diffusion.transformer import SpatialTransformer
from ldm_jax.diffusion.unet import UNetConfig
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.experiments.config import ConditionKind
from ldm_jax.model.conditioning import build_model, conditioning_spec
from ldm_jax.model.data_info import DataInfo
from ldm_jax.model.first_stage import FirstStage
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.parameters import abstract_module

C = 2  # channels of the latents of smoke; they are 16x16, of images of 32x32
Z_T = jax.ShapeDtypeStruct((2, 16, 16, C), jnp.float32)
WORDS = {"vocabulary": tuple("abcdef"), "caption_length": 5}
CLASSES = {"class_names": tuple("abc")}


def configured(bottleneck="kl", precision="float32", **diffusion):
    """smoke with fewer parts, and some fields changed."""
    smoke = EXPERIMENTS["smoke"]()
    first = smoke.autoencoder
    network = dataclasses.replace(first.network, bottleneck=bottleneck)
    loss = dataclasses.replace(first.loss, disc_weight=0.0)
    unet = UNetConfig(8, (1,), 1, attention_factors=(), head_channels=8, groups=4)
    return dataclasses.replace(
        smoke,
        precision=precision,
        autoencoder=dataclasses.replace(first, network=network, loss=loss),
        diffusion=dataclasses.replace(smoke.diffusion, unet=unet, **diffusion),
    )


def built(experiment, condition, channels=3, **info):
    """The model with shapes in place of arrays."""
    stage, first = experiment.diffusion, FirstStage(experiment.autoencoder, channels)
    spec = conditioning_spec(stage, DataInfo(channels, condition, **info), first)
    c, dtype = first.latent_channels, experiment.precision
    return abstract_module(lambda rngs: build_model(stage, spec, c, dtype, rngs))


def context_dims(model):
    """Widths of the tokens that the cross-attention of the UNet takes; {0} without any."""
    blocks = [m for _, m in nnx.iter_modules(model.unet) if isinstance(m, SpatialTransformer)]
    found = {
        module.kernel.shape[0]
        for block in blocks
        for path, module in nnx.iter_modules(block)
        if path[-2:] == ("cross_attention", "k")
    }
    return found or {0}


def y_of(dtype, *shape):
    return jax.ShapeDtypeStruct((2, *shape), dtype)


INT, FLOAT = jnp.int32, jnp.float32


@dataclasses.dataclass(frozen=True)
class Case:
    """A condition y, and what the model for it should be."""

    condition: ConditionKind
    y: jax.ShapeDtypeStruct | None
    tau: type | None = None
    entry: str = "cross-attention"
    channels: int = C  # into the UNet
    d_tau: int = 0
    classes: int = 0
    options: dict = dataclasses.field(default_factory=dict)
    info: dict = dataclasses.field(default_factory=dict)


BERT, CLIP = {"tokenizer": "bert"}, {"tokenizer": "clip"}
TIME = {"class_entry": "time"}
BESIDE = {"entry": "concatenation"}
CASES = {
    "none": Case("none", None),
    "class": Case("class", y_of(INT), ClassEmbedder, d_tau=16, info=CLASSES),
    "class with the time": Case(
        "class", y_of(INT), entry="time", classes=4, options=TIME, info=CLASSES
    ),
    "text": Case("text", y_of(INT, 5), TransformerEncoder, d_tau=16, info=WORDS),
    "text as BERT's": Case("text", y_of(INT, 77), TransformerEncoder, d_tau=16, options=BERT),
    "text by CLIP": Case("text", y_of(INT, 77), ClipTextTransformer, d_tau=768, options=CLIP),
    "layout": Case("layout", y_of(INT, 92), TransformerEncoder, d_tau=16),
    "semantic": Case(
        "semantic",
        y_of(FLOAT, 32, 32, 7),
        SpatialRescaler,
        channels=2 * C,
        info={"semantic_classes": 7},
        **BESIDE,
    ),
    "super-resolution": Case("super-resolution", y_of(FLOAT, 16, 16, 3), channels=C + 3, **BESIDE),
    "inpainting": Case("inpainting", y_of(FLOAT, 16, 16, C + 1), channels=2 * C + 1, **BESIDE),
    "image-embedding": Case("image-embedding", y_of(FLOAT, 1, 768), d_tau=768),
}


def test_every_condition_is_tried():
    assert {case.condition for case in CASES.values()} == set(typing.get_args(ConditionKind))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_condition_enters_as_it_should(case):
    model = built(configured(**case.options), case.condition, **case.info)
    assert (model.how, type(model.tau)) == (case.entry, case.tau or type(None))
    assert model.unet.conv_in.kernel.shape[2] == case.channels
    assert model.unet.conv_out.kernel.shape[3] == C
    assert context_dims(model) == {case.d_tau}
    label = model.unet.label
    assert (0 if label is None else label.num_embeddings) == case.classes
    t = jnp.arange(2)
    out = nnx.eval_shape(lambda model, z_t, y: model(z_t, t, y), model, Z_T, case.y)
    assert out.shape == Z_T.shape


@pytest.mark.parametrize("entry", ["cross-attention", "time"])
@pytest.mark.parametrize("drop_probability, embeddings", [(0.1, 4), (0.0, 3)])
def test_there_is_a_class_for_no_class_where_conditions_are_dropped(
    drop_probability, embeddings, entry
):
    experiment = configured(class_entry=entry, drop_probability=drop_probability)
    model = built(experiment, "class", **CLASSES)
    table = model.unet.label if entry == "time" else model.tau.embedding
    assert table.num_embeddings == embeddings
    model = LatentDiffusion(experiment, DataInfo(3, "class", **CLASSES))
    assert model.guidable == (drop_probability > 0)
    assert (model.sampler.null is not None) == (drop_probability > 0)


def test_the_encoders_have_the_sizes_of_what_they_read():
    words = built(configured(), "text", **WORDS).tau
    assert words.tok_emb.num_embeddings == 6 + 2  # padding, and a word it does not know
    assert words.pos_emb.num_embeddings == 5
    bert = built(configured(tokenizer="bert"), "text").tau
    assert (bert.tok_emb.num_embeddings, bert.pos_emb.num_embeddings) == (30_522, 77)
    layout = built(configured(), "layout").tau
    assert (layout.tok_emb.num_embeddings, layout.pos_emb.num_embeddings) == (8192, 92)
    semantic = built(configured(), "semantic", semantic_classes=7).tau
    assert semantic.stages == 1 and semantic.conv.kernel.shape == (1, 1, 7, C)


def test_without_a_first_stage_the_unet_works_on_the_channels_of_the_images():
    experiment = configured(bottleneck="none")
    for channels in (1, 3):
        assert FirstStage(experiment.autoencoder, channels).latent_channels == channels
        model = built(experiment, "none", channels)
        assert model.unet.conv_in.kernel.shape[2] == channels
        assert model.unet.conv_out.kernel.shape[3] == channels
        whole = LatentDiffusion(experiment, DataInfo(channels, "none"))
        assert whole.geometry().shape == (32, 32, channels)


@pytest.mark.parametrize("condition, info", [("class", CLASSES), ("text", WORDS)])
def test_unet_and_encoder_compute_in_the_type_of_the_experiment(condition, info):
    model = built(configured(precision="bfloat16"), condition, **info)
    y = CASES[condition].y
    tokens = nnx.eval_shape(lambda tau, y: tau(y), model.tau, y)
    assert tokens.dtype == model.unet.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}


def test_a_condition_that_nobody_knows_is_a_mistake_of_ours():
    with pytest.raises(ValueError, match="smell"):
        built(configured(), "smell")
