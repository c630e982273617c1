"""The end of a run: samples for held-out conditions, and every number that they give."""

from __future__ import annotations

import logging
from typing import Any

import jax
import numpy as np

from ldm_jax import plots
from ldm_jax.commands.train.at_end import images_at_end, is_checked, is_judged
from ldm_jax.commands.train.held_out import HeldOut
from ldm_jax.commands.train.judge import judge, kid_figure
from ldm_jax.commands.train.nearest import nearest_check
from ldm_jax.model.data import OpenData
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.run_dir import RunDir

log = logging.getLogger(__name__)


def final_samples(
    model: LatentDiffusion, data: OpenData, run: RunDir, lpips_weights: dict | None
) -> dict[str, Any]:
    """Writes the figures at the end; returns the numbers of the task, for the summary.

    Args:
      lpips_weights: of SqueezeNet, or None to do without.
    """
    config, settings = model.config, model.settings
    shown, kind = config.evaluation.num_images, data.info.condition
    judged = config.evaluation.judged_images if is_judged(config, kind) else 0
    n = images_at_end(config, kind)
    held_out = HeldOut.read(data.validation, model.condition, n, shown)
    images = held_out.sample(model, settings, progress="sampling")
    figure = held_out.figure(images[:shown])
    _write(run, "samples.png", figure, "samples for held-out conditions", vars(settings))
    found: dict[str, Any] = {}
    if is_checked(config, kind):
        found["nearest"], figure = nearest_check(data, images)
        if figure is not None:
            _write(run, "nearest.png", figure, "samples that are nearest to training images")
    if not judged:
        return found

    def reconstruct(x: np.ndarray) -> np.ndarray:
        return x if model.first.bottleneck == "none" else model.reconstruct(x)

    reference = HeldOut.others(data.validation, n, shown)
    numbers = judge(config, kind, held_out, images[:judged], reconstruct, reference, lpips_weights)
    if "kid" in numbers:
        what = "KID of the samples, and the best that can be"
        _write(run, "kid.png", kid_figure(numbers["kid"]), what)
    guided = {name: report | {"guidance": settings.guidance} for name, report in numbers.items()}
    return found | guided


def _write(run: RunDir, name: str, figure: np.ndarray, what: str, metadata: Any = None) -> None:
    if jax.process_index() == 0:
        file = run.to_write(name)
        plots.save_png(file, figure, metadata)
        log.info("%s: %s", what, file)
