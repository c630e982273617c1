"""Whether a model repeats images it was trained on: checked with the samples at the end of a run.

Not on scenes, of which more can be drawn than any model remembers, and not for images that are
restored, which are like their own truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from ldm_jax.commands.evaluate.figures import closest, nearest_figure
from ldm_jax.data.source import Source
from ldm_jax.data.spread import spread
from ldm_jax.evaluation.features import NETWORKS, FeatureName, extract
from ldm_jax.evaluation.nearest import memorisation
from ldm_jax.model.data import OpenData
from ldm_jax.pretrained.feature_networks import load_network

# Comes with the package. On photographs, samples that are merely blurred are no closer to training
# images by it, and copies that are blurred or mirrored are (docs/your_images.md).
FEATURES: FeatureName = "scene-reader"
MOST = 100_000  # training images whose features are computed: 2 ms of a core each
HELD_OUT = 512  # held-out images that samples are compared with, at most
LEAST = 5  # of each, for a verdict: five copies and five new images differ by chance in 0.4 %
IMPROBABLE = 0.01  # the p-value below which the check is failed
BATCH = 64  # images whose features are computed at a time


def nearest_check(data: OpenData, samples: np.ndarray) -> tuple[dict[str, Any], np.ndarray | None]:
    """(numbers for the summary, figure of the closest pairs): are samples copies?

    The check is passed unless samples (uint8 `[n, H, W, C]`) lie so much nearer to training images
    than held-out images do that chance does not explain it; see `evaluation.nearest`.

    Returns:
      The numbers are `why_not` alone, and the figure is None, where there can be no verdict.
    """
    train, held_out = data.train, data.validation
    if (n := min(len(held_out), len(samples))) < LEAST:
        what = "held-out images" if n == len(held_out) else "samples"
        return {"why_not": f"{n} {what}, and {LEAST} or more are needed"}, None
    if len(train) > MOST:
        return {"why_not": "too many training images; evaluate --training True has the time"}, None

    network, weights = NETWORKS[FEATURES], load_network(FEATURES)

    def features(images: np.ndarray) -> np.ndarray:
        return extract(network, weights, images, BATCH)

    real = held_out.read(spread(held_out, HELD_OUT))["image"]
    found = memorisation(
        training=np.concatenate([features(images) for images in _in_parts(train)]),
        generated=features(samples),
        held_out=features(real),
    )
    pairs = {"sample": (samples, found.generated), "held-out": (real, found.held_out)}
    numbers = sorted({int(one.index[i]) for _, one in pairs.values() for i in closest(one)})
    training = dict(zip(numbers, train.read(numbers)["image"], strict=True))
    report = {
        "passed": found.p_value >= IMPROBABLE,
        "closer": round(found.closer, 4),
        "p_value": float(f"{found.p_value:.3g}"),
        "features": FEATURES,
        "samples": len(samples),
        "held_out_images": len(real),
        "training_images": len(train),
    }
    return report, nearest_figure(pairs, training)


def _in_parts(source: Source, size: int = 1024) -> Iterator[np.ndarray]:
    """All images of a source, some at a time, with a bar."""
    n, silent = len(source), jax.process_index() != 0
    with tqdm(total=n, desc="looking for copies", unit="image", delay=1, disable=silent) as bar:
        for start in range(0, n, size):
            images = source.read(range(start, min(start + size, n)))["image"]
            yield images
            bar.update(len(images))
