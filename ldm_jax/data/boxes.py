"""Boxes around the objects in images, and rows of a batch with them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ldm_jax.data.images import Box

MAX_BOXES = 30
"""The most boxes of one example, as in the paper's layouts (App. E.2.1)."""


class Boxes(NamedTuple):
    """The boxes of one image, in the order of its annotations."""

    corners: np.ndarray  # float32 [k, 4]: left, top, right, bottom as fractions of the whole image
    labels: np.ndarray  # int32 [k]


def clipped_boxes(corners, labels) -> Boxes:
    """Boxes of corners [k, 4] and labels [k], clipped at the image's edges.

    Empty boxes and boxes with a label below 0 are dropped.
    """
    corners = np.clip(np.asarray(corners, np.float32).reshape(-1, 4), 0, 1)
    labels = np.asarray(labels, np.int32).reshape(-1)
    kept = (_area(corners) > 0) & (labels >= 0)
    return Boxes(corners[kept], labels[kept])


def to_batch(images: Sequence[Boxes], crops: Sequence[Box]) -> dict[str, np.ndarray]:
    """The boxes of n images as arrays of a batch, given the crop of each image.

    Boxes outside of the crop are left out; of more than `MAX_BOXES` the largest are kept, in their
    order. Coordinates stay relative to the whole image, as in the reference.

    Returns 'boxes' float32 [n, MAX_BOXES, 4], 'box_labels' int32 [n, MAX_BOXES] (-1: none) and
    'crop' float32 [n, 4].
    """
    boxes = np.zeros((len(images), MAX_BOXES, 4), np.float32)
    labels = np.full((len(images), MAX_BOXES), -1, np.int32)
    crop = np.asarray(crops, np.float32).reshape(-1, 4)
    for i, image in enumerate(images):
        corners = image.corners
        inside = np.concatenate(
            [np.maximum(corners[:, :2], crop[i, :2]), np.minimum(corners[:, 2:], crop[i, 2:])], 1
        )
        visible = np.flatnonzero(_area(inside) > 0)
        largest = np.argsort(-_area(corners[visible]), kind="stable")[:MAX_BOXES]
        visible = visible[np.sort(largest)]
        boxes[i, : len(visible)] = corners[visible]
        labels[i, : len(visible)] = image.labels[visible]
    return {"boxes": boxes, "box_labels": labels, "crop": crop}


def _area(corners: np.ndarray) -> np.ndarray:
    """Areas [k] of corners [k, 4]; 0 for boxes with right <= left or bottom <= top."""
    return np.prod(np.maximum(corners[:, 2:] - corners[:, :2], 0), axis=-1)
