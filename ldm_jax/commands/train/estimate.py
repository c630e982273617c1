"""How long a run will take and how much memory: said after the first seconds of each stage.

The steps of the stage that has begun are timed. What comes after them is known by its FLOPs, at the
rate of these steps. That is a guess: no two networks reach the same rate, above all where one has
LPIPS in its loss or does not fill a GPU. So the second stage says its own estimate once it has
begun.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import jax
from tqdm import tqdm

from ldm_jax.training.config import TrainingConfig
from ldm_jax.training.memory import used_bytes
from ldm_jax.training.pace import MOST, timed
from ldm_jax.training.step import CompiledStep

log = logging.getLogger(__name__)


def estimated(
    step: CompiledStep,
    stage: str,
    config: TrainingConfig,
    start: int,
    flops_after: float,
    devices: list[jax.Device],
) -> Callable[[Any, Any], tuple[Any, Any]]:
    """`step`, which says after its first calls how long the run will take.

    Args:
      start: the step that the stage goes on from. flops_after: of what the run does after this
        stage's steps. devices: those that it runs on.
    """
    progress = config.progress
    # Up to the first preview or checkpoint: these are no steps, and would be taken for some.
    pauses = [n - start % n for n in (progress.preview_every, progress.save_every)]

    def report(seconds: float, calls: int) -> None:
        if jax.process_index() == 0:
            after = flops_after * seconds / step.flops if step.flops else 0.0
            left = (config.steps - start - calls) * seconds
            memory = used_bytes(devices) or step.peak_bytes
            with tqdm.external_write_mode(file=sys.stderr):
                log.info("%s", estimate_line(stage, left, after, memory, devices[0].platform))

    return timed(step, report, min(MOST, *(pause - 1 for pause in pauses)))


def estimate_line(stage: str, left: float, after: float, memory: float, platform: str) -> str:
    """What to expect, for people.

    Args:
      left: seconds that the steps of the stage will take. after: what comes then.
      memory: bytes, of this process on CPUs, else of each device.
    """
    where = "of memory" if platform == "cpu" else f"on each {platform.upper()}"
    line = f"{stage}: about {duration(left + after)} from here and {memory / 1e9:.1f} GB {where}"
    if after:
        what = "the diffusion model and its samples" if stage == "autoencoder" else "the samples"
        line += f": {duration(left)} for these steps, {duration(after)} for {what}"
    return f"{line}; compiling and measuring come on top"


def duration(seconds: float) -> str:
    """A time as people say it: 40 seconds, 12 minutes, 3.5 hours, 2.1 days."""
    for unit, length, most in (("second", 1, 90), ("minute", 60, 90), ("hour", 3600, 48)):
        if (number := seconds / length) < most:
            shown = f"{number:.1f}" if unit == "hour" else f"{max(1, round(number))}"
            return f"{shown} {unit}" + ("" if shown in ("1", "1.0") else "s")
    return f"{seconds / 86400:.1f} days"
