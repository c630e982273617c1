"""What can be known to be wrong with a configuration before anything is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from ldm_jax.autoencoder.network import AutoencoderConfig
from ldm_jax.autoencoder.perceptual import SMALLEST_SIZE
from ldm_jax.data.scenes import ScenesConfig
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.unet import UNetConfig
from ldm_jax.errors import UserError
from ldm_jax.experiments.config import AutoencoderStage, Experiment, StageConfig
from ldm_jax.sampling.solvers import check_eta
from ldm_jax.sampling.timesteps import check_steps
from ldm_jax.training.sharding import check_batch_size

# Whole numbers are at least 1, and other numbers at least 0, except for these.
FROM_ZERO = (
    "ahead",
    "crop_size",
    "decay_steps",
    "disc_start",
    "oracle_images",
    "reset_dead_codes_every",
    "seed",
    "threads",
    "unet.heads",
    "warmup_steps",
)
ANY = ("data", "fsdp", "tensor", "guidance")  # make_mesh looks at the first three
TRAINED = ("autoencoder", "diffusion")  # unless a stage is named
FRACTIONS = ("drop_probability", "dropout", "ema_decay", "validation")  # less than 1


def check(experiment: Experiment, mesh: jax.sharding.Mesh, stages: Sequence[str] = TRAINED) -> None:
    """Raises UserError, with all that is wrong in one line, when a run could not work.

    stages: those that are to be trained, whose batches have to be split over the mesh.
    """
    problems = list(_ranges(experiment)) or list(_sizes(experiment, mesh, stages))
    if "classifier" in stages and not problems:
        problems = list(_classifier_sizes(experiment, mesh))
    if problems:
        raise UserError("; ".join(problems))


def _ranges(experiment: Experiment) -> Iterator[str]:
    """The fields whose value makes no sense by itself."""
    for path, value in _fields(experiment):
        field = path.rpartition(".")[2]
        numbers = value if isinstance(value, tuple) else (value,)
        if isinstance(value, (bool, str)) or field in ANY:
            continue
        least = 0 if isinstance(value, float) or path.endswith(FROM_ZERO) else 1
        if field == "channel_mult" and not value:
            yield f"--{_option(path)} takes one or more numbers"
        elif any(not n >= least for n in numbers):
            yield f"--{_option(path)} is {value}; it must be at least {least}"
        elif field in FRACTIONS and value >= 1:
            yield f"--{_option(path)} is {value}; it must be less than 1"
    if not isinstance(experiment.data, ScenesConfig) and experiment.data.validation == 0:
        yield "--data.validation is 0; both stages are judged by held-out images"
    if experiment.seed >= 2**32:
        yield f"--seed is {experiment.seed}; it must be less than {2**32}"
    if experiment.sampling.eta > 1:
        yield f"--sampling.eta is {experiment.sampling.eta}; it lies between 0 and 1 (as DDPM)"


def _fields(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of every leaf of nested dataclasses."""
    for f in dataclasses.fields(value):
        inner, below = getattr(value, f.name), f"{path}.{f.name}".lstrip(".")
        if dataclasses.is_dataclass(inner):
            yield from _fields(inner, below)
        else:
            yield below, inner


def _option(path: str) -> str:
    return path.replace("_", "-")


def _sizes(experiment: Experiment, mesh: jax.sharding.Mesh, stages: Sequence[str]) -> Iterator[str]:
    """What does not fit together."""
    first, second = experiment.autoencoder, experiment.diffusion
    network, size, sampling = first.network, experiment.data.size, experiment.sampling
    yield from _group_sizes("autoencoder.network", network)
    yield from _unet_sizes("diffusion.unet", second.unet, network.f, size)
    if network.bottleneck != "none":
        yield from _first_stage_sizes(first, size)
    elif first.from_run:
        yield "--autoencoder.from-run is given, but bottleneck none has no first stage"
    if "autoencoder" in stages and not first.from_run and network.bottleneck != "none":
        yield from _broken("autoencoder.batch-size", lambda: _check_batch(first, mesh))
    if "diffusion" in stages:
        yield from _broken("diffusion.batch-size", lambda: _check_batch(second, mesh))
    for option, rule in (
        ("diffusion.schedule", lambda: make_schedule(second.schedule)),
        (
            "sampling.steps",
            lambda: check_steps(sampling.spacing, sampling.steps, second.schedule.timesteps),
        ),
        ("sampling.eta", lambda: check_eta(sampling.sampler, sampling.eta)),
    ):
        yield from _broken(option, rule)


def _classifier_sizes(experiment: Experiment, mesh: jax.sharding.Mesh) -> Iterator[str]:
    stage, f = experiment.classifier, experiment.autoencoder.network.f
    yield from _unet_sizes("classifier.unet", stage.unet, f, experiment.data.size)
    yield from _broken("classifier.batch-size", lambda: _check_batch(stage, mesh))


def _check_batch(stage: StageConfig, mesh: jax.sharding.Mesh) -> None:
    check_batch_size(stage.batch_size, mesh, stage.accumulate)


def _broken(option: str, rule: Callable[[], object]) -> Iterator[str]:
    try:
        rule()
    except UserError as error:
        yield f"--{option}: {error}"


def _group_sizes(prefix: str, sizes: AutoencoderConfig | UNetConfig) -> Iterator[str]:
    channels = [sizes.channels * mult for mult in (1, *sizes.channel_mult)]
    if wrong := [c for c in channels if c % sizes.groups]:
        yield (
            f"--{prefix}.groups {sizes.groups} does not divide the {wrong[0]} channels of a "
            f"level: {sizes.channels} x {sizes.channel_mult}"
        )


def _unet_sizes(prefix: str, unet: UNetConfig, f: int, size: int) -> Iterator[str]:
    multiple = f * unet.factor
    if size % multiple:
        below = size // multiple * multiple
        nearest = f"{below} or {below + multiple}" if below else f"{multiple}"
        name = "classifier" if prefix.startswith("classifier") else "UNet"
        yield (
            f"--data.size {size} is not divisible by {multiple} (the autoencoder reduces by "
            f"f = {f}, the {name} by {unet.factor}); the nearest that are: {nearest}"
        )
    yield from _group_sizes(prefix, unet)
    heads = "heads" if unet.heads else "head_channels"
    for level, mult in enumerate(unet.channel_mult):
        attends = 2**level in unet.attention_factors or level == len(unet.channel_mult) - 1
        if attends and unet.channels * mult % getattr(unet, heads):
            yield (
                f"--{prefix}.{_option(heads)} {getattr(unet, heads)} does not divide "
                f"the {unet.channels * mult} channels of level {level}"
            )


def _first_stage_sizes(first: AutoencoderStage, size: int) -> Iterator[str]:
    loss = first.loss
    if first.reset_dead_codes_every and first.network.bottleneck != "vq":
        yield (
            "--autoencoder.reset-dead-codes-every needs codes: --autoencoder.network.bottleneck vq"
        )
    if first.from_run:
        return
    if first.crop_size > size or first.crop_size % first.network.f:
        yield (
            f"--autoencoder.crop-size is {first.crop_size}; it is 0, or a multiple of "
            f"f = {first.network.f} up to the {size} pixels of --data.size"
        )
    size = first.crop_size or size
    if loss.perceptual_weight > 0 and size < (least := SMALLEST_SIZE[loss.perceptual]):
        yield f"LPIPS with {loss.perceptual} needs images of {least} pixels or more, not {size}"
    if loss.disc_weight > 0 and size < first.discriminator.smallest_size:
        yield (
            f"the discriminator of {first.discriminator.layers} layers needs images of "
            f"{first.discriminator.smallest_size} pixels or more, not {size}; "
            "fewer --autoencoder.discriminator.layers will do"
        )
