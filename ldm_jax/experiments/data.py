"""Opens an experiment's data: training and held-out source, and the condition they carry."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np

from ldm_jax.conditioning.subwords import fetch_tokenizer, read_tokenizer
from ldm_jax.conditioning.tokenizer import Tokenizer
from ldm_jax.data.folder import FolderSource
from ldm_jax.data.scenes import ScenesSource, draw
from ldm_jax.data.source import ArraySource, Source, in_memory, split
from ldm_jax.data.tfds import TfdsSource, split_names
from ldm_jax.errors import UserError
from ldm_jax.experiments.config import DiffusionStage, Experiment, FolderData, ScenesData, TfdsData
from ldm_jax.experiments.run_dir import DataInfo

# What an example must have for each kind of condition.
NEEDS = {
    "text": "caption",
    "class": "class_label",
    "layout": "boxes",
    "semantic": "semantic",
    "super-resolution": "image",
    "inpainting": "image",
}


@dataclass(frozen=True)
class OpenData:
    """The two sources, and how their images and conditions are to be read."""

    train: Source
    validation: Source
    facts: DataInfo

    @property
    def fixed_views(self) -> bool:
        """Whether an example is the same image every time (but for a mirror image)."""
        return not getattr(self.train, "drawn", False)


def open_data(experiment: Experiment, needs_classes: bool = False) -> OpenData:
    """Draws or reads the data, into memory if it fits.

    UserError when there is none, or its images have no class although `needs_classes`.
    """
    data = experiment.data
    if isinstance(data, ScenesData):
        train, validation = _scenes(data, experiment.seed, experiment.diffusion.condition)
    elif isinstance(data, TfdsData):
        train, validation = _tfds(data, experiment.seed)
    else:
        train, validation = _folder(data, experiment.seed)
    condition = _condition(experiment.diffusion, train)  # before all of it is drawn or read
    if needs_classes and not train.class_names:
        raise UserError("this data has no class labels, which a classifier needs")
    train = _in_memory(train)
    return OpenData(train, validation, _facts(condition, experiment.diffusion, train))


def published_tokenizer(stage: DiffusionStage) -> str:
    """The content of tokenizer.json, of the file that the configuration names or downloaded."""
    if stage.tokenizer_file:
        return read_tokenizer(stage.tokenizer_file)
    return fetch_tokenizer(stage.tokenizer)


def _scenes(data: ScenesData, seed: int, condition: str) -> tuple[Source, Source]:
    extras = {"layout": ("boxes",), "semantic": ("semantic",)}.get(condition, ())
    train = ScenesSource(data.size, data.level, data.count, seed, "train", extras)
    held_out = ScenesSource(
        data.size, data.level, data.validation_count, seed, "validation", extras
    )
    return train, held_out


def _tfds(data: TfdsData, seed: int) -> tuple[Source, Source]:
    def open_split(which: str, crop: str) -> TfdsSource:
        return TfdsSource(
            data.name,
            which,
            data.dir,
            data.size,
            fit=data.fit,
            crop=crop,
            min_crop=data.min_crop,
            max_crop=data.max_crop,
            image_key=data.image_key,
            label_key=data.label_key,
            caption_key=data.caption_key,
            boxes_key=data.boxes_key,
            map_key=data.map_key,
        )

    names = split_names(data.name, data.dir)
    train = open_split("train", data.crop)
    if held_out := next((name for name in ("validation", "test") if name in names), None):
        return train, open_split(held_out, "centre")
    return split(train, data.validation, seed)


def _folder(data: FolderData, seed: int) -> tuple[Source, Source]:
    if not data.path:
        raise UserError("the folder of images is missing: --data.path FOLDER")

    def open_split(which: str, crop: str) -> FolderSource:
        return FolderSource(
            data.path,
            data.size,
            which,
            data.validation,
            seed,
            fit=data.fit,
            crop=crop,
            min_crop=data.min_crop,
            max_crop=data.max_crop,
            captions=data.captions,
            boxes=data.boxes,
            maps=data.maps,
            progress=_title("reading images"),
        )

    return open_split("train", data.crop), open_split("validation", "centre")


def _in_memory(source: Source) -> Source:
    if isinstance(source, ScenesSource):
        names = source.class_names, source.box_names, source.semantic_names
        return ArraySource(draw(source, progress=bool(_title("drawing scenes"))), *names)
    if isinstance(source, FolderSource):  # which keeps in memory what fits
        return source
    return in_memory(source, _title("reading images"))


def _title(title: str) -> str | None:
    """Of a bar, which one of the processes shows."""
    return title if jax.process_index() == 0 else None


def _condition(stage: DiffusionStage, train: Source) -> str:
    """The kind that the configuration asks for, if the data has it."""
    first = train.read([0])
    kinds = [kind for kind, key in NEEDS.items() if key in first]
    if stage.condition == "auto":
        return next((kind for kind in ("text", "class") if kind in kinds), "none")
    if stage.condition == "image-embedding":
        raise UserError(
            "models of image embeddings are converted and drawn from, but not trained here"
        )
    if stage.condition != "none" and stage.condition not in kinds:
        raise UserError(
            f"--diffusion.condition is {stage.condition}, but this data has only what is needed "
            f"for: {', '.join(kinds)}"
        )
    return stage.condition


def _facts(condition: str, stage: DiffusionStage, train: Source) -> DataInfo:
    facts = {"channels": train.channels, "condition": condition}
    facts["class_names"] = train.class_names or ()
    if condition == "layout":
        facts["box_names"] = train.box_names
    if condition == "semantic":
        facts["semantic_classes"] = len(train.semantic_names)
    if condition == "text" and stage.tokenizer != "words":
        facts["tokenizer"] = published_tokenizer(stage)
    elif condition == "text":
        tokenizer = Tokenizer.from_captions(_captions(train), stage.vocabulary)
        facts |= {"vocabulary": tokenizer.vocabulary, "caption_length": tokenizer.length}
    return DataInfo(**facts)


def _captions(source: Source) -> list[str]:
    chunks = np.array_split(np.arange(len(source)), max(1, len(source) // 512))
    return [caption for chunk in chunks for caption in source.read(chunk)["caption"]]
