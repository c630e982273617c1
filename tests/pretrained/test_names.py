"""The table of names against the state dicts of every published model, both ways."""

import jax
import pytest

from ldm_jax.autoencoder.discriminator import Discriminator, DiscriminatorConfig
from ldm_jax.autoencoder.network import Autoencoder, AutoencoderConfig
from ldm_jax.conditioning.class_label import ClassEmbedder
from ldm_jax.conditioning.clip_text import ClipTextConfig, ClipTextTransformer
from ldm_jax.conditioning.spatial import SpatialRescaler
from ldm_jax.conditioning.transformer import TransformerConfig, TransformerEncoder
from ldm_jax.diffusion.unet import UNet, UNetConfig
from ldm_jax.pretrained import names
from ldm_jax.pretrained.convert import Part, check_keys

VQ_F4 = AutoencoderConfig(bottleneck="vq")
FIRST_STAGES = {  # name -> (sizes, parameters)
    "kl-f4": (AutoencoderConfig(), 55_312_063),
    "kl-f8": (AutoencoderConfig(channel_mult=(1, 2, 4, 4), z_channels=4), 83_653_863),
    "kl-f16": (
        AutoencoderConfig(channel_mult=(1, 1, 2, 2, 4), z_channels=16, attention_factors=(16,)),
        69_610_963,
    ),
    "kl-f32": (
        AutoencoderConfig(
            channel_mult=(1, 1, 2, 2, 4, 4), z_channels=64, attention_factors=(16, 32)
        ),
        103_880_131,
    ),
    "vq-f4": (VQ_F4, 55_322_782),
    "vq-f4-noattn": (AutoencoderConfig(bottleneck="vq", mid_attention=False), 53_219_486),
    "vq-f8": (
        AutoencoderConfig(
            channel_mult=(1, 2, 2, 4),
            z_channels=4,
            attention_factors=(8,),
            bottleneck="vq",
            codebook_size=16_384,
        ),
        67_717_295,
    ),
    "vq-f16": (
        AutoencoderConfig(
            channel_mult=(1, 1, 2, 2, 4),
            z_channels=8,
            attention_factors=(16,),
            bottleneck="vq",
            codebook_size=16_384,
        ),
        69_593_371,
    ),
}
DISCRIMINATORS = {2: 663_361, 3: 2_765_633}  # layers -> parameters
FACES = UNetConfig(channels=224, channel_mult=(1, 2, 3, 4))
TEXT = UNetConfig(channels=320, channel_mult=(1, 2, 4, 4), attention_factors=(1, 2, 4), heads=8)
# name -> (sizes, channels in, channels out, d_tau), parameters, first stage, parameters of tau
MODELS = {
    "celeba256": ((FACES, 3, 3, 0), 274_056_163, "vq-f4", 0),
    "ffhq256": ((FACES, 3, 3, 0), 274_056_163, "vq-f4", 0),
    "lsun_churches256": (
        (
            UNetConfig(
                channels=192,
                channel_mult=(1, 2, 2, 4, 4),
                attention_factors=(1, 2, 4, 8),
                heads=8,
                scale_shift=True,
                resample_in_res_blocks=True,
            ),
            4,
            4,
            0,
        ),
        294_966_916,
        "kl-f8",
        0,
    ),
    "cin256": (
        (UNetConfig(channels=256, channel_mult=(1, 2, 4), attention_factors=(1, 2, 4)), 4, 4, 512),
        394_984_196,
        "vq-f8",
        512_000,
    ),
    "cin256-v2": ((UNetConfig(heads=1), 3, 3, 512), 400_920_579, "vq-f4", 512_512),
    # tau without its output layer over the vocabulary
    "text2img256": ((UNetConfig(), 3, 3, 640), 403_623_939, "vq-f4", 166_590_080),
    "txt2img-1p4B": ((TEXT, 4, 4, 1280), 872_300_484, "kl-f8", 542_895_360),
    "layout2img-openimages256": (
        (UNetConfig(channels=128, channel_mult=(1, 2, 3, 4), transformer_depth=3), 3, 3, 512),
        246_277_379,
        "vq-f4",
        54_656_000,
    ),
    "semantic_synthesis256": (
        (
            UNetConfig(
                channels=128, channel_mult=(1, 4, 8), attention_factors=(8, 16, 32), heads=8
            ),
            6,
            3,
            0,
        ),
        215_229_315,
        "vq-f4",
        546,
    ),
    "bsr_sr": (
        (
            UNetConfig(channels=160, channel_mult=(1, 2, 2, 4), attention_factors=(8, 16)),
            6,
            3,
            0,
        ),
        113_622_563,
        "vq-f4",
        0,
    ),
    "inpainting_big": (
        (
            UNetConfig(
                channels=256, channel_mult=(1, 2, 3, 4), heads=8, resample_in_res_blocks=True
            ),
            7,
            3,
            0,
        ),
        387_245_827,
        "vq-f4-noattn",
        0,
    ),
    "stable-diffusion-v1": ((TEXT, 4, 4, 768), 859_520_964, "kl-f8", 123_060_480),
}


def bert(dim, depth, vocabulary, length):
    config = TransformerConfig(dim=dim, depth=depth)
    return names.transformer_rows(config), (TransformerEncoder, config, vocabulary, length)


# name -> (rows, the module and its arguments)
TAUS = {
    "cin256": (names.class_embedder_rows(), (ClassEmbedder, 1000, 512)),
    "cin256-v2": (names.class_embedder_rows(), (ClassEmbedder, 1001, 512)),
    "text2img256": bert(640, 32, 30_522, 77),
    "txt2img-1p4B": bert(1280, 32, 30_522, 77),
    "layout2img-openimages256": bert(512, 16, 8192, 92),
    "semantic_synthesis256": (names.rescaler_rows(), (SpatialRescaler, 2, 182, 3)),
    "stable-diffusion-v1": (names.clip_text_rows(12), (ClipTextTransformer, ClipTextConfig())),
}


@pytest.fixture(scope="module")
def part(abstract):
    """(name, rows, prefix, module and its arguments) -> Part."""
    return lambda name, rows, prefix, *args: Part(name, rows, abstract(*args)[1], prefix)


def fits(keys, parts, parameters):
    """Every parameter has one array of its shape, every array is used once or explained."""
    report = check_keys(keys, parts)
    assert report.problem is None
    assert report.parameters == parameters
    for p in parts:
        assert report.parameters[p.name] == sum(leaf.size for leaf in jax.tree.leaves(p.shapes))
        assert len(report.used[p.name]) == len(p.rows)
    told = [
        name for group in (report.used, report.unused) for names in group.values() for name in names
    ]
    assert sorted(told) == sorted(keys)
    return report


@pytest.mark.parametrize("name", FIRST_STAGES)
def test_first_stages_map_one_to_one(name, lists, part):
    config, parameters = FIRST_STAGES[name]
    layers = 2 if name in ("vq-f8", "vq-f16") else 3
    critic = DiscriminatorConfig(layers=layers)
    parts = [
        part("autoencoder", names.autoencoder_rows(config), "", Autoencoder, config, 3),
        part("discriminator", names.discriminator_rows(critic), "loss.discriminator.",
             Discriminator, critic, 3),
    ]  # fmt: skip
    report = fits(
        lists["published"][name],
        parts,
        {"autoencoder": parameters, "discriminator": DISCRIMINATORS[layers]},
    )
    f, c = config.f, config.z_channels
    assert report.seems.startswith(f"a first stage with f = {f}, {c} latent channels, ")
    assert {len(names) for what, names in report.unused.items() if "LPIPS" in what} == {33}


@pytest.mark.parametrize("name", MODELS)
def test_diffusion_models_map_one_to_one(name, lists, part):
    (config, *args), unet, first_stage, tau = MODELS[name]
    first, autoencoder = FIRST_STAGES[first_stage]
    rows = names.unet_rows(config, cross_attention=args[-1] > 0)
    parts = [
        part("unet", rows, "model.diffusion_model.", UNet, config, *args),
        part("autoencoder", names.autoencoder_rows(first), "first_stage_model.",
             Autoencoder, first, 3),
    ]  # fmt: skip
    parameters = {"unet": unet, "autoencoder": autoencoder}
    if tau:
        rows, module = TAUS[name]
        parts.append(part("tau", rows, "cond_stage_model.", *module))
        parameters["tau"] = tau
    keys = lists["published"][name]
    report = fits(keys, parts, parameters)
    averaged = "model_ema.decay" in keys
    assert all(key.startswith("model_ema.") == averaged for key in report.used["unet"])
    assert ("second copy of the first stage" in report.unused) == (name == "inpainting_big")


def test_a_table_of_another_network_is_noticed(part):
    """A mistake in the program, not in a file."""
    wrong = part("unet", names.unet_rows(FACES, cross_attention=False), "", ClassEmbedder, 9, 9)
    with pytest.raises(ValueError, match="rows of names do not fit this unet: .*conv_in"):
        check_keys({}, [wrong])
