"""Where a published file's own words contradict the experiment whose weights it should be."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ldm_jax.diffusion.schedule import ScheduleConfig
from ldm_jax.experiments.config import Experiment
from ldm_jax.pretrained.declared import (
    ROUNDING,
    Declared,
    heads_of,
    odd_fields,
    same_schedule,
    schedule_of,
)


def contradictions(experiment: Experiment, file: Declared, *, both: bool) -> Iterator[str]:
    """One text for each, with the option that follows the file, where there is one.

    Args:
      both: the file holds both stages; otherwise the first alone.
    """
    stage, first = experiment.diffusion, experiment.autoencoder.network
    groups = file.configs.get("vae", {}).get("norm_num_groups")
    if groups not in (None, first.groups):
        yield f"norm_num_groups {groups}: --autoencoder.network.groups {groups}"
    yield from odd_fields(file, ["vae", "unet", "text_encoder"] if both else ["vae"])
    if not both:
        return
    scale = file.scale_factor
    if (
        scale
        and stage.scale_factor
        and not math.isclose(scale, stage.scale_factor, rel_tol=ROUNDING)
    ):
        yield f"scale factor {scale:g}: --diffusion.scale-factor {scale:g}"
    if file.prediction not in (None, stage.prediction):
        yield f"a prediction of {file.prediction}: --diffusion.prediction {file.prediction}"
    if not same_schedule(file, stage.schedule):
        yield f"another noise schedule{_remedy(file)}"
    zero = file.zero_terminal_snr
    if zero not in (None, stage.schedule.zero_terminal_snr):
        end = "noise alone at the end" if zero else "some of the image at the end"
        yield f"{end}: --diffusion.schedule.zero-terminal-snr {zero}"
    yield from _unet(experiment, file)


def _remedy(file: Declared) -> str:
    config = None if file.beta is None else schedule_of(file.beta)
    if config is None:
        return ", which ldm_jax has not"
    default, words = ScheduleConfig(), [f": --diffusion.schedule.kind {config.kind}"]
    if config.timesteps != default.timesteps:
        words.append(f"--diffusion.schedule.timesteps {config.timesteps}")
    if config.kind != "cosine":
        words.append(f"--diffusion.schedule.beta-start {config.beta_start:g}")
        words.append(f"--diffusion.schedule.beta-end {config.beta_end:g}")
    return " ".join(words)


def _unet(experiment: Experiment, file: Declared) -> Iterator[str]:
    unet, theirs = experiment.diffusion.unet, file.configs.get("unet", {})
    groups, shift = theirs.get("norm_num_groups"), theirs.get("resnet_time_scale_shift")
    if groups not in (None, unet.groups):
        yield f"norm_num_groups {groups}: --diffusion.unet.groups {groups}"
    if shift not in (None, "scale_shift" if unet.scale_shift else "default"):
        option = f"--diffusion.unet.scale-shift {not unet.scale_shift}"
        yield f"resnet_time_scale_shift {shift}: {option}"
    levels = [
        (level, unet.channels * mult)
        for level, mult in enumerate(unet.channel_mult)
        if 2**level in unet.attention_factors or level == len(unet.channel_mult) - 1
    ]
    heads = {(c, n) for level, c in levels if (n := heads_of(file, c, level)) is not None}
    if any(n != unet.num_heads(c) for c, n in heads):
        counts, widths = {n for _, n in heads}, {c // n for c, n in heads}
        if len(counts) == 1:
            yield f"{min(counts)} attention heads: --diffusion.unet.heads {min(counts)}"
        elif len(widths) == 1:
            width = min(widths)
            yield (
                f"attention heads of {width} channels: --diffusion.unet.heads 0 "
                f"--diffusion.unet.head-channels {width}"
            )
        else:
            yield "attention heads that ldm_jax has not"
