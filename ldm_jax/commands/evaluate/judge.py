"""All measures by the features of one network."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.commands.evaluate.feature_cache import CachedFeatures
from ldm_jax.commands.evaluate.generated import arrays_digest
from ldm_jax.commands.evaluate.reference import Reference
from ldm_jax.commands.evaluate.rows import Sets, memorised, rows
from ldm_jax.data.source import Source
from ldm_jax.evaluation.features import NETWORKS, class_logits
from ldm_jax.evaluation.nearest import Memorisation
from ldm_jax.training.processes import on_first
from ldm_jax.training.sharding import batch_sharding, make_mesh

PROBE = 64  # training images whose pixels are looked at, to know whether features are theirs
log = logging.getLogger(__name__)


class Judged(NamedTuple):
    """What a network says."""

    report: dict[str, Any]
    """As JSON."""
    nearest: Memorisation | None
    """Nearest training images, on process 0, where they were asked for."""


def judge_by(name: str, params: dict, sets: Sets, reference: Reference, batch_size: int) -> Judged:
    """Every row of the report by the features of a network.

    Args:
      name: of the network. params: its weights.
      sets: the images.
      batch_size: images whose features are taken at a time, at most.
    """
    network = NETWORKS[name]
    cached = CachedFeatures(network, params, batch_size, batch_sharding(make_mesh()))
    features = {title: cached.of_images(images, title) for title, images in sets.items()}
    train, of_training = reference.train, None
    if train is not None:
        first = arrays_digest(read_image(train, range(min(PROBE, len(train)))))
        of_training = cached.of_source(
            lambda some: read_image(train, some),
            len(train),
            f"{reference.facts['digest']} {first}",
            "training images",
        )
    nearest: list[Memorisation] = []

    def measure() -> dict[str, Any]:
        logits = None
        if network.logits is not None and "samples" in features:
            logits = class_logits(network, params, features["samples"])
        found: dict[str, Any] = {"rows": rows(features, reference.independent, logits)}
        if of_training is not None:
            found["nearest_training"], whole = memorised(features, of_training)
            nearest.append(whole)
        return found

    log.info("%s: measuring distances", name)
    report = {
        "dimension": network.dimension,
        "sha256_of_weights": cached.sha256,
        "frechet_distance_is": "FID" if name == "inception" else "Frechet distance",
    }
    return Judged(report | on_first(measure), nearest[0] if nearest else None)


def read_image(source: Source, some: range) -> np.ndarray:
    """Images of a source: uint8 `[n, H, W, C]`."""
    return source.read(some)["image"]
