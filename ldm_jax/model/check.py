"""What can be known to be wrong with a configuration before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import jax

from ldm_jax.autoencoder.network import AutoencoderConfig
from ldm_jax.autoencoder.perceptual import SMALLEST_SIZE
from ldm_jax.bounds import violations
from ldm_jax.data.masks import MIN_SIDE, MaskKind, thinnest
from ldm_jax.data.scenes import ScenesConfig
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.unet import UNetConfig
from ldm_jax.errors import UserError
from ldm_jax.experiments.config import AutoencoderStage, Experiment
from ldm_jax.training.config import TrainingConfig
from ldm_jax.training.optimiser import OptimiserConfig
from ldm_jax.training.sharding import check_batch_size

TRAINED = ("autoencoder", "diffusion")  # unless a stage is named


def check(experiment: Experiment, mesh: jax.sharding.Mesh, stages: Sequence[str] = TRAINED) -> None:
    """Raises UserError, with all that is wrong in one line, when a run could not work.

    Bounds stand with the fields; the rules here are about several fields at once.

    Args:
      stages: those that are to be trained, whose batches have to be split over the mesh.
    """
    problems = list(violations(experiment)) or list(_sizes(experiment, mesh, stages))
    if "classifier" in stages and not problems:
        problems = list(_classifier_sizes(experiment, mesh))
    if problems:
        raise UserError("; ".join(problems))


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
    for name in ("autoencoder", "diffusion", "classifier"):
        yield from _optimiser(name, getattr(experiment, name).optimiser)
    no_schedule = list(_broken("diffusion.schedule", lambda: make_schedule(second.schedule)))
    yield from no_schedule or _broken(
        "sampling", lambda: sampling.check(make_schedule(second.schedule))
    )
    if second.tokenizer_file and second.tokenizer == "words":
        yield (
            f"--diffusion.tokenizer-file is {second.tokenizer_file}, but --diffusion.tokenizer "
            "words has none: it takes the words of the captions; bert and clip read a file"
        )
    if second.drop_clauses and not isinstance(experiment.data, ScenesConfig):
        yield (
            f"--diffusion.drop-clauses is {second.drop_clauses}, but only captions of scenes have "
            "clauses that are known"
        )
    if second.condition == "inpainting":
        yield from _masks(second.masks, network.f, size)
    if second.schedule.zero_terminal_snr and second.prediction == "eps":
        yield (
            "--diffusion.schedule.zero-terminal-snr goes with --diffusion.prediction v or z_0: z_T "
            "is all noise then, and its eps says nothing of z_0"
        )
    if second.schedule.zero_terminal_snr and second.min_snr_gamma > 0:
        yield (
            "--diffusion.min-snr-gamma does not go with --diffusion.schedule.zero-terminal-snr: "
            "the last step, from which sampling starts, has SNR 0 and would have no weight"
        )
    try:
        sampling.geometry(size, network.f, second.unet.factor, network.z_channels)
    except UserError as error:
        yield str(error).replace("--", "--sampling.")


def _masks(kind: MaskKind, f: int, size: int) -> Iterator[str]:
    """Masks of which the latent would show nothing."""
    if size >= MIN_SIDE and f > (width := thinnest(kind, size)):
        yield (
            f"in-painting with f = {f}: on images of {size} pixels the thinnest strokes of "
            f"--diffusion.masks {kind} are {width:g} pixels wide, and a latent, which stands for "
            f"{f}x{f} pixels, does not show them; use a first stage with a smaller f, larger "
            "images, or masks of wider holes, such as --diffusion.masks box"
        )


def _classifier_sizes(experiment: Experiment, mesh: jax.sharding.Mesh) -> Iterator[str]:
    stage, f = experiment.classifier, experiment.autoencoder.network.f
    yield from _unet_sizes("classifier.unet", stage.unet, f, experiment.data.size)
    yield from _broken("classifier.batch-size", lambda: _check_batch(stage, mesh))


def _check_batch(stage: TrainingConfig, mesh: jax.sharding.Mesh) -> None:
    check_batch_size(stage.batch_size, mesh, stage.accumulate)


def _broken(option: str, rule: Callable[[], object]) -> Iterator[str]:
    try:
        rule()
    except UserError as error:
        yield f"--{option}: {error}"


def _optimiser(stage: str, optimiser: OptimiserConfig) -> Iterator[str]:
    if optimiser.final_rate > optimiser.learning_rate:
        yield (
            f"--{stage}.optimiser.final-rate is {optimiser.final_rate}; it must be at most the "
            f"learning rate, {optimiser.learning_rate}"
        )


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
                f"--{prefix}.{heads.replace('_', '-')} {getattr(unet, heads)} does not divide "
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
    if first.freeze_encoder and first.optimiser.weight_decay:
        yield (
            "--autoencoder.freeze-encoder True: weight decay would change the encoder all the "
            "same; --autoencoder.optimiser.weight-decay 0"
        )
    if first.freeze_encoder and first.reset_dead_codes_every:
        yield (
            "--autoencoder.freeze-encoder True: the codes stay as they are; "
            "--autoencoder.reset-dead-codes-every 0"
        )
    if first.crop_size > size or first.crop_size % first.network.f:
        yield (
            f"--autoencoder.crop-size is {first.crop_size}; it is 0, or a multiple of "
            f"f = {first.network.f} up to the {size} pixels of --data.size"
        )
    size = first.crop_size or size
    if loss.equivariance_weight > 0 and size % (2 * first.network.f):
        yield (
            f"--autoencoder.loss.equivariance-weight halves latents: images of {size} pixels are "
            f"not divisible by 2 f = {2 * first.network.f}"
        )
    if loss.perceptual_weight > 0 and size < (least := SMALLEST_SIZE[loss.perceptual]):
        yield f"LPIPS with {loss.perceptual} needs images of {least} pixels or more, not {size}"
    if loss.disc_weight > 0 and size < first.discriminator.smallest_size:
        yield (
            f"the discriminator of {first.discriminator.layers} layers needs images of "
            f"{first.discriminator.smallest_size} pixels or more, not {size}; "
            "fewer --autoencoder.discriminator.layers will do"
        )
