"""Every field of every experiment is documented, typed and checked before anything is computed."""

import ast
import dataclasses
import inspect
import re
import textwrap
import typing

import pytest

from ldm_jax.commands.sample.command import SampleCommand
from ldm_jax.commands.train.run import TrainCommand
from ldm_jax.data.folder import FolderConfig
from ldm_jax.data.scenes import ScenesConfig
from ldm_jax.data.tfds import TfdsConfig
from ldm_jax.errors import UserError
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.experiments.config import Experiment
from ldm_jax.model.check import check
from ldm_jax.model.config_json import from_json, to_json


def nested(kind):
    """`kind` and the dataclasses in its fields."""
    yield kind
    for hint in typing.get_type_hints(kind).values():
        for choice in typing.get_args(hint) or (hint,):
            if dataclasses.is_dataclass(choice):
                yield from nested(choice)


def documented(kind) -> set[str]:
    """The fields that a string follows in the source, as tyro reads it."""
    bodies = [
        ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
        for base in kind.__mro__
        if dataclasses.is_dataclass(base)
    ]
    return {
        one.target.id
        for body in bodies
        for one, then in zip(body, body[1:], strict=False)
        if isinstance(one, ast.AnnAssign)
        and isinstance(then, ast.Expr)
        and isinstance(then.value, ast.Constant)
        and len(str(then.value.value)) >= 7
    }


def leaves(value, path=""):
    for field in dataclasses.fields(value):
        inner, name = getattr(value, field.name), f"{path}{field.name}".replace("_", "-")
        if dataclasses.is_dataclass(inner):
            yield from leaves(inner, f"{name}.")
        else:
            yield name


@pytest.mark.parametrize(
    "kind", dict.fromkeys([*nested(TrainCommand), SampleCommand]), ids=lambda kind: kind.__name__
)
def test_no_field_is_without_a_help_text(kind):
    plain = {
        field.name
        for field in dataclasses.fields(kind)
        if not dataclasses.is_dataclass(typing.get_type_hints(kind)[field.name])
        and field.name != "data"  # a choice between three dataclasses
    }
    assert plain <= documented(kind)
    assert kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}(")


@pytest.mark.slow
def test_help_shows_every_field(train):
    """Of one experiment with each kind of data; the others have the same fields."""
    for name in EXPERIMENTS:
        shown = train(name, "--help")
        assert shown.code == 0 and not shown.err
        options = set(re.findall(r"--([a-z0-9.-]+)", shown.out))
        assert set(leaves(EXPERIMENTS[name]())) | {"run-dir", "stage"} <= options


def test_every_experiment_passes_its_own_check_and_survives_json(one_device):
    for make in EXPERIMENTS.values():
        experiment = make()
        check(experiment, one_device)
        assert from_json(Experiment, to_json(experiment)) == experiment


@pytest.mark.parametrize(
    "data", [ScenesConfig(size=40), TfdsConfig(name="x"), FolderConfig(path="y")]
)
def test_json_says_which_kind_of_data_it_is(data):
    experiment = Experiment(data=data)
    assert from_json(Experiment, to_json(experiment)) == experiment


def changed(*fields):
    """smoke with some fields changed: (path as on the command line, value) in turn."""

    def replace(config, names, value):
        first, rest = names[0], names[1:]
        new = replace(getattr(config, first), rest, value) if rest else value
        return dataclasses.replace(config, **{first: new})

    experiment = EXPERIMENTS["smoke"]()
    for path, value in zip(fields[::2], fields[1::2], strict=True):
        experiment = replace(experiment, path.replace("-", "_").split("."), value)
    return experiment


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("autoencoder.steps", 0, "{} is 0; it must be at least 1"),
        ("autoencoder.progress.log-every", -1, "{} is -1; it must be at least 1"),
        ("diffusion.ema-decay", 1.0, "{} is 1.0; it must be less than 1"),
        ("diffusion.ema-decay", float("nan"), "{} is nan; it must be a finite number"),
        ("autoencoder.network.groups", 0, "{} is 0; it must be at least 1"),
        ("autoencoder.network.channel-mult", (), "{} takes one or more numbers"),
        ("diffusion.unet.channel-mult", (1, 0), "{} is (1, 0); it must be at least 1"),
        ("diffusion.text.heads", 0, "{} is 0; it must be at least 1"),
        ("diffusion.accumulate", 0, "{} is 0; it must be at least 1"),
        ("diffusion.accumulate", 3, "--diffusion.batch-size: A batch of 16 cannot be split over"),
        ("loader.threads", -1, "{} is -1; it must be at least 0"),
        ("evaluation.num-images", 0, "{} is 0; it must be at least 1"),
        ("sampling.eta", 1.5, "{} is 1.5; it must be at most 1"),
        ("seed", -1, "{} is -1; it must be at least 0"),
        ("seed", 2**32, "{} is 4294967296; it must be less than 4294967296"),
        ("data", FolderConfig(path="x", size=32, validation=0.0), "held-out images"),
        (
            "data.size",
            30,
            "{} 30 is not divisible by 4 (the autoencoder reduces by f = 2, the UNet by 2)",
        ),
        ("data.size", 30, "the nearest that are: 28 or 32"),
        ("data", FolderConfig(path="x", size=3), "the nearest that are: 4"),
        (
            "diffusion.optimiser.final-rate",
            1.0,
            "{} is 1.0; it must be at most the learning rate, 0.001",
        ),
        ("autoencoder.optimiser.learning-rate", -1.0, "{} is -1.0; it must be at least 0"),
        ("autoencoder.optimiser.learning-rate", 0.0, "{} is 0.0; it must be more than 0"),
        ("autoencoder.optimiser.b1", 1.0, "{} is 1.0; it must be less than 1"),
        (
            "autoencoder.network.groups",
            3,
            "{} 3 does not divide the 8 channels of a level: 8 x (1, 2)",
        ),
        ("diffusion.unet.groups", 32, "{} 32 does not divide the 16 channels"),
        ("diffusion.unet.head-channels", 24, "{} 24 does not divide the 32 channels of level 1"),
        ("diffusion.unet.head-channels", 0, "{} is 0; it must be at least 1"),
        ("diffusion.unet.heads", -1, "{} is -1; it must be at least 0"),
        ("diffusion.unet.heads", 3, "{} 3 does not divide the 32 channels of level 1"),
        ("autoencoder.discriminator.layers", 4, "needs images of 48 pixels or more, not 32"),
        ("autoencoder.network.codebook-size", 0, "{} is 0; it must be at least 1"),
        ("autoencoder.crop-size", 15, "{} is 15; it is 0, or a multiple of f = 2 up to the 32"),
        ("autoencoder.crop-size", 34, "{} is 34; it is 0, or a multiple of f = 2 up to the 32"),
        ("autoencoder.reset-dead-codes-every", -1, "{} is -1; it must be at least 0"),
        (
            "autoencoder.reset-dead-codes-every",
            5,
            "{} needs codes: --autoencoder.network.bottleneck vq",
        ),
        ("sampling.height", 30, "{} is 30; for this model it is a multiple of 4"),
        ("sampling.tile", 3, "{} is 3; for this model it is a multiple of 2"),
        (
            "diffusion.tokenizer-file",
            "x.json",
            "{} is x.json, but --diffusion.tokenizer words has none",
        ),
        ("sampling.steps", 1001, "--sampling: steps is 1001; this model takes 1 to 1000"),
        ("sampling.timesteps", (9, 9), "--sampling: timesteps are 9 9; they decrease"),
        ("sampling.guidance-rescale", 2.0, "{} is 2.0; it must be at most 1"),
        (
            "diffusion.schedule.zero-terminal-snr",
            True,
            "{} goes with --diffusion.prediction v or z_0",
        ),
        (
            "diffusion.schedule.beta-end",
            2.0,
            "schedule betas 0.0015, 2.0 must satisfy 0 < start <= end < 1",
        ),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_what_would_be_right(
    path, value, message, one_device
):
    with pytest.raises(UserError) as refusal:
        check(changed(path, value), one_device)
    assert message.format(f"--{path}") in str(refusal.value) and "\n" not in str(refusal.value)


LPIPS = ("autoencoder.loss.perceptual-weight", 1.0, "autoencoder.loss.perceptual")
CRITIC = ("autoencoder.loss.disc-weight", 1.0, "autoencoder.discriminator.layers")
# smoke takes sizes that are multiples of 4
LEAST_SIZES = {
    "vgg16": (16, (*LPIPS, "vgg16"), "LPIPS with vgg16 needs images of 16 pixels or more"),
    "squeezenet": (20, (*LPIPS, "squeezenet"), "LPIPS with squeezenet needs images of 17"),
    "discriminator": (12, (*CRITIC, 2), "the discriminator of 2 layers needs images of 12"),
}


@pytest.mark.parametrize("size, fields, message", LEAST_SIZES.values(), ids=LEAST_SIZES)
def test_the_networks_that_judge_images_have_a_least_size(size, fields, message, one_device):
    check(changed("data.size", size, *fields), one_device)
    with pytest.raises(UserError, match=f"{message}.* not {size - 4}"):
        check(changed("data.size", size - 4, *fields), one_device)
    without = [fields[0], 0.0, *fields[2:]]  # a network without a weight judges nothing
    check(changed("data.size", size - 4, *without), one_device)
    pixels = ("autoencoder.network.bottleneck", "none")
    check(changed("data.size", size - 4, *fields, *pixels), one_device)


def test_it_is_the_crop_that_networks_judge(one_device):
    fields = ("autoencoder.crop-size", 16, *LPIPS)
    check(changed(*fields, "vgg16"), one_device)
    with pytest.raises(UserError, match="squeezenet needs images of 17 pixels or more, not 16"):
        check(changed(*fields, "squeezenet"), one_device)


def test_latents_that_are_halved_have_an_even_side(one_device):
    """smoke has f = 2; a borrowed first stage is not trained."""
    halved = ("autoencoder.loss.equivariance-weight", 0.25)
    with pytest.raises(UserError, match="30 pixels are not divisible by 2 f = 4"):
        check(changed("autoencoder.crop-size", 30, *halved), one_device)
    check(changed("autoencoder.crop-size", 28, *halved), one_device)
    borrowed = ("autoencoder.from-run", "runs/x")
    check(changed("autoencoder.crop-size", 30, *halved, *borrowed), one_device)


def test_min_snr_needs_a_last_step_that_has_some(one_device):
    fields = ("diffusion.min-snr-gamma", 5.0, "diffusion.prediction", "v")
    check(changed(*fields), one_device)
    with pytest.raises(UserError, match="--diffusion.min-snr-gamma does not go with"):
        check(changed(*fields, "diffusion.schedule.zero-terminal-snr", True), one_device)


def test_heads_stand_above_head_channels(one_device):
    """Of 32 channels, 24 cannot make a head; but four heads can be made."""
    check(changed("diffusion.unet.head-channels", 24, "diffusion.unet.heads", 4), one_device)


@pytest.mark.parametrize(
    "also, message",
    [
        (("autoencoder.optimiser.weight-decay", 0.1), "weight decay would change the encoder"),
        (
            (
                *("autoencoder.network.bottleneck", "vq"),
                *("autoencoder.reset-dead-codes-every", 5),
            ),
            "the codes stay as they are",
        ),
    ],
)
def test_an_encoder_that_is_not_trained_stays_as_it_is(also, message, one_device):
    frozen = "autoencoder.freeze-encoder", True
    check(changed(*frozen), one_device)
    with pytest.raises(UserError, match=message):
        check(changed(*frozen, *also), one_device)


def test_codes_may_be_revived_where_there_are_some(one_device):
    vq = ("autoencoder.network.bottleneck", "vq")
    check(changed("autoencoder.reset-dead-codes-every", 5, *vq), one_device)


def test_masks_are_no_thinner_than_a_latent(one_device):
    fields = ("diffusion.condition", "inpainting", "data.size", 64)
    check(changed(*fields, "autoencoder.network.channel-mult", (1, 1, 1)), one_device)
    coarse = (*fields, "autoencoder.network.channel-mult", (1, 1, 1, 1))
    with pytest.raises(UserError, match="f = 8: on images of 64 pixels .* mixed are 4 pixels wide"):
        check(changed(*coarse), one_device)
    check(changed(*coarse, "diffusion.masks", "box"), one_device)
    check(changed(*coarse, "data.size", 512), one_device)


def test_a_borrowed_autoencoder_contradicts_that_there_is_none(one_device):
    fields = ("autoencoder.network.bottleneck", "none", "autoencoder.from-run", "runs/x")
    with pytest.raises(UserError, match="--autoencoder.from-run is given, but bottleneck none"):
        check(changed(*fields), one_device)


def test_all_that_is_wrong_is_said_at_once(one_device):
    experiment = changed("data.size", 30)
    stage = dataclasses.replace(experiment.diffusion, batch_size=0, steps=0)
    with pytest.raises(UserError, match="diffusion.batch-size is 0.*; --diffusion.steps is 0"):
        check(dataclasses.replace(experiment, diffusion=stage), one_device)
