"""What a report says: facts about the model, files, and a few lines."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from etils import epath

from ldm_jax import plots
from ldm_jax.commands.evaluate.figures import closest, evaluation_figure, nearest_figure
from ldm_jax.commands.evaluate.generated import arrays_digest
from ldm_jax.commands.evaluate.judge import read_image
from ldm_jax.commands.evaluate.rows import MADE_OF_EXAMPLES, Sets
from ldm_jax.commands.evaluate.scenes import scene_lines
from ldm_jax.commands.train.judge import distances
from ldm_jax.data.source import Source
from ldm_jax.evaluation.distortion import psnr
from ldm_jax.evaluation.nearest import Memorisation
from ldm_jax.model.find import find_run, is_run
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.paths import write_whole

SMALLEST_SIDE = 11  # of images that SSIM compares: its window


def model_facts(path: str, model: LatentDiffusion) -> dict[str, Any]:
    """What decides what a model makes, as JSON."""
    weights, stage = model.weights, model.config.diffusion
    facts: dict[str, Any] = {"path": path, "precision": model.config.precision}
    if is_run(path):
        run = find_run(path)
        facts |= {"experiment": run.load()[0], "run": run.id, "steps": run.begun()}
    facts["condition"] = model.info.condition
    average = stage.ema_decay if weights.params is not None else model.config.autoencoder.ema_decay
    facts["weights"] = "moving average (EMA)" if average else "as trained, no moving average"
    facts["scale_factor"] = float(weights.constants["scale_factor"])
    tree = (weights.params or {}, weights.constants)
    return facts | {"weights_sha256": arrays_digest(tree)}


def environment() -> dict[str, Any]:
    """Device and versions."""
    packages = ("ldm_jax", "jax", "numpy", "pillow")
    return {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
    }


def write_report(folder: epath.Path, report: Mapping[str, Any], sets: Sets) -> None:
    """evaluation.json and evaluation.png."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(report, indent=2, allow_nan=False) + "\n"
    write_whole(folder / "evaluation.json", content)
    # Each reconstruction is shown at the place of its original
    shown = {"real": sets["examples" if "reconstructions" in sets else "real"]}
    names = ("reconstructions", "samples", *MADE_OF_EXAMPLES)
    shown |= {name: sets[name] for name in names if name in sets}
    plots.save_png(folder / "evaluation.png", evaluation_figure(report, shown))


def write_nearest(
    folder: epath.Path, network: str, nearest: Memorisation, sets: Sets, train: Source
) -> None:
    """nearest.png: the samples that are nearest to training images, and such held-out images."""
    pairs = {
        "sample": (sets["samples"], nearest.generated),
        "held-out": (sets["real"], nearest.held_out),
    }
    numbers = {int(one.index[i]) for _, one in pairs.values() for i in closest(one)}
    training = {number: read_image(train, range(number, number + 1))[0] for number in numbers}
    figure = nearest_figure(pairs, training)
    plots.save_png(folder / "nearest.png", figure, {"features": network})


def lines(report: Mapping[str, Any]) -> list[str]:
    """The main numbers, a line for each network."""
    said = []
    for name, one in report["features"].items():
        parts = []
        for row in ("samples", *MADE_OF_EXAMPLES, "held_out"):
            if row in one["rows"]:
                kid = one["rows"][row]["kid"]
                numbers = f"{kid['mean']:.4f} ± {kid['standard_error']:.4f}"
                parts.append(f"{row.replace('_', '-')} {numbers} (N = {kid['num_generated']})")
        said.append(f"KID, {name} features: {', '.join(parts)}")
        if "nearest_training" in one:
            said.append(
                f"nearest training image, {name} features: a sample is closer than a held-out "
                f"image in {one['nearest_training']['closer']:.1%} of pairs (50 %: nothing "
                "memorised)"
            )
    for name, scores in report["distortion"].items():
        numbers = ["equal" if scores["psnr"] is None else f"PSNR {scores['psnr']:.2f} dB"]
        if "ssim" in scores:
            numbers.append(f"SSIM {scores['ssim']:.4f}")
        if "lpips_squeezenet" in scores:
            numbers.append(f"LPIPS (squeezenet) {scores['lpips_squeezenet']:.4f}")
        said.append(f"{name.replace('_', '-')}: {', '.join(numbers)} (N = {scores['num']})")
    if scenes := report.get("scenes"):
        said += scene_lines(scenes)
    return said


def distortions(sets: Sets, restored: bool, lpips: dict | None) -> dict[str, Any]:
    """PSNR, SSIM and LPIPS of what was made of the examples, means over the images, as JSON.

    None for the PSNR of equal images; without SSIM where images are smaller than its window.

    Args:
      restored: whether the samples are to be the images of the examples, too.
    """
    x, found = sets["examples"], {}
    names = ["samples", *MADE_OF_EXAMPLES] if restored else MADE_OF_EXAMPLES
    for name in names:
        if name in sets:
            truth = x[np.arange(len(sets[name])) % len(x)]
            found[name] = _distortion(truth, sets[name], lpips)
    return found


def _distortion(x: np.ndarray, x_hat: np.ndarray, lpips: dict | None) -> dict[str, Any]:
    if min(x.shape[1:3]) < SMALLEST_SIDE:
        scores = {"psnr": round(float(psnr(x, x_hat).mean()), 4)}
    else:
        scores = distances(x, x_hat, lpips)
    found = {name: value if math.isfinite(value) else None for name, value in scores.items()}
    return found | {"num": len(x)}
