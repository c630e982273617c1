"""Which images a first stage was trained on: by their pixels, whatever the files are called."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
from tqdm import tqdm

from ldm_jax.data.open import open_sources
from ldm_jax.data.scenes import ScenesConfig
from ldm_jax.data.source import Source
from ldm_jax.errors import UserError
from ldm_jax.experiments.config import Experiment
from ldm_jax.model.data import identity
from ldm_jax.model.data_info import DataInfo
from ldm_jax.model.find import find_run, is_run
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.resume import same_split

MOST = 200_000  # training images that are read again to compare with
Part = Literal["trained on", "held out", "neither"]
log = logging.getLogger(__name__)


def parts(model: LatentDiffusion, images: np.ndarray) -> list[Part]:
    """The part of each image in the training of a model's first stage, or [] where nobody knows.

    Two images are the same where all pixels are equal once they are cropped and resized as the
    training images are. The data is read again for it. A line says so where it lies elsewhere now,
    or where there is too much of it.

    Args:
      images: uint8 `[n, H, W, C]`, as the model's data configuration makes them.
    """
    try:
        config, info = _of_first_stage(model)
        if isinstance(config.data, ScenesConfig):
            log.info("the first stage was trained on scenes, which are drawn")
            return []
        if not info.images:
            raise UserError("its weights were published without their images")
        data = same_split(replace(config.data, crop="centre"), info)
        train, held_out = open_sources(data, config.seed)
        if len(train) > MOST:
            raise UserError(f"{len(train):,} are too many to read again")
    except UserError as error:
        log.warning("which of these the model was trained on is not known: %s", error)
        return []
    if info.files_digest not in ("", identity(train, held_out)["files_digest"]):
        log.warning("the data has changed since the training: images added later count as well")
    seen = set(_digests(train, "reading the training images"))
    known = set(_digests(held_out, "reading the held-out images")) - seen

    def part(digest: bytes) -> Part:
        return "trained on" if digest in seen else "held out" if digest in known else "neither"

    return [part(_digest(image)) for image in images]


def _of_first_stage(model: LatentDiffusion) -> tuple[Experiment, DataInfo]:
    """The configuration and the data of the run that has trained the first stage of a model."""
    config, info = model.config, model.info
    while lender := config.autoencoder.from_run:
        if not is_run(lender):
            raise UserError(f"its first stage is that of {lender}, which is not there")
        _, config, info = find_run(lender).load()
    if config.init_from:
        log.info(
            "it began with the weights of %s: images of that run count as neither", config.init_from
        )
    return config, info


def _digests(source: Source, title: str, size: int = 512) -> Iterator[bytes]:
    for start in tqdm(range(0, len(source), size), title, delay=1, unit_scale=size, unit="img"):
        rows = range(start, min(start + size, len(source)))
        yield from map(_digest, source.read(rows)["image"])


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()
