"""The first file of a run: training images as the model gets them."""

from __future__ import annotations

import numpy as np

from ldm_jax import plots
from ldm_jax.data.loader import Batch, Loader, flip, random_crops
from ldm_jax.model.conditions import Condition
from ldm_jax.model.data import OpenData

SHOWN, LARGE_SHOWN = 32, 8  # images, at most, and of more than 256 pixels a side


def training_images(
    data: OpenData, condition: Condition | None, seed: int, crop_size: int = 0
) -> np.ndarray:
    """A grid of the first training images, none twice: uint8 `[H', W', 3]`.

    They are cropped, mirrored, degraded and masked as in training, with the captions, classes,
    boxes or maps that belong to them.

    Args:
      crop_size: of a first stage that is trained alone, on random squares (0: whole images); then
        without conditions.
    """

    def view(batch: Batch, rngs: list[np.random.Generator]) -> Batch:
        if crop_size:
            batch = random_crops({"image": batch["image"]}, crop_size, rngs)
        return flip(batch, rngs) if data.flip else batch

    n = min(SHOWN, len(data.train))
    batch = Loader(data.train, n, seed, transform=view).batch(0)
    if batch["image"].shape[1] > 256:
        n = min(LARGE_SHOWN, n)
        batch = {key: rows[:n] for key, rows in batch.items()}
    if condition is None or crop_size:
        return plots.grid(batch["image"], 8, least_side=144)
    rngs = [np.random.default_rng([seed, i]) for i in range(n)]
    conditions = condition.to_batch(condition.to_cache(batch), rngs)
    if any(labels := condition.labels(batch)):
        return plots.labelled_grid(batch["image"], labels)
    return plots.stacked(condition.illustrate(batch["image"], conditions))
