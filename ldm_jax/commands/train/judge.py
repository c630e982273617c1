"""How well samples match their conditions: a number for each task, and what to compare it with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ldm_jax import plots
from ldm_jax.autoencoder.perceptual import lpips
from ldm_jax.autoencoder.step import to_model_range
from ldm_jax.commands.train.held_out import HeldOut
from ldm_jax.data.degradations import upscale
from ldm_jax.data.loader import Batch
from ldm_jax.data.masks import mean_fill
from ldm_jax.data.scenes import CLASS_NAMES, ScenesConfig
from ldm_jax.evaluation.distortion import psnr, ssim
from ldm_jax.evaluation.features import NETWORKS, FeatureName, extract
from ldm_jax.evaluation.kid import kid
from ldm_jax.evaluation.scene_network import SIZE, SMALL
from ldm_jax.evaluation.scene_reports import (
    box_report,
    box_scores,
    caption_report,
    caption_scores,
    semantic_report,
    semantic_scores,
    validity,
)
from ldm_jax.experiments.config import Experiment
from ldm_jax.pretrained.feature_networks import load_network

FEATURES: FeatureName = "scene-reader"
KID_BATCH = 64  # images whose features are computed at a time
LEAST = 32  # images of a kind, for KID: the standard error of fewer hides any difference
BATCH = 16  # pairs of images compared by LPIPS at a time


def judge(
    experiment: Experiment,
    kind: str,
    held_out: HeldOut,
    images: np.ndarray,
    reconstruct: Callable[[np.ndarray], np.ndarray],
    reference: np.ndarray,
    weights: dict | None,
) -> dict[str, Any]:
    """The numbers of a task, for the summary of a run.

    `kid`: the distance of the `samples` to other held-out images, of what the first stage makes of
    the true images (`reconstructed`: as good as any second stage can be), and of the true images
    themselves (`held_out`: 0 but for chance). On scenes `reader`: what is read in the samples, in
    the reconstructions, in the true images (`ceiling`), and in the samples with the conditions of
    others (`floor`). For images that are restored `restored`: how far the samples, the simplest
    alternative, and the reconstructions are from the truth.

    Args:
      images: samples, uint8 `[n, H, W, C]`. reconstruct: x -> D(E(x)), likewise.
      reference: other held-out images, likewise.
      weights: of LPIPS on SqueezeNet, or None to do without.
    """
    n = len(images)
    truth = {key: rows[:n] for key, rows in held_out.truth.items()}
    compared = {"samples": images}
    if kind == "super-resolution":
        low = held_out.conditions["low_res"][:n]
        compared["bicubic"] = upscale(low, experiment.autoencoder.network.f)
    elif kind == "inpainting":
        masks = held_out.conditions["mask"]
        compared["mean_fill"] = np.stack(list(map(mean_fill, truth["image"], masks)))
    compared["reconstructed"] = reconstruct(truth["image"])

    report: dict[str, Any] = {}
    if kind in ("super-resolution", "inpainting"):
        report["restored"] = {
            who: distances(truth["image"], x, weights) for who, x in compared.items()
        }
    elif isinstance(experiment.data, ScenesConfig) and experiment.data.size in (SMALL, SIZE):
        level = experiment.data.level
        report["reader"] = _read(kind, level, truth, images)
        best = read_conditions(kind, level, truth, compared["reconstructed"])
        report["reader"]["reconstructed"] = best
    if min(n, len(reference)) >= LEAST:
        report["kid"] = kernel_distances(compared | {"held_out": truth["image"]}, reference)
    return {name: scores | {"images": n} for name, scores in report.items()}


def kernel_distances(compared: dict[str, np.ndarray], reference: np.ndarray) -> dict[str, Any]:
    """KID of each set of images and its standard error, on the features that come with the package.

    Args:
      compared: name -> images uint8 `[n, H, W, C]`; a set of `reference` images, likewise.
    """
    network = NETWORKS[FEATURES]

    def features(images: np.ndarray) -> np.ndarray:
        return extract(network, load_network(FEATURES), images, KID_BATCH)

    real, found = features(reference), {}
    for who, images in compared.items():
        distance = kid(real=real, generated=features(images), num_subsets=10)
        found[who] = {"mean": distance.mean, "standard_error": distance.standard_error}
    return found | {"features": FEATURES, "reference_images": len(reference)}


def kid_figure(report: dict[str, Any]) -> np.ndarray:
    """The bars of a report's `kid`, the best that can be above the samples: uint8."""
    order = ("held_out", "reconstructed", "samples", "bicubic", "mean_fill")
    values = {
        who.replace("_", "-"): (report[who]["mean"], report[who]["standard_error"])
        for who in order
        if who in report
    }
    title = f"KID, {report['features']} features, {report['images']} images (lower is better)"
    return plots.bars(values, title)


def read_conditions(kind: str, level: str, truth: Batch, images: np.ndarray) -> dict[str, float]:
    """What the reader reads of the conditions of images of scenes, as shares.

    Args:
      kind: of the condition. level: of the scenes. truth: the example of each image.
    """
    if kind in ("class", "text"):
        return caption_scores(images, _captions(kind, level, truth))
    if kind == "layout":
        return box_scores(images, truth["boxes"], truth["box_labels"])
    if kind == "semantic":
        return semantic_scores(images, truth["semantic"])
    return {"valid": float(validity(images).mean())}


def _read(kind: str, level: str, truth: Batch, images: np.ndarray) -> dict[str, Any]:
    if kind == "layout":
        return box_report(images, truth["boxes"], truth["box_labels"], truth["image"])
    if kind == "semantic":
        return semantic_report(images, truth["semantic"], truth["image"])
    if kind in ("class", "text"):
        captions = _captions(kind, level, truth)
        return caption_report(images, captions, truth["image"], captions)
    shares = {"samples": images, "ceiling": truth["image"]}
    return {who: read_conditions(kind, level, truth, x) for who, x in shares.items()}


def _captions(kind: str, level: str, truth: Batch) -> list[str]:
    """What each image is to show, in words: all that is said of it, or its class."""
    if kind == "class" and level == "single":
        return [CLASS_NAMES[label] for label in truth["class_label"]]
    return list(truth["caption"])


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
