"""Files into parameters and back: bit for bit, averages first, one clear line when it fails."""

import re
from dataclasses import replace

import jax
import numpy as np
import pytest

from ldm_jax.autoencoder.discriminator import Discriminator, DiscriminatorConfig
from ldm_jax.autoencoder.network import Autoencoder, AutoencoderConfig
from ldm_jax.conditioning.class_label import ClassEmbedder
from ldm_jax.conditioning.clip_text import ClipTextConfig, ClipTextTransformer
from ldm_jax.conditioning.spatial import SpatialRescaler
from ldm_jax.conditioning.transformer import TransformerConfig, TransformerEncoder
from ldm_jax.diffusion.classifier import NoisyLatentClassifier
from ldm_jax.diffusion.unet import UNet, UNetConfig
from ldm_jax.errors import UserError
from ldm_jax.pretrained import names
from ldm_jax.pretrained.array_layout import ArrayLayout
from ldm_jax.pretrained.convert import (
    Part,
    check_keys,
    read_weights,
    write_compvis,
    write_diffusers,
)

SMALL = {"channels": 8, "channel_mult": (1, 2), "num_res_blocks": 1, "groups": 4}
UNET = UNetConfig(**SMALL, attention_factors=(2,), head_channels=4)
VQ = AutoencoderConfig(**SMALL, bottleneck="vq", codebook_size=16)
CRITIC = DiscriminatorConfig(channels=4, layers=2)
BERT = TransformerConfig(dim=6, depth=2, heads=2)
CLIP = ClipTextConfig(dim=8, depth=2, heads=2, vocabulary=9, length=5)


@pytest.fixture(scope="module")
def part(abstract):
    """(name, rows, prefix, component, module and its arguments) -> Part."""
    return lambda name, rows, prefix, component, *args: Part(
        name, rows, abstract(*args)[1], prefix, component
    )


@pytest.fixture(scope="module")
def unet(part):
    rows = names.unet_rows(UNET, cross_attention=False)
    return part("unet", rows, "model.diffusion_model.", "unet", UNet, UNET, 3, 3)


@pytest.fixture(scope="module")
def first_stage(part):
    rows = names.autoencoder_rows(VQ)
    return part("autoencoder", rows, "first_stage_model.", "vae", Autoencoder, VQ, 3)


@pytest.fixture(scope="module")
def ldm(unet, first_stage):
    """The parts of a latent diffusion model."""
    return [unet, first_stage]


def drawn_like(part, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), part.shapes)


def pipeline(folders):
    """Folder -> name -> array, as the names of a whole pipeline."""
    return {f"{f}/{name}": a for f, arrays in folders.items() for name, a in arrays.items()}


def shapes(arrays):
    return {name: np.shape(array) for name, array in arrays.items()}


def assert_equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), ours, theirs)


@pytest.fixture(scope="module")
def arrays(ldm):
    """The state dict of a file."""
    return write_compvis({p.name: drawn_like(p, i) for i, p in enumerate(ldm)}, ldm)


def test_there_and_back_gives_the_same_bits(part, ldm):
    cross, labels = UNetConfig(**SMALL, heads=2, transformer_depth=2), UNetConfig(**SMALL, heads=2)
    parts = [
        *ldm,
        part("cross", names.unet_rows(cross, cross_attention=True), "a.", "",
             UNet, cross, 3, 3, 5),
        part("labels", names.unet_rows(labels, cross_attention=False, class_labels=True,
             grouped_qkv=True), "b.", "", UNet, labels, 3, 3, 0, 7),
        part("classifier", names.classifier_rows(UNET, "attention"), "c.", "",
             NoisyLatentClassifier, UNET, 3, 7, "attention", 4),
        part("discriminator", names.discriminator_rows(CRITIC), "loss.discriminator.", "",
             Discriminator, CRITIC, 3),
        part("class", names.class_embedder_rows(), "d.", "", ClassEmbedder, 7, 5),
        part("bert", names.transformer_rows(BERT), "e.", "", TransformerEncoder, BERT, 9, 5),
        part("clip", names.clip_text_rows(2), "f.", "", ClipTextTransformer, CLIP),
        part("rescaler", names.rescaler_rows(), "g.", "", SpatialRescaler, 1, 5, 3),
    ]  # fmt: skip
    params = {p.name: drawn_like(p, i) for i, p in enumerate(parts)}
    read, report = read_weights(write_compvis(params, parts), parts)
    assert_equal(read, params)
    assert not report.unused
    assert sum(report.parameters.values()) == sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("groups, order", [(2, "head q, k, v, head"), (1, "q, k, v")])
def test_fused_q_k_v_are_grouped(groups, order):
    """The value of a channel is its number; there are two heads of two channels each."""
    expected = {2: [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]],
                1: [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]}  # fmt: skip
    layout = ArrayLayout(transposed=True, ones=1, qkv_groups=groups)
    array = np.arange(12)[:, None, None] * np.ones((1, 5, 1), int)
    qkv = layout.read(array)
    assert [part.shape for part in qkv] == [(5, 4)] * 3
    assert [part[0].tolist() for part in qkv] == expected[groups]
    np.testing.assert_array_equal(layout.write(qkv), array, strict=True)
    assert layout.shape([(5, 4)] * 3) == array.shape
    bias = ArrayLayout(qkv_groups=groups).read(np.arange(12))
    assert [part.tolist() for part in bias] == expected[groups]


def test_averaged_weights_are_preferred(ldm, unet):
    raw, average = ({p.name: drawn_like(p, seed) for p in ldm} for seed in (1, 2))
    buffers = {"model_ema.decay": np.float32(0.9999), "model_ema.num_updates": np.int32(5)}
    arrays = write_compvis(raw, ldm, ema=average, buffers=buffers)
    assert "model_ema.diffusion_modeltime_embed0weight" in arrays
    assert not any("first_stage" in name for name in arrays if name.startswith("model_ema"))
    params, report = read_weights(arrays, ldm)
    assert_equal(params, {"unet": average["unet"], "autoencoder": raw["autoencoder"]})
    count = len(unet.rows)
    assert {what: len(names) for what, names in report.unused.items()} == {
        "weights whose average is used": count,
        "settings of the weight average (EMA)": 2,
    }
    params, report = read_weights(arrays, ldm, ema=False)
    assert_equal(params, raw)
    assert len(report.unused["average of weights that are used without averaging"]) == count
    del arrays["model_ema.diffusion_modelout2bias"]
    assert check_keys(shapes(arrays), ldm).missing == ("model_ema.diffusion_modelout2bias",)


# Names of a first stage in files of other programs: (name, array) -> the same
RENAMED = {
    "first_stage_model.": lambda name, array: (f"first_stage_model.{name}", array),
    "module.": lambda name, array: (f"module.{name}", array),
    "_orig_mod.": lambda name, array: (f"_orig_mod.{name}", array),
    "in the middle": lambda name, array: (name.replace("coder.", "coder._orig_mod."), array),
    "several": lambda name, array: (f"state_dict.module.vae.{name}", array),
    "2-D": lambda name, array: (name, np.squeeze(array) if "attn" in name else array),
}


@pytest.fixture(scope="module")
def alone(part):
    """The part of a first stage's own file."""
    return part("autoencoder", names.autoencoder_rows(VQ), "", "vqvae", Autoencoder, VQ, 3)


@pytest.mark.parametrize("kind", RENAMED)
def test_a_first_stage_under_any_prefix(alone, kind):
    params = {"autoencoder": drawn_like(alone)}
    arrays = write_compvis(params, [alone])
    renamed = dict(RENAMED[kind](name, array) for name, array in arrays.items())
    assert_equal(read_weights(renamed, [alone])[0], params)
    del renamed[next(name for name in renamed if name.endswith("conv_out.bias"))]
    assert "1 array missing" in check_keys(shapes(renamed), [alone]).problem


def test_a_first_stage_out_of_a_whole_file(alone, ldm, arrays):
    params, report = read_weights(arrays | {"betas": np.ones(5)}, [alone])
    assert_equal(params["autoencoder"], drawn_like(ldm[1], 1))
    assert len(report.unused["other networks of the file"]) == len(ldm[0].rows)
    in_a_pipeline = {name.replace("first_stage_model.", "vae/"): a for name, a in arrays.items()}
    assert_equal(read_weights(in_a_pipeline, [alone])[0], params)


def test_the_average_of_a_first_stage(alone):
    raw, average = ({"autoencoder": drawn_like(alone, seed)} for seed in (1, 2))
    averages = write_compvis(average, [alone])
    without_dots = {f"model_ema.{name.replace('.', '')}": a for name, a in averages.items()}
    in_entries = {f"ema.{name}": array for name, array in averages.items()}
    for second, first in ((without_dots, ""), (in_entries, "model.")):
        arrays = {first + name: a for name, a in write_compvis(raw, [alone]).items()} | second
        arrays["model_ema.decay"] = np.float32(0.99)
        assert_equal(read_weights(arrays, [alone])[0], average)
        assert_equal(read_weights(arrays, [alone], ema=False)[0], raw)


def test_single_files_in_the_names_of_diffusers(lists, golden_weight, ldm, alone):
    unet, vae = diffusers(lists, golden_weight, "unet", "vq")
    expected, _ = read_weights(pipeline({"unet": unet, "vae": vae}), ldm)
    dotted = {name.replace("/", "."): a for name, a in pipeline({"unet": unet, "vae": vae}).items()}
    assert_equal(read_weights(dotted, ldm)[0], expected)
    assert_equal(read_weights(vae, [alone])[0]["autoencoder"], expected["autoencoder"])


def test_written_for_diffusers_and_read_back(ldm, part):
    tau = part("tau", names.class_embedder_rows(), "cond_stage_model.", "", ClassEmbedder, 7, 5)
    parts = [*ldm, tau]
    params = {p.name: drawn_like(p, i) for i, p in enumerate(parts)}
    folders = write_diffusers(params, parts)
    assert set(folders) == {"unet", "vae", "tau"}
    assert "mid_block.attentions.0.to_q.weight" in folders["unet"]
    assert_equal(read_weights(pipeline(folders), parts)[0], params)


@pytest.mark.parametrize(
    "name, what",
    [
        ("lora_unet_down_blocks_0_attentions_0.lora_up.weight", "a LoRA"),
        ("unet.mid_block.attentions.0.to_q.lora.down.weight", "a LoRA"),
        ("conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", "Diffusion XL"),
        ("cond_stage_model.model.transformer.resblocks.0.ln_1.bias", "Stable Diffusion 2"),
        ("control_model.time_embed.0.bias", "a ControlNet"),
        ("string_to_param.*", "textual inversion"),
        ("joint_blocks.0.x_block.attn.qkv.weight", "a transformer"),
    ],
)
def test_what_is_no_model_of_ldm_jax_is_named(ldm, name, what):
    problem = check_keys({name: (3,)}, ldm).problem
    assert f"the file seems to hold {what}" in problem or f" ({what}" in problem or what in problem


def test_what_is_known_and_not_needed_is_told_apart(ldm, arrays):
    extra = [
        "betas", "alphas_cumprod_prev", "sqrt_one_minus_alphas_cumprod", "posterior_mean_coef2",
        "log_one_minus_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "logvar", "loss.logvar",
        "posterior_log_variance_clipped", "loss.discriminator.main.3.running_var",
        "loss.discriminator.main.3.num_batches_tracked", "loss.discriminator.main.0.weight",
        "loss.perceptual_loss.lin0.model.1.weight",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
        "cond_stage_model.transformer.to_logits.bias",
        *(f"cond_stage_model.{row.compvis}" for row in ldm[1].rows),
    ]  # fmt: skip
    report = check_keys(shapes(arrays) | {name: (3,) for name in extra}, ldm)
    assert report.problem is None
    assert sorted(name for names in report.unused.values() for name in names) == sorted(extra)
    assert "second copy of the first stage" in report.unused
    strange = {"cond_stage_model.strange": (3,), "alphas": (3,), "xbetas": (3,)}
    assert check_keys(shapes(arrays) | strange, ldm).unknown == tuple(strange)


def test_half_precision_becomes_float32_copies(ldm, arrays):
    half = {name: array.astype(np.float16) for name, array in arrays.items()}
    params, _ = read_weights(half, ldm)
    leaves = jax.tree.leaves(params)
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}
    for leaf in jax.tree.leaves(read_weights(arrays, ldm)[0]):
        assert leaf.flags.c_contiguous and leaf.flags.owndata


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(ldm, arrays, value):
    """Where half precision has made infinity of a large number, too; but only what is needed."""
    bias = "model.diffusion_model.out.2.bias"
    damaged = arrays | {bias: np.full_like(arrays[bias], value, np.float16)}
    damaged["loss.logvar"] = np.full((), np.nan)
    with pytest.raises(
        UserError, match=f"^{re.escape(bias)} holds NaN or infinity, 3 of 3 numbers"
    ):
        read_weights(damaged, ldm)


def test_a_part_that_may_be_absent(ldm, arrays, part):
    args = names.discriminator_rows(CRITIC), "loss.discriminator.", "", Discriminator, CRITIC
    critic = part("discriminator", *args, 3)
    problem = "10 arrays missing (loss.discriminator.main.0.weight, "
    with pytest.raises(UserError, match=re.escape(problem)):
        read_weights(arrays, [*ldm, critic])
    critic = replace(critic, optional=True)
    assert set(read_weights(arrays, [*ldm, critic])[0]) == {"unet", "autoencoder"}
    both = [*ldm, critic]
    whole = write_compvis({p.name: drawn_like(p) for p in both}, both)
    assert set(read_weights(whole, both)[0]) == {"unet", "autoencoder", "discriminator"}
    del whole["loss.discriminator.main.0.bias"]
    assert check_keys(shapes(whole), both).missing == ("loss.discriminator.main.0.bias",)


def complaint(arrays, parts):
    """The one line about arrays that do not fit; they are shapes only, so none was converted."""
    with pytest.raises(UserError) as error:
        read_weights(
            {k: jax.ShapeDtypeStruct(np.shape(a), np.float32) for k, a in arrays.items()}, parts
        )
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_that_does_not_fit_is_one_line(ldm, arrays):
    prefix = "the weights do not fit: "
    seems = (
        "; the file seems to hold a UNet with 3 inputs, 8 channels and no cross-attention and a "
        "first stage with f = 2, 3 latent channels, VQ, 16 codes"
    )
    bias = "model.diffusion_model.out.2.bias"
    less = {name: array for name, array in arrays.items() if name != bias}
    assert complaint(less, ldm) == f"{prefix}1 array missing ({bias}){seems}"
    wrong = f"{prefix}1 array of another shape ({bias} is 4, not 3){seems}"
    assert complaint(less | {bias: np.ones(4)}, ldm) == wrong
    more = arrays | {f"model.extra.{i}": np.ones(1) for i in range(3)}
    unknown = "3 arrays unknown (model.extra.0, model.extra.1, ...)"
    assert complaint(more, ldm) == f"{prefix}{unknown}{seems}"
    assert complaint({"weight": np.ones(3)}, ldm).endswith("; 1 array unknown (weight)")


def test_the_published_files_do_not_fit_each_other(lists, ldm):
    line = complaint({k: np.empty(s) for k, s in lists["golden"]["ae_kl"].items()}, ldm)
    assert line.endswith("the file seems to hold a first stage with f = 4, 4 latent channels, KL")
    keys = lists["published"]["cin256-v2"]
    assert "192 channels and cross-attention to 512" in check_keys(keys, ldm).problem


def test_the_summary_is_for_people(ldm, arrays):
    report = check_keys(shapes(arrays) | {"betas": (1000,)}, ldm)
    assert report.summary().splitlines() == [
        "unet: 45,259 parameters in 128 arrays",
        "autoencoder: 42,822 parameters in 125 arrays",
        "not needed: 1 array: noise schedule",
    ]
    lines = check_keys({"betas": (1000,), "encoder.conv_in.weight": (8, 3, 3, 3)}, ldm).summary()
    assert lines.splitlines()[:2] == [
        "autoencoder: 216 parameters in 1 array",
        "not needed: 1 array: noise schedule",
    ]
    assert lines.splitlines()[2].startswith("252 arrays missing (model.diffusion_model.time_embed.")


def diffusers(lists, golden_weight, *cases):
    return [{k: golden_weight(k, s) for k, s in lists["diffusers"][case].items()} for case in cases]


def test_the_names_of_older_diffusers_are_accepted(lists, golden_weight, ldm):
    unet, vae = diffusers(lists, golden_weight, "unet", "vq")
    params, _ = read_weights(pipeline({"unet": unet, "vae": vae}), ldm)
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(name, array):
        for new, old in older.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        return name, array[..., None, None] if "attentions" in name and array.ndim == 2 else array

    folders = {
        k: dict(rename(*item) for item in a.items()) for k, a in (("unet", unet), ("vae", vae))
    }
    assert any("query" in name for name in folders["vae"])
    assert_equal(read_weights(pipeline(folders), ldm)[0], params)


def test_clip_is_read_with_and_without_the_prefix(lists, golden_weight, part):
    config = ClipTextConfig(dim=16, depth=2, heads=2, vocabulary=50, length=9)
    rows = names.clip_text_rows(2)
    tau = part("tau", rows, "cond_stage_model.", "text_encoder", ClipTextTransformer, config)
    (clip,) = diffusers(lists, golden_weight, "clip")
    bare, _ = read_weights(pipeline({"text_encoder": clip}), [tau])
    named = {f"text_model.{name}": array for name, array in clip.items()}
    named["text_model.embeddings.position_ids"] = np.arange(9)
    prefixed, report = read_weights(pipeline({"text_encoder": named}), [tau])
    assert_equal(bare, prefixed)
    assert report.used["tau"][0] == "text_encoder/text_model.embeddings.token_embedding.weight"
    assert sum(map(len, report.unused.values())) == 1


def test_what_diffusers_does_not_have_is_one_line(lists, golden_weight, ldm, part):
    unet, vae = diffusers(lists, golden_weight, "unet", "vq")
    folders = {"unet": unet, "vae": vae}
    tau = part("tau", names.class_embedder_rows(), "cond_stage_model.", "", ClassEmbedder, 7, 5)
    with pytest.raises(UserError, match=r"1 array missing \(cond_stage_model.embedding.weight\)"):
        read_weights(pipeline(folders), [*ldm, tau])
    params, _ = read_weights(pipeline(folders), [*ldm, replace(tau, optional=True)])
    assert set(params) == {"unet", "autoencoder"}
    del unet["conv_in.bias"]
    with pytest.raises(UserError, match=r"1 array missing \(unet/conv_in.bias\); the file seems"):
        read_weights(pipeline(folders), ldm)
