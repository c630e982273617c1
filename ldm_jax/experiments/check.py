"""What can be known to be wrong with a configuration before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator

import jax

from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.errors import UserError
from ldm_jax.experiments.config import Experiment
from ldm_jax.sampling.timesteps import uniform_timesteps
from ldm_jax.training.sharding import check_batch_size


def check(experiment: Experiment, mesh: jax.sharding.Mesh) -> None:
    """Raises UserError, with all that is wrong in one line, when a run could not work."""
    if problems := list(_problems(experiment, mesh)):
        raise UserError("; ".join(problems))


def _problems(experiment: Experiment, mesh: jax.sharding.Mesh) -> Iterator[str]:
    first, second = experiment.autoencoder, experiment.diffusion
    network, unet, size = first.network, second.unet, experiment.data.size
    for prefix, mults in (
        ("autoencoder.network", network.channel_mult),
        ("diffusion.unet", unet.channel_mult),
    ):
        if not mults or any(m < 1 for m in mults):
            yield f"--{prefix}.channel-mult is {mults}; it takes one or more numbers from 1 up"
            return
    multiple = network.f * unet.factor
    if size < multiple or size % multiple:
        below = max(size // multiple, 1) * multiple
        nearest = f"{below} or {below + multiple}" if size > multiple else f"{multiple}"
        yield (
            f"--data.size {size} is not divisible by {multiple} (the autoencoder halves "
            f"f = {network.f}, the UNet {unet.factor}); the nearest that are: {nearest}"
        )
    levels = (
        ("autoencoder.network", network.channels, network.channel_mult, network.groups),
        ("diffusion.unet", unet.channels, unet.channel_mult, unet.groups),
    )
    for prefix, channels, mults, groups in levels:
        if any(channels * mult % groups for mult in mults):
            yield f"--{prefix}.groups {groups} does not divide every level of {channels} x {mults}"
    if unet.head_channels:
        for level, mult in enumerate(unet.channel_mult):
            attends = 2**level in unet.attention_factors or level == len(unet.channel_mult) - 1
            if attends and unet.channels * mult % unet.head_channels:
                yield (
                    f"--diffusion.unet.head-channels {unet.head_channels} does not divide "
                    f"the {unet.channels * mult} channels of level {level}"
                )
    if first.loss.disc_weight > 0 and size < first.discriminator.smallest_size:
        yield (
            f"the discriminator of {first.discriminator.layers} layers needs pictures of "
            f"{first.discriminator.smallest_size} pixels or more, not {size}; "
            "fewer --autoencoder.discriminator.layers will do"
        )
    for name, stage in (("autoencoder", first), ("diffusion", second)):
        for field, value in (
            ("steps", stage.steps),
            ("batch-size", stage.batch_size),
            ("progress.log-every", stage.progress.log_every),
            ("progress.preview-every", stage.progress.preview_every),
            ("progress.save-every", stage.progress.save_every),
        ):
            if value < 1:
                yield f"--{name}.{field} is {value}; it must be at least 1"
        if not 0 <= stage.ema_decay < 1:
            yield f"--{name}.ema-decay is {stage.ema_decay}; it lies in [0, 1)"
    if not 0 <= second.drop_probability < 1:
        yield f"--diffusion.drop-probability is {second.drop_probability}; it lies in [0, 1)"
    for rule in (
        lambda: check_batch_size(first.batch_size, mesh),
        lambda: check_batch_size(second.batch_size, mesh),
        lambda: make_schedule(second.schedule),
        lambda: uniform_timesteps(experiment.sampling.steps, second.schedule.timesteps),
    ):
        try:
            rule()
        except UserError as error:
            yield str(error)
