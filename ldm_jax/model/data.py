"""Opens the data: training and held-out source, and the condition they carry."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ldm_jax.conditioning.subwords import fetch_tokenizer, read_tokenizer
from ldm_jax.conditioning.tokenizer import Tokenizer
from ldm_jax.data.copies import copies, copies_notice
from ldm_jax.data.folder import FolderSource
from ldm_jax.data.open import DataConfig, into_memory, open_sources
from ldm_jax.data.scenes import ScenesSource, check_fits
from ldm_jax.data.source import Source, digest
from ldm_jax.errors import UserError
from ldm_jax.experiments.config import DiffusionStage
from ldm_jax.model.data_info import DataInfo
from ldm_jax.training.memory import host_bytes

log = logging.getLogger(__name__)
# Arrays of an example that are drawn or read only where they are needed
EXTRAS = {
    "layout": ("boxes",),
    "semantic": ("semantic",),
    "image-embedding": ("embedding",),
}
# What an example must have for each kind of condition.
NEEDS = {
    "text": "caption",
    "class": "class_label",
    "layout": "boxes",
    "semantic": "semantic",
    "super-resolution": "image",
    "inpainting": "image",
    "image-embedding": "embedding",
}


@dataclass(frozen=True)
class OpenData:
    """The two sources, and what the networks need to know of them."""

    train: Source
    validation: Source
    info: DataInfo
    flip: bool
    """Whether training mirrors examples at random."""

    @property
    def fixed_views(self) -> bool:
        """Whether an example is the same image every time (but for a mirror image)."""
        return not getattr(self.train, "is_random", False)


def open_data(
    data: DataConfig,
    stage: DiffusionStage,
    seed: int,
    needs_classes: bool = False,
    memory: float | None = None,
) -> OpenData:
    """Draws or reads the data, into memory if it fits.

    Args:
      stage: what of it the diffusion model is conditioned on.
      memory: bytes of this machine; None: as `host_bytes` finds them.

    Raises:
      UserError: there is none, its images have no class although `needs_classes`, or scenes do not
        fit into the memory.
    """
    progress = jax.process_index() == 0  # one of the processes shows bars
    extras = EXTRAS.get(stage.condition, ())
    train, validation = open_sources(data, seed, extras, progress)
    if isinstance(train, ScenesSource):
        check_fits(train, host_bytes() if memory is None else memory)
    condition = _condition(stage, train)  # before all of it is drawn or read
    if isinstance(train, FolderSource) and progress:
        if text := copies_notice(copies(train, validation), len(validation)):
            log.warning("%s", text)
    told_by = identity(train, validation)
    if needs_classes and not train.class_names:
        raise UserError("this data has no class labels, which a classifier needs")
    train = into_memory(train, progress)
    info = dataclasses.replace(_info(condition, stage, train), **told_by)
    return OpenData(train, validation, info, data.flip)


def published_tokenizer(stage: DiffusionStage) -> str:
    """The content of tokenizer.json, of the file that the configuration names or downloaded."""
    if stage.tokenizer_file:
        return read_tokenizer(stage.tokenizer_file)
    return fetch_tokenizer(stage.tokenizer)


def _condition(stage: DiffusionStage, train: Source) -> str:
    """The kind that the configuration asks for, if the data has it."""
    first = train.read([0])
    kinds = [kind for kind, key in NEEDS.items() if key in first]
    if stage.condition == "auto":
        return next((kind for kind in ("text", "class") if kind in kinds), "none")
    if stage.condition != "none" and stage.condition not in kinds:
        raise UserError(
            f"--diffusion.condition is {stage.condition}, but this data has only what is needed "
            f"for: {', '.join(kinds)}"
        )
    return stage.condition


def _info(condition: str, stage: DiffusionStage, train: Source) -> DataInfo:
    info = {"channels": train.channels, "condition": condition}
    info["class_names"] = train.class_names or ()
    if condition == "layout":
        info["box_names"] = train.box_names
    if condition == "semantic":
        info["semantic_classes"] = len(train.semantic_names)
    if condition == "image-embedding":
        info["embedding_dim"] = train.read([0])["embedding"].shape[-1]
    if condition == "text" and stage.tokenizer != "words":
        info["tokenizer"] = published_tokenizer(stage)
    elif condition == "text":
        tokenizer = Tokenizer.from_captions(_captions(train), stage.vocabulary)
        info |= {"vocabulary": tokenizer.vocabulary, "caption_length": tokenizer.length}
    return DataInfo(**info)


def identity(train: Source, validation: Source) -> dict[str, Any]:
    """The fields of `DataInfo` that tell this data from other data."""

    def both(attribute: str) -> str:
        digests = [getattr(source, attribute, "") for source in (train, validation)]
        return digest(digests) if any(digests) else ""

    return {
        "images": len(train),
        "held_out": len(validation),
        "held_out_below": getattr(train, "held_out_below", 0.0),
        "files_digest": both("files_digest"),
        "labels_digest": both("labels_digest"),
    }


def _captions(source: Source) -> list[str]:
    """Every caption of every example; no image is read for it."""
    chunks = np.array_split(np.arange(len(source)), max(1, len(source) // 512))
    return [caption for chunk in chunks for texts in source.texts(chunk) for caption in texts]
