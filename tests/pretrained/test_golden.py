"""Small networks with the reference's and diffusers' weights, converted: the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldm_jax.autoencoder.discriminator import Discriminator, DiscriminatorConfig
from ldm_jax.autoencoder.kl import split_moments
from ldm_jax.autoencoder.network import Autoencoder, AutoencoderConfig
from ldm_jax.conditioning.clip_text import ClipTextConfig, ClipTextTransformer
from ldm_jax.conditioning.spatial import SpatialRescaler
from ldm_jax.conditioning.transformer import TransformerConfig, TransformerEncoder
from ldm_jax.diffusion.classifier import NoisyLatentClassifier
from ldm_jax.diffusion.unet import UNet, UNetConfig
from ldm_jax.pretrained import names
from ldm_jax.pretrained.convert import Part, read_weights, write_compvis

LEVELS_2 = {"channels": 32, "channel_mult": (1, 2)}
HEADS_4 = {**LEVELS_2, "attention_factors": (1, 2), "heads": 4}
# case -> (sizes, channels in and out, d_tau, classes, all q before all k before all v)
UNETS = {
    "unet_attn_legacy": (
        UNetConfig(
            channels=32, channel_mult=(1, 2, 2), attention_factors=(2, 4), head_channels=16
        ),
        (3, 3), 0, 0, False,
    ),
    "unet_attn_numheads": (UNetConfig(**HEADS_4), (3, 3), 0, 0, False),
    "unet_neworder": (UNetConfig(**HEADS_4), (3, 3), 0, 0, True),
    "unet_updown_ssn": (
        UNetConfig(**HEADS_4, scale_shift=True, resample_in_res_blocks=True),
        (4, 4), 0, 0, False,
    ),
    "unet_updown": (
        UNetConfig(**LEVELS_2, attention_factors=(2,), heads=4, resample_in_res_blocks=True),
        (7, 3), 0, 0, False,
    ),
    "unet_xattn_legacy": (
        UNetConfig(
            **LEVELS_2, attention_factors=(1, 2), head_channels=16, transformer_depth=2
        ),
        (4, 4), 24, 0, False,
    ),
    "unet_xattn_nolegacy": (UNetConfig(**HEADS_4), (4, 4), 24, 0, False),
    "unet_classlabel": (
        UNetConfig(**LEVELS_2, attention_factors=(2,), heads=2), (3, 3), 0, 10, False
    ),
}  # fmt: skip
CLASSIFIER = UNetConfig(
    channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_factors=(2,), head_channels=16
)
KL = AutoencoderConfig(channels=32, channel_mult=(1, 2, 2), attention_factors=(2,), z_channels=4)
VQ = AutoencoderConfig(
    channels=32, channel_mult=(1, 2), num_res_blocks=1, mid_attention=False, bottleneck="vq"
)
CRITIC = DiscriminatorConfig(channels=16)
BERT = TransformerConfig(dim=32, depth=2)
# Those of diffusers. Its attention blocks have `head_channels`, its transformers `heads`.
SMALL = {"channels": 8, "channel_mult": (1, 2), "num_res_blocks": 1, "groups": 4}
SMALL_KL = AutoencoderConfig(**SMALL, attention_factors=(2,))
SMALL_VQ = AutoencoderConfig(**SMALL, bottleneck="vq", codebook_size=16)
SMALL_UNETS = {  # case -> (sizes, channels, d_tau, classes)
    "unet": (UNetConfig(**SMALL, attention_factors=(2,), head_channels=4), 3, 0, 0),
    "unet_updown": (
        UNetConfig(
            **SMALL,
            attention_factors=(1, 2),
            head_channels=4,
            scale_shift=True,
            resample_in_res_blocks=True,
        ),
        3,
        0,
        5,
    ),
    "unet_condition": (UNetConfig(**SMALL, attention_factors=(1,), heads=2), 4, 6, 0),
}


def nhwc(a):
    return a.transpose(0, 2, 3, 1) if a.ndim == 4 else a


def apart(ours, theirs):
    """Distance relative to theirs, which is in torch's layout."""
    theirs = nhwc(theirs)
    assert ours.shape == theirs.shape
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@pytest.fixture(scope="module")
def converted(abstract, lists, golden_weight):
    """(kind, case, rows, module and its arguments) -> (graph, parameters), by the table.

    What is not in the list is given as `more`. CompVis arrays come back bit for bit.
    """

    def convert(kind, case, rows, *args, more=None, **kwargs):
        graph, shapes = abstract(*args, **kwargs)
        part = Part("it", rows, shapes, component="folder")
        keys = lists[kind][case]
        arrays = {key: golden_weight(key, shape) for key, shape in keys.items()} | (more or {})
        if kind == "diffusers":
            params, report = read_weights({f"folder/{n}": a for n, a in arrays.items()}, [part])
            return graph, params["it"]
        params, report = read_weights(arrays, [part])
        back = write_compvis(params, [part])
        assert set(back) == set(report.used["it"])
        for key, array in back.items():
            np.testing.assert_array_equal(array, arrays[key], strict=True)
        return graph, params["it"]

    return convert


def run(graph, params, *args, call=lambda model, *args: model(*args)):
    """The network's output, compiled."""
    return jax.jit(lambda params, *args: call(nnx.merge(graph, params), *args))(params, *args)


@pytest.mark.parametrize("case", UNETS)
def test_unets_equal_the_reference(case, converted, numbers):
    config, channels, d_tau, classes, grouped = UNETS[case]
    rows = names.unet_rows(
        config, cross_attention=d_tau > 0, class_labels=classes > 0, grouped_qkv=grouped
    )
    network = converted("golden", case, rows, UNet, config, *channels, d_tau, classes)
    inputs = [numbers.get(f"{case}/in_{name}") for name in ("x", "t", "context", "y")]
    eps = run(*network, nhwc(inputs[0]), *inputs[1:])
    assert apart(eps, numbers[f"{case}/out_eps"]) < 1e-4


@pytest.mark.parametrize("case, pool", [("adaptive", "mean"), ("attention", "attention")])
def test_classifiers_equal_the_reference(case, pool, converted, numbers):
    case, rows = f"classifier_{case}", names.classifier_rows(CLASSIFIER, pool)
    network = converted("golden", case, rows, NoisyLatentClassifier, CLASSIFIER, 3, 10, pool, 16)
    logits = run(*network, nhwc(numbers[f"{case}/in_x"]), numbers[f"{case}/in_t"])
    assert apart(logits, numbers[f"{case}/out_logits"]) < 1e-4


def test_kl_autoencoder_equals_the_reference(converted, numbers):
    # In float64: with these weights the decoder amplifies rounding 40 times, so that two float32
    # programs, ours and the reference's, would differ by as much as the tolerance.
    with jax.enable_x64(True):
        rows = names.autoencoder_rows(KL)
        network = converted("golden", "ae_kl", rows, Autoencoder, KL, 3, dtype=jnp.float64)
        moments, x_hat = run(*network, nhwc(numbers["ae_kl/in_x"]), call=through_mean)
    assert apart(moments, numbers["ae_kl/out_moments"]) < 1e-4
    assert apart(x_hat, numbers["ae_kl/out_rec_from_mean"]) < 1e-4


def through_mean(model, x):
    moments = model.encode(x)
    return moments, model.decode(split_moments(moments)[0])


def test_vq_autoencoder_without_attention_equals_the_reference(converted, numbers):
    """Its convolutions: the numbers are those of z that is not quantised."""

    def around_the_codebook(model, x):
        z = model.encode(x)
        return z, model.decoder.conv_out(model.decode_features(z))

    codebook = {"quantize.embedding.weight": np.ones((8192, 3), np.float32)}
    rows = names.autoencoder_rows(VQ)
    network = converted("golden", "ae_vq_noattn", rows, Autoencoder, VQ, 3, more=codebook)
    z, x_hat = run(*network, nhwc(numbers["ae_vq_noattn/in_x"]), call=around_the_codebook)
    assert apart(z, numbers["ae_vq_noattn/out_moments"]) < 1e-4
    assert apart(x_hat, numbers["ae_vq_noattn/out_rec_from_mean"]) < 1e-4


def test_discriminator_equals_the_reference(converted, numbers):
    """In training mode: batch statistics, as every judgement of the discriminator is."""
    rows = names.discriminator_rows(CRITIC)
    network = converted("golden", "disc", rows, Discriminator, CRITIC, 3)
    assert apart(run(*network, nhwc(numbers["disc/in_x"])), numbers["disc/out_train"]) < 1e-4


def test_text_transformer_equals_the_reference(converted, numbers):
    rows = names.transformer_rows(BERT)
    network = converted("golden", "bert", rows, TransformerEncoder, BERT, 50, 9)
    assert apart(run(*network, numbers["bert/in_tok"]), numbers["bert/out_z"]) < 1e-4


def test_rescaler_equals_the_reference(converted, numbers):
    rows = names.rescaler_rows()
    network = converted("golden", "spatial_rescaler", rows, SpatialRescaler, 2, 5, 3)
    y = run(*network, nhwc(numbers["spatial_rescaler/in_x"]))
    assert apart(y, numbers["spatial_rescaler/out_y"]) < 1e-4


@pytest.mark.parametrize("case", SMALL_UNETS)
def test_unets_equal_diffusers(case, converted, numbers):
    config, c, d_tau, classes = SMALL_UNETS[case]
    rows = names.unet_rows(config, cross_attention=d_tau > 0, class_labels=classes > 0)
    network = converted("diffusers", case, rows, UNet, config, c, c, d_tau, classes)
    case = f"diffusers_{case}"
    inputs = [numbers.get(f"{case}/in_{name}") for name in ("x", "t", "context", "y")]
    eps = run(*network, nhwc(inputs[0]), *inputs[1:])
    assert apart(eps, numbers[f"{case}/out_eps"]) < 1e-4


def test_kl_autoencoder_equals_diffusers(converted, numbers):
    rows = names.autoencoder_rows(SMALL_KL)
    network = converted("diffusers", "kl", rows, Autoencoder, SMALL_KL, 3)
    moments, x_hat = run(*network, nhwc(numbers["diffusers_kl/in_x"]), call=through_mean)
    assert apart(moments, numbers["diffusers_kl/out_moments"]) < 1e-4
    assert apart(x_hat, numbers["diffusers_kl/out_rec"]) < 1e-4


def test_vq_autoencoder_equals_diffusers(converted, numbers):
    def through_the_codebook(model, x):
        z = model.encode(x)
        return z, model.decode(z)

    rows = names.autoencoder_rows(SMALL_VQ)
    network = converted("diffusers", "vq", rows, Autoencoder, SMALL_VQ, 3)
    z, x_hat = run(*network, nhwc(numbers["diffusers_vq/in_x"]), call=through_the_codebook)
    assert apart(z, numbers["diffusers_vq/out_z"]) < 1e-4
    assert apart(x_hat, numbers["diffusers_vq/out_rec"]) < 1e-4


def test_text_encoders_equal_diffusers_and_transformers(converted, numbers):
    bert = TransformerConfig(dim=16, depth=2, heads=2)
    rows = names.transformer_rows(bert)
    network = converted("diffusers", "bert", rows, TransformerEncoder, bert, 50, 9)
    z = run(*network, numbers["diffusers_bert/in_tok"])
    assert apart(z, numbers["diffusers_bert/out_z"]) < 1e-4
    clip = ClipTextConfig(dim=16, depth=2, heads=2, vocabulary=50, length=9)
    rows = names.clip_text_rows(clip.depth)
    network = converted("diffusers", "clip", rows, ClipTextTransformer, clip)
    z = run(*network, numbers["diffusers_clip/in_tok"])
    assert apart(z, numbers["diffusers_clip/out_z"]) < 1e-4
