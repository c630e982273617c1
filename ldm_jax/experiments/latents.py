"""What stage 2 trains on: the first stage's posterior, computed once, or images to encode."""

from __future__ import annotations

import math

import jax
import numpy as np
from tqdm import tqdm

from ldm_jax.data.loader import Batch, Loader, Transform, flip, mirror
from ldm_jax.data.source import ArraySource
from ldm_jax.experiments.conditions import Condition
from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.data import OpenData
from ldm_jax.experiments.models import FirstStage
from ldm_jax.training.sharding import AT_ONCE, in_batches, process_rows, put, tree_sharding

FOR_SCALE = 2048  # images whose latents give the scale factor, at most
MOST_CACHED = 8e9  # bytes of latents that are kept in memory


def cached_latents(
    first: FirstStage,
    params: dict,
    data: OpenData,
    condition: Condition | None,
    mirrored: bool,
    mesh: jax.sharding.Mesh,
) -> ArraySource:
    """The posterior of every training image, and what is kept of its condition, in memory.

    `encoded` float32 `[n, v, h, w, ...]` are mean and log-variance, not samples: each step draws
    its own z, as it would from the images. With a VQ bottleneck they are z. v is 1, or 2 with
    the mirror image.

    Each device encodes its share, and every process keeps all: an epoch has a new order, in which
    any of them may come to need any image.
    """
    encode, params = jax.jit(first.encode), put(params, tree_sharding(params, mesh, in_use=True))
    n, parts = len(data.train), []
    size = AT_ONCE * mesh.size
    with tqdm(total=n, desc="encoding images", unit="image", disable=_silent()) as bar:
        for start in range(0, n, size):
            batch = data.train.read(np.arange(start, min(start + size, n)))
            views = [batch["image"], batch["image"][:, :, ::-1]][: 1 + mirrored]
            encoded = [in_batches(encode, (params,), (view,), mesh) for view in views]
            parts.append({"encoded": np.stack(encoded, axis=1)})
            parts[-1] |= condition.keep(batch) if condition else {}
            bar.update(len(batch["image"]))
    return ArraySource({key: np.concatenate([part[key] for part in parts]) for key in parts[0]})


def latent_loader(
    experiment: Experiment,
    first: FirstStage,
    params: dict,
    data: OpenData,
    condition: Condition | None,
    mesh: jax.sharding.Mesh,
    batch_size: int = 0,
) -> tuple[Loader, np.float32]:
    """(batches for stage 2, or of another size, and the scale factor of App. G and D.1).

    The latents are cached unless images are cropped at random, or captions drawn at random, while
    training, or they would not fit into memory: then a batch holds the images, and every step
    encodes them. So it does without a first stage, where bytes are all there is to keep.
    """
    mirrored = experiment.data.flip
    cached = data.fixed_views and first.bottleneck != "none"
    if cached and _cache_bytes(first, data, condition) < MOST_CACHED:
        source = cached_latents(first, params, data, condition, mirrored, mesh)
        transform, encoded = _latents(condition), source.arrays["encoded"][:FOR_SCALE, 0]
    else:
        source, transform = data.train, _images(condition, mirrored)
        some = data.train.read(np.arange(min(FOR_SCALE, len(data.train))))["image"]
        encoded = in_batches(jax.jit(first.encode), (params,), (some,), mesh)
    batch_size = batch_size or experiment.diffusion.batch_size
    loader = Loader(
        source,
        batch_size,
        experiment.seed,
        transform=transform,
        rows=process_rows(batch_size, mesh),
        threads=experiment.loader.threads,
        prefetch=experiment.loader.ahead,
    )
    return loader, np.float32(experiment.diffusion.scale_factor or first.scale_factor(encoded))


def one_row(
    first: FirstStage,
    params: dict,
    example: Batch,
    condition: Condition | None,
    mirrored: bool,
    cached: bool,
) -> Batch:
    """A row as `latent_loader` has them in its batches, but for the latents, which are zero.

    Args:
      params: of the first stage; shapes are enough.
      example: one example as a source reads it. cached: whether latents are.
    """
    rngs = [np.random.default_rng(0)]
    if not cached:
        return _images(condition, mirrored)(example, rngs)
    encoded = jax.eval_shape(first.encode, params, example["image"])
    kept = condition.keep(example) if condition else {}
    return _latents(condition)(
        {"encoded": np.zeros(encoded.shape, encoded.dtype)[:, None], **kept}, rngs
    )


def one_view(batch: Batch, rngs: list[np.random.Generator]) -> Batch:
    """`encoded` `[B, v, h, w, ...]` -> `[B, h, w, ...]`: the image or its mirror image.

    All else in the batch that has a left and a right is mirrored with it.
    """
    encoded = batch["encoded"]
    view = np.array([rng.integers(encoded.shape[1]) for rng in rngs])
    return {**mirror(batch, view == 1), "encoded": encoded[np.arange(len(view)), view]}


def _latents(condition: Condition | None) -> Transform:
    def transform(batch: Batch, rngs: list[np.random.Generator]) -> Batch:
        batch = one_view(batch, rngs)
        encoded = {"encoded": batch.pop("encoded")}
        return encoded | (condition.view(batch, rngs) if condition else {})

    return transform


def _images(condition: Condition | None, mirrored: bool) -> Transform:
    def transform(batch: Batch, rngs: list[np.random.Generator]) -> Batch:
        batch = flip(batch, rngs) if mirrored else batch
        seen = condition.view(condition.keep(batch), rngs) if condition else {}
        return {"image": batch["image"], **seen}

    return transform


def _cache_bytes(first: FirstStage, data: OpenData, condition: Condition | None) -> int:
    """Of every image's moments and those of its mirror image, in float32, and its condition."""
    kept = condition.keep(data.train.read([0])) if condition else {}
    latents = 2 * 2 * math.prod(first.latent_shape) * 4
    return len(data.train) * (latents + sum(array.nbytes for array in kept.values()))


def _silent() -> bool:
    return jax.process_index() != 0
