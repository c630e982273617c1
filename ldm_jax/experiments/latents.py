"""What stage 2 trains on: the first stage's posterior, computed once, or pictures to encode."""

from __future__ import annotations

import jax
import numpy as np
from tqdm import tqdm

from ldm_jax.data.loader import Batch, Loader, Transform, flip
from ldm_jax.data.source import ArraySource
from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.data import Encoder, OpenData, encode_condition
from ldm_jax.experiments.models import FirstStage, scale_factor

BATCH = 64  # pictures encoded at a time
FOR_SCALE = 2048  # pictures whose latents give the scale factor, at most


def cached_latents(
    first: FirstStage, params: dict, data: OpenData, encoder: Encoder | None, mirrored: bool
) -> ArraySource:
    """The posterior of every training picture, and its condition, in memory.

    `moments` float32 `[n, v, h, w, 2c]` are mean and log-variance, not samples: each step draws its
    own z, as it would from the pictures. v is 1, or 2 with the mirror image. `condition` int32.
    """
    encode = jax.jit(first.encode)
    n, moments, conditions = len(data.train), [], []
    with tqdm(total=n, desc="encoding pictures", unit="picture", disable=_silent()) as bar:
        for start in range(0, n, BATCH):
            rows = np.minimum(np.arange(start, start + BATCH), n - 1)
            batch = data.train.read(rows)
            views = [batch["image"], batch["image"][:, :, ::-1]][: 1 + mirrored]
            moments.append(np.stack([encode(params, view) for view in views], axis=1)[: n - start])
            if encoder is not None:
                conditions.append(encode_condition(encoder, batch)[: n - start])
            bar.update(len(moments[-1]))
    arrays = {"moments": np.concatenate(moments)}
    if encoder is not None:
        arrays["condition"] = np.concatenate(conditions)
    return ArraySource(arrays)


def latent_loader(
    experiment: Experiment,
    first: FirstStage,
    params: dict,
    data: OpenData,
    encoder: Encoder | None,
) -> tuple[Loader, np.float32]:
    """(batches for stage 2, the scale factor of App. G).

    The latents are cached unless pictures are cropped at random, or captions drawn at random, while
    training: then a batch holds the pictures, and every step encodes them.
    """
    mirrored = experiment.data.flip
    if data.fixed_views:
        source = cached_latents(first, params, data, encoder, mirrored)
        transform, moments = one_view, source.arrays["moments"][:FOR_SCALE, 0]
    else:
        source, transform = data.train, _pictures(encoder, mirrored)
        moments = _some_moments(first, params, data)
    loader = Loader(
        source,
        experiment.diffusion.batch_size,
        experiment.seed,
        transform=transform,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    return loader, np.float32(experiment.diffusion.scale_factor or scale_factor(moments))


def one_view(batch: Batch, rngs: list[np.random.Generator]) -> Batch:
    """`moments` `[B, v, h, w, 2c]` -> `[B, h, w, 2c]`: the picture or its mirror image."""
    moments = batch["moments"]
    view = np.array([rng.integers(moments.shape[1]) for rng in rngs])
    return {**batch, "moments": moments[np.arange(len(view)), view]}


def _pictures(encoder: Encoder | None, mirrored: bool) -> Transform:
    def transform(batch: Batch, rngs: list[np.random.Generator]) -> Batch:
        out = {"image": batch["image"]}
        if encoder is not None:
            out["condition"] = encode_condition(encoder, batch)
        return flip(out, rngs) if mirrored else out

    return transform


def _some_moments(first: FirstStage, params: dict, data: OpenData) -> np.ndarray:
    encode = jax.jit(first.encode)
    chosen = np.arange(min(FOR_SCALE, len(data.train)))
    pictures = data.train.read(chosen)["image"]
    batches = np.array_split(pictures, -(-len(chosen) // BATCH))
    return np.concatenate([encode(params, batch) for batch in batches])


def _silent() -> bool:
    return jax.process_index() != 0
