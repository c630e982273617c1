"""What stage 2 trains on: the first stage's posterior, computed once, or images to encode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import numpy as np
from tqdm import tqdm

from ldm_jax.data.loader import Batch, Loader, Transform, flip, mirror
from ldm_jax.data.source import ArraySource, gathered
from ldm_jax.data.spread import spread
from ldm_jax.model.conditions import Condition
from ldm_jax.model.data import OpenData
from ldm_jax.model.first_stage import FirstStage
from ldm_jax.training.config import LoaderConfig
from ldm_jax.training.sharding import (
    ROWS_PER_DEVICE,
    map_batches,
    process_rows,
    put,
    tree_sharding,
)

FOR_SCALE = 2048  # images whose latents give the scale factor, at most
MOST_CACHED = 8e9  # bytes of latents that are kept in memory


@dataclass(frozen=True)
class LatentView:
    """What a step of stage 2 reads of an example: its latent, or its image, and its condition."""

    first: FirstStage
    params: dict
    """Of the first stage."""
    condition: Condition | None
    mirrored: bool
    """Whether examples are mirrored at random."""

    def transform(self, cached: bool) -> Transform:
        """From rows of the source (of cached latents, or of images) to a batch."""
        return self._latents if cached else self._images

    def _latents(self, batch: Batch, rngs: list[np.random.Generator]) -> Batch:
        batch = one_view(batch, rngs)
        encoded = {"encoded": batch.pop("encoded")}
        return encoded | (self.condition.to_batch(batch, rngs) if self.condition else {})

    def _images(self, batch: Batch, rngs: list[np.random.Generator]) -> Batch:
        batch = flip(batch, rngs) if self.mirrored else batch
        conditions = {}
        if self.condition:
            conditions = self.condition.to_batch(self.condition.to_cache(batch), rngs)
        return {"image": batch["image"], **conditions}

    def to_cache(self, batch: Batch) -> Batch:
        """What is kept of the conditions of examples."""
        return self.condition.to_cache(batch) if self.condition else {}


def cached_latents(view: LatentView, data: OpenData, mesh: jax.sharding.Mesh) -> ArraySource:
    """The posterior of every training image, and what is kept of its condition, in memory.

    `encoded` float32 `[n, v, h, w, ...]` are mean and log-variance, not samples: each step draws
    its own z, as it would from the images. With a VQ bottleneck they are z. v is 1, or 2 with the
    mirror image.

    Each device encodes its share, and every process keeps all: an epoch has a new order, in which
    any of them may come to need any image.
    """
    encode = jax.jit(view.first.encode)
    params = put(view.params, tree_sharding(view.params, mesh, in_use=True))
    n = len(data.train)
    size, silent = ROWS_PER_DEVICE * mesh.size, jax.process_index() != 0
    each = view.first.rows_at_once(*data.train.read([0])["image"].shape[1:3])

    def parts() -> Iterator[Batch]:
        with tqdm(total=n, desc="encoding images", unit="image", disable=silent) as bar:
            for start in range(0, n, size):
                batch = data.train.read(np.arange(start, min(start + size, n)))
                images = [batch["image"], batch["image"][:, :, ::-1]][: 1 + view.mirrored]
                encoded = [map_batches(encode, (params,), (x,), mesh, each) for x in images]
                yield {"encoded": np.stack(encoded, axis=1), **view.to_cache(batch)}
                bar.update(len(batch["image"]))

    return ArraySource(gathered(n, parts()))


def latent_loader(
    view: LatentView,
    data: OpenData,
    mesh: jax.sharding.Mesh,
    batch_size: int,
    seed: int,
    config: LoaderConfig,
    most_cached: float = MOST_CACHED,
) -> tuple[Loader, Callable[[], np.float32]]:
    """(batches for stage 2, what measures the scale factor of App. G and D.1 when called).

    The latents are cached unless images are cropped at random, or captions drawn at random, while
    training, or they need more than `most_cached` bytes: then a batch holds the images, and every
    step encodes them. Without a first stage the batch holds the images, too.
    """
    cached = data.fixed_views and view.first.bottleneck != "none"
    if cached and _cache_bytes(view, data) < most_cached:
        source = cached_latents(view, data, mesh)
    else:
        cached, source = False, data.train

    def scale_factor() -> np.float32:
        rows = np.sort(spread(data.train, FOR_SCALE))
        if cached:
            return view.first.scale_factor(source.arrays["encoded"][rows, 0])
        images = data.train.read(rows)["image"]
        encode, each = jax.jit(view.first.encode), view.first.rows_at_once(*images.shape[1:3])
        return view.first.scale_factor(map_batches(encode, (view.params,), (images,), mesh, each))

    loader = Loader(
        source,
        batch_size,
        seed,
        transform=view.transform(cached),
        rows=process_rows(batch_size, mesh),
        threads=config.threads,
        prefetch=config.ahead,
    )
    return loader, scale_factor


def one_row(view: LatentView, example: Batch, cached: bool) -> Batch:
    """A row as `latent_loader` has them in its batches, but for the latents, which are zero.

    Args:
      view: its parameters may be shapes. example: one example as a source reads it. cached: whether
        latents are.
    """
    rngs = [np.random.default_rng(0)]
    if not cached:
        return view.transform(False)(example, rngs)
    encoded = jax.eval_shape(view.first.encode, view.params, example["image"])
    zeros = np.zeros(encoded.shape, encoded.dtype)[:, None]
    return view.transform(True)({"encoded": zeros, **view.to_cache(example)}, rngs)


def one_view(batch: Batch, rngs: list[np.random.Generator]) -> Batch:
    """`encoded` `[B, v, h, w, ...]` -> `[B, h, w, ...]`: the image or its mirror image.

    All else in the batch that has a left and a right is mirrored with it.
    """
    encoded = batch["encoded"]
    view = np.array([rng.integers(encoded.shape[1]) for rng in rngs])
    return {**mirror(batch, view == 1), "encoded": encoded[np.arange(len(view)), view]}


def _cache_bytes(view: LatentView, data: OpenData) -> int:
    """Of every image's moments and those of its mirror image, in float32, and its condition."""
    example = data.train.read([0])
    shape = jax.eval_shape(view.first.encode, view.params, example["image"]).shape
    kept = view.to_cache(example)
    return len(data.train) * (2 * 4 * math.prod(shape) + sum(a.nbytes for a in kept.values()))
