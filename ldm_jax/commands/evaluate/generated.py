"""What a model makes: samples for held-out conditions, kept in an `.npz`, and reconstructions."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from ldm_jax.commands.evaluate.image_files import read_images
from ldm_jax.commands.sample.outputs import ManyImages
from ldm_jax.commands.sample.plan import Request
from ldm_jax.commands.train.held_out import HeldOut
from ldm_jax.data.degradations import upscale
from ldm_jax.data.masks import mean_fill
from ldm_jax.data.source import digest
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.sampling.settings import SamplingSettings
from ldm_jax.training.processes import all_processes, on_all

RECONSTRUCTED_AT_ONCE = 256
log = logging.getLogger(__name__)


class Samples(NamedTuple):
    """Generated images, and how they were made."""

    images: np.ndarray
    """uint8 `[n, H, W, C]`."""
    facts: dict[str, Any]
    """Where they are kept, and what decides them, as JSON."""


def sampling_request(
    model: LatentDiffusion, examples: HeldOut, n: int, settings: SamplingSettings
) -> Request:
    """n samples for the conditions of the examples, in turns. Nothing is computed."""
    if examples.conditions is None:
        return Request(model, None, [""], n, settings)
    rows = np.arange(n) % examples.n
    conditions = {key: array[rows] for key, array in examples.conditions.items()}
    return Request(model, conditions, [""] * n, 1, settings)


def draw(request: Request, folder: epath.Path, weights: str) -> Samples:
    """Samples the images that are not in the folder yet; samples of the same settings are kept.

    Args:
      weights: the digest of the model's weights.
    """
    settings = asdict(request.settings)
    del settings["batch_size"]
    n = len(request.all_labels)
    what = [weights, n, sorted(settings.items()), arrays_digest(request.conditions or {})]
    file = folder / f"samples-{digest(what)}.npz"
    if any(all_processes(file.exists())):
        log.info("samples of these settings are there already: %s", file)
    else:
        made_by = {"weights": weights} | settings
        with ManyImages(file, "archive", request, made_by, {}) as writer:
            if len(writer.missing):
                inputs, done = request.inputs().subset(writer.missing), 0
                for images in request.model.batches(inputs, request.settings, progress="sampling"):
                    ids = writer.missing[done : done + len(images)]
                    writer.write(done, _composited(request, images, ids))
                    done += len(images)
            writer.finish()
    all_processes(None)  # it is written
    images = on_all(lambda: read_images("--out", str(file)))
    facts = {"file": str(file), "num": n} | settings
    facts["conditions"] = "those of held-out examples, in turns" if request.conditions else "none"
    facts["rounding"] = "clipped to [-1, 1], then to the nearest of 256 levels (uint8)"
    return Samples(images[..., : request.model.info.channels], facts)


def _composited(request: Request, images: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Images of these numbers, with their known part put back, where there is such."""
    parts = [request.composite(image[None], int(i)) for image, i in zip(images, ids, strict=True)]
    return np.concatenate(parts)


def reconstruct(model: LatentDiffusion, images: np.ndarray) -> np.ndarray:
    """D(E(x)) with a bar: uint8 `[n, H, W, C]` -> the same."""

    def parts() -> Iterator[np.ndarray]:
        count = -(-len(images) // RECONSTRUCTED_AT_ONCE)
        with tqdm(
            total=len(images), desc="reconstructing", unit="img", disable=jax.process_index() > 0
        ) as bar:
            for part in np.array_split(images, count):
                yield model.reconstruct(part)
                bar.update(len(part))

    return np.concatenate(list(parts()))


def simplest(model: LatentDiffusion, examples: HeldOut) -> dict[str, np.ndarray]:
    """What restores images of the examples without a model: {} for other conditions.

    `bicubic` for super-resolution, `mean_fill` for in-painting: uint8 `[n, H, W, C]`.
    """
    conditions, kind = examples.conditions, model.info.condition
    if kind == "super-resolution":
        return {"bicubic": upscale(conditions["low_res"], model.first.f)}
    if kind == "inpainting":
        pairs = zip(examples.truth["image"], conditions["mask"], strict=True)
        return {"mean_fill": np.stack([mean_fill(*pair) for pair in pairs])}
    return {}


def arrays_digest(tree: Any) -> str:
    """SHA-256 of all arrays of a tree, with their names, types and shapes."""
    total = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.asarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
    return total.hexdigest()
