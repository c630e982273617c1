"""All distances between two sets of features, as a report."""

from __future__ import annotations

from typing import Any

import numpy as np

from ldm_jax.errors import UserError
from ldm_jax.evaluation.frechet import frechet_distance
from ldm_jax.evaluation.inception_score import inception_score
from ldm_jax.evaluation.kid import kid
from ldm_jax.evaluation.manifold import density_coverage, precision_recall
from ldm_jax.evaluation.sliced import sliced_wasserstein

FEWEST = 10  # images of a kind: as many as the splits of the Inception Score
K_MANIFOLD, K_DENSITY = 3, 5  # neighbours, as those who proposed the measures have them


def check_enough(**counts: int) -> None:
    """Raises UserError for a set of fewer than `FEWEST` images; the keywords are their names."""
    for name, count in counts.items():
        if count < FEWEST:
            raise UserError(
                f"{count} {name.replace('_', ' ')} images are too few: the measures need at least "
                f"{FEWEST} of each kind, and about 1,000 to say much"
            )


def compare(
    *, real: np.ndarray, generated: np.ndarray, logits: np.ndarray | None = None
) -> dict[str, Any]:
    """Every measure of features `[N, d]`, as JSON: a dictionary for each.

    `kid`, `frechet_distance`, `sliced_wasserstein`, `precision_recall`, `density_coverage` and,
    where there are logits, `inception_score`. Each has its numbers of images; where these are few
    `caution` says what that means.

    Args:
      logits: of the generated images, `[N, classes]`.

    Raises:
      UserError: fewer than `FEWEST` images of a kind, values that are not finite, other widths.
    """
    check_enough(real=len(real), generated=len(generated))
    sets = {"real": real, "generated": generated}
    found = {
        "kid": kid(**sets),
        "frechet_distance": frechet_distance(**sets),
        "sliced_wasserstein": sliced_wasserstein(**sets),
        "precision_recall": precision_recall(**sets, k=K_MANIFOLD),
        "density_coverage": density_coverage(**sets, k=K_DENSITY),
    }
    if logits is not None:
        found["inception_score"] = inception_score(logits=logits)
    return {name: _as_json(measure) for name, measure in found.items()}


def compare_pairs(*, originals: np.ndarray, reconstructions: np.ndarray) -> dict[str, Any]:
    """Distances of features `[N, d]` of reconstructions to those of the same images.

    The convention of rFID (Table 8): both sets are of the same images. Without KID, whose estimate
    is unbiased for independent sets only.
    """
    check_enough(original=len(originals))
    sets = {"real": originals, "generated": reconstructions}
    found = {
        "frechet_distance": frechet_distance(**sets),
        "sliced_wasserstein": sliced_wasserstein(**sets),
    }
    return {name: _as_json(measure) for name, measure in found.items()}


def _as_json(measure: Any) -> dict[str, Any]:
    """The fields of a NamedTuple; an empty caution is left out."""
    fields = measure._asdict()
    return {name: value for name, value in fields.items() if value != ""}
