"""The rows of a report: what is compared with the real images, by the features of each network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.evaluation.measures import FEWEST, compare, compare_pairs
from ldm_jax.evaluation.nearest import Memorisation, memorisation

Sets = Mapping[str, np.ndarray]
"""`real`, `examples`, and where there are such `samples` and `reconstructions`, of the examples:
images or features `[n, ...]`."""


class Halves(NamedTuple):
    """Two sets of real images that have none in common, and reconstructions of the second."""

    first: np.ndarray
    second: np.ndarray
    reconstructions: np.ndarray | None


def halves(sets: Sets, independent: bool) -> Halves | None:
    """None where there are too few images. independent: whether the examples are not the real."""
    real, examples, rebuilt = sets["real"], sets["examples"], sets.get("reconstructions")
    if not independent:
        real, examples = real[::2], examples[1::2]
        rebuilt = None if rebuilt is None else rebuilt[1::2]
    return Halves(real, examples, rebuilt) if len(examples) >= FEWEST else None


def rows(features: Sets, independent: bool, logits: np.ndarray | None) -> dict[str, Any]:
    """Every measure of each row, as JSON.

    `samples` against all real images. `reconstructions` and `held_out`, other real images, against
    the first half of `halves`: what a perfect second stage would reach, and what a perfect model
    would. `reconstructions_paired`: of reconstructions against the same images.

    Args:
      features: of all sets, `[N, d]`.
      logits: of the samples, `[N, classes]`.
    """
    found, split = {}, halves(features, independent)
    if "samples" in features:
        sets = {"real": features["real"], "generated": features["samples"]}
        found["samples"] = compare(**sets, logits=logits)
    if split is not None and split.reconstructions is not None:
        found["reconstructions"] = compare(real=split.first, generated=split.reconstructions)
    if split is not None:
        found["held_out"] = compare(real=split.first, generated=split.second)
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
    report: dict[str, Any] = {"closer": found.closer, "training_images": len(training)}
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
