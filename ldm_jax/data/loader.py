"""The loader: the examples of batch k are a pure function of (seed, k).

Nothing has to be saved to resume: the position in the data is the step. Training examples have
positions 0, 1, 2, ... without end; epoch e consists of positions e*n to (e+1)*n and visits each of
the n examples once, in its own order.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import count

import numpy as np

from ldm_jax.data.source import Source
from ldm_jax.errors import UserError

Batch = dict[str, np.ndarray]
MAX_THREADS = 8
Transform = Callable[[Batch, list[np.random.Generator]], Batch]


@lru_cache(maxsize=4)  # a batch may span two epochs, and training and validation take turns
def epoch_order(epoch: int, n: int, seed: int) -> np.ndarray:
    """The order in which epoch `epoch` visits n examples: int [n], read-only."""
    order = np.random.default_rng([seed, epoch]).permutation(n)
    order.flags.writeable = False
    return order


def batch_positions(step: int, batch_size: int) -> np.ndarray:
    """The positions of the training examples of batch `step`: int [B]."""
    return np.arange(step * batch_size, (step + 1) * batch_size)


def example_indices(positions: np.ndarray, n: int, seed: int) -> np.ndarray:
    """The examples, in [0, n), at these positions: int [B]."""
    epochs, places = np.divmod(positions, n)
    indices = np.empty_like(positions)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = epoch_order(int(epoch), n, seed)[places[here]]
    return indices


def flip(batch: Batch, rngs: list[np.random.Generator]) -> Batch:
    """Mirrors each 'image' left to right with probability 1/2; a transform for `Loader`.

    See `mirror` for the other arrays of the batch.
    """
    return mirror(batch, np.array([rng.random() < 0.5 for rng in rngs]))


def random_crops(batch: Batch, side: int, rngs: list[np.random.Generator]) -> Batch:
    """Crops each 'image' [B, H, W, C] to a square [B, side, side, C] at a random place."""
    h, w = batch["image"].shape[1:3]
    corners = [(rng.integers(h - side + 1), rng.integers(w - side + 1)) for rng in rngs]
    squares = [
        x[top : top + side, left : left + side]
        for x, (top, left) in zip(batch["image"], corners, strict=True)
    ]
    return {**batch, "image": np.stack(squares)}


def mirror(batch: Batch, mirrored: np.ndarray) -> Batch:
    """Mirrors the chosen examples (bool [B]) left to right.

    'image', 'semantic' and 'low_res' are mirrored. 'boxes' and 'crop' are relative to the whole
    image, so they are mirrored about its middle, not about that of the crop. Rows of 'boxes'
    without a box (label -1) stay.
    """
    out = dict(batch)
    for key in ("image", "semantic", "low_res"):
        if key in batch:
            x = batch[key]
            out[key] = np.where(mirrored.reshape(-1, *[1] * (x.ndim - 1)), x[:, :, ::-1], x)
    if "boxes" in batch:
        turned = mirrored[:, None] & (batch["box_labels"] >= 0)
        out["boxes"] = np.where(turned[..., None], _mirrored(batch["boxes"]), batch["boxes"])
    if "crop" in batch:
        out["crop"] = np.where(mirrored[:, None], _mirrored(batch["crop"]), batch["crop"])
    return out


def _mirrored(boxes: np.ndarray) -> np.ndarray:
    """Boxes [..., 4] (left, top, right, bottom), mirrored left to right."""
    left, top, right, bottom = np.moveaxis(boxes, -1, 0)
    return np.stack([1 - right, top, 1 - left, bottom], axis=-1)


class Loader:
    """Batches of a source, shuffled anew each epoch, decoded ahead of time by threads.

    With several processes, each builds the same loader and makes its own `rows` of every batch,
    which equal those rows of a single process's batch.
    """

    wait_s: float
    """Seconds that consumers of `iterate` have waited for data so far."""

    def __init__(
        self,
        source: Source,
        batch_size: int,
        seed: int,
        *,
        transform: Transform | None = None,
        rows: np.ndarray | None = None,
        threads: int = 0,
        prefetch: int = 0,
    ) -> None:
        """batch_size: rows over all processes. rows: those of this process, int [n]; None: all.
        transform: pure NumPy, given one generator per row. threads: batches made in parallel (0:
        one per core, at most MAX_THREADS). prefetch: batches made ahead (0: twice the threads).
        Neither changes a batch.

        UserError for an empty source, a batch of less than one, or a seed below 0.
        """
        threads = threads or min(MAX_THREADS, os.cpu_count() or 1)
        prefetch = prefetch or 2 * threads
        if len(source) == 0:
            raise UserError("the data set is empty")
        if batch_size < 1:
            raise UserError(f"the batch size must be 1 or more, got {batch_size}")
        if seed < 0:
            raise UserError(f"the seed must be 0 or more, got {seed}")
        if threads < 1 or prefetch < 1:
            raise UserError(f"threads and prefetch must not be negative: {threads}, {prefetch}")
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self.transform = transform
        self.threads, self.prefetch = threads, prefetch
        self._rows = np.arange(batch_size) if rows is None else rows
        self.wait_s = 0.0

    def batch(self, step: int) -> Batch:
        """This process's rows of batch `step`: a pure function of (seed, step, rows)."""
        positions = batch_positions(step, self.batch_size)[self._rows]
        # The generator depends on the position, so an example is cropped anew in every epoch.
        rngs = [np.random.default_rng([self.seed, 1, int(p)]) for p in positions]
        batch = self.source.read(example_indices(positions, len(self.source), self.seed), rngs)
        return batch if self.transform is None else self.transform(batch, rngs)

    def iterate(self, start_step: int = 0) -> Iterator[Batch]:
        """Batches start_step, start_step + 1, ... without end, prefetched, in order.

        An exception in a thread is raised here, at its batch. Closing the iterator waits only for
        the batches being made at that moment.
        """
        pool = ThreadPoolExecutor(self.threads, "loader")
        try:
            steps = count(start_step)
            ahead = deque(pool.submit(self.batch, next(steps)) for _ in range(self.prefetch))
            while True:
                start = time.perf_counter()
                batch = ahead.popleft().result()
                self.wait_s += time.perf_counter() - start
                ahead.append(pool.submit(self.batch, next(steps)))
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
