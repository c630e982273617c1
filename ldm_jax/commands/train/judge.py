"""How well samples match their conditions: a number for each task, and what to compare it with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ldm_jax.autoencoder.perceptual import lpips
from ldm_jax.autoencoder.step import to_model_range
from ldm_jax.commands.train.held_out import HeldOut
from ldm_jax.data.degradations import upscale
from ldm_jax.data.masks import mean_fill
from ldm_jax.data.scenes import ScenesConfig
from ldm_jax.evaluation import oracle
from ldm_jax.evaluation.distortion import psnr, ssim
from ldm_jax.evaluation.scene_reports import box_report, caption_report, semantic_report, validity
from ldm_jax.experiments.config import Experiment

BATCH = 16  # pairs of images compared by LPIPS at a time


def is_judged(experiment: Experiment, kind: str) -> bool:
    """Whether there is a number for samples of this kind of condition, and it is wanted."""
    data = experiment.data
    if experiment.evaluation.judged_images == 0:
        return False
    if kind in ("super-resolution", "inpainting"):
        return data.size >= 11  # the window of SSIM
    return isinstance(data, ScenesConfig) and data.size in (oracle.SIZE, 2 * oracle.SIZE)


def judge(
    experiment: Experiment,
    kind: str,
    held_out: HeldOut,
    images: np.ndarray,
    reconstruct: Callable[[np.ndarray], np.ndarray],
    weights: dict | None,
) -> dict[str, Any]:
    """The numbers of a task, for the summary of a run.

    On scenes `oracle`: what is read in the `samples`, in the true images (`ceiling`), in what the
    first stage makes of those (`reconstructed`: as good as any second stage can be), and in the
    samples with the conditions of others (`floor`). For images that are restored `restored`: how
    far the `samples`, the simplest alternative, and the first stage's reconstructions (a ceiling)
    are from the truth.

    Args:
      images: samples, uint8 `[n, H, W, C]`. reconstruct: x -> D(E(x)), likewise.
      weights: of LPIPS on SqueezeNet, or None to do without.
    """
    n, truth = len(images), {key: rows[: len(images)] for key, rows in held_out.truth.items()}
    reconstructed = reconstruct(truth["image"])
    if kind == "super-resolution":
        low = held_out.conditions["low_res"][:n]
        other = {"bicubic": upscale(low, experiment.autoencoder.network.f)}
    elif kind == "inpainting":
        other = {
            "mean_fill": np.stack(list(map(mean_fill, truth["image"], held_out.conditions["mask"])))
        }
    else:
        best = _read(experiment, kind, truth, reconstructed)["samples"]
        report = _read(experiment, kind, truth, images)
        return {"oracle": report | {"reconstructed": best, "images": n}}
    compared = {"samples": images, **other, "reconstructed": reconstructed}
    scores = {who: distances(truth["image"], x, weights) for who, x in compared.items()}
    return {"restored": scores | {"images": n}}


def _read(experiment: Experiment, kind: str, truth: dict, images: np.ndarray) -> dict[str, Any]:
    if kind == "none":
        shares = {"samples": images, "ceiling": truth["image"]}
        return {who: {"valid": float(validity(x).mean())} for who, x in shares.items()}
    if kind == "layout":
        return box_report(images, truth["boxes"], truth["box_labels"], truth["image"])
    if kind == "semantic":
        return semantic_report(images, truth["semantic"], truth["image"])
    if experiment.data.level != "single":
        return caption_report(images, truth["caption"], truth["image"], truth["caption"])
    labels = truth["class_label"]
    return oracle.oracle_report(images, labels, truth["image"], labels)


def distances(x: np.ndarray, y: np.ndarray, weights: dict | None) -> dict[str, float]:
    """Means over images uint8 `[n, H, W, C]` and their truth: `psnr` in dB, `ssim`.

    And `lpips_squeezenet` where the weights of its network are given.
    """
    scores = {"psnr": psnr(x, y), "ssim": ssim(x, y)}
    if weights is not None:
        distance = jax.jit(
            lambda p, a, b: lpips(p, "squeezenet", to_model_range(a), to_model_range(b))
        )
        rows = [np.arange(i, i + BATCH) % len(x) for i in range(0, len(x), BATCH)]
        parts = [distance(weights, x[r], y[r]) for r in rows]
        scores["lpips_squeezenet"] = np.concatenate(parts)[: len(x)]
    return {name: round(float(np.mean(score)), 4) for name, score in scores.items()}
