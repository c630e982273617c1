"""The rows of a report: what is compared with the real images, by the features of each network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ldm_jax.evaluation.measures import FEWEST, compare, compare_pairs
from ldm_jax.evaluation.nearest import Memorisation, memorisation

Sets = Mapping[str, np.ndarray]
"""Images or features `[n, ...]`: `real`, `examples`, and where there are such `samples`, and what
was made of the examples: `reconstructions`, `bicubic`, `mean_fill`, `blurred`."""
MADE_OF_EXAMPLES = ("reconstructions", "bicubic", "mean_fill", "blurred")


def rows(features: Sets, independent: bool, logits: np.ndarray | None) -> dict[str, Any]:
    """Every measure of each row, as JSON.

    `samples` against all real images. Against real images that they are not made of, a half where
    the examples are the real images: `reconstructions`, what a perfect second stage would reach;
    `held_out`, other real images, what a perfect model would; `bicubic` or `mean_fill`, the
    simplest way to restore images; `blurred`, real images a little out of focus.
    `reconstructions_paired`: against the same images.

    Args:
      features: of all sets, `[N, d]`.
      independent: whether the examples are others than the real images.
      logits: of the samples, `[N, classes]`.
    """
    real, found = features["real"], {}
    others = {name: features[name] for name in MADE_OF_EXAMPLES if name in features}
    others["held_out"] = features["examples"]
    if "samples" in features:
        found["samples"] = compare(real=real, generated=features["samples"], logits=logits)
    if not independent:
        real, others = real[::2], {name: array[1::2] for name, array in others.items()}
    if len(others["held_out"]) >= FEWEST:
        found |= {name: compare(real=real, generated=array) for name, array in others.items()}
    if "reconstructions" in features:
        pair = {"originals": features["examples"], "reconstructions": features["reconstructions"]}
        found["reconstructions_paired"] = compare_pairs(**pair)
    return found


def memorised(features: Sets, training: np.ndarray) -> tuple[dict[str, Any], Memorisation]:
    """(nearest training images of the samples and of the real images as JSON, the same whole)."""
    found = memorisation(
        training=training, generated=features["samples"], held_out=features["real"]
    )
    distances = {"samples": found.generated.distance, "held_out": found.held_out.distance}
    report: dict[str, Any] = {
        "closer": found.closer,
        "p_value": found.p_value,
        "training_images": len(training),
    }
    for name, values in distances.items():
        quantiles = np.quantile(values, [0, 0.05, 0.5])
        keys = ("least", "percentile_5", "median")
        report[name] = dict(zip(keys, map(float, quantiles), strict=True)) | {"num": len(values)}
    closest = np.argsort(found.generated.distance, kind="stable")[:16]
    report["closest"] = [
        {
            "sample": int(i),
            "training": int(found.generated.index[i]),
            "distance": float(found.generated.distance[i]),
        }
        for i in closest
    ]
    return report, found
