"""A placeholder for data that is not opened: as that of the published models."""

from __future__ import annotations

import dataclasses
import json

import numpy as np

from ldm_jax.conditioning.layout import LayoutTokens
from ldm_jax.conditioning.subwords import PUBLISHED_TOKENIZERS
from ldm_jax.data.loader import Batch
from ldm_jax.data.scenes import ScenesConfig
from ldm_jax.errors import UserError
from ldm_jax.experiments.config import DiffusionStage, Experiment
from ldm_jax.model.conditioning import TEXT_LENGTH
from ldm_jax.model.data import open_data
from ldm_jax.model.data_info import DataInfo

IMAGENET_CLASSES = 1000
OPENIMAGES_OBJECTS = 354  # kinds of objects in the published layouts
SEMANTIC_CLASSES = 182  # of the published maps (COCO-Stuff)
SCENES = 256  # drawn, enough to have all words of their captions


def placeholder_info(stage: DiffusionStage) -> DataInfo:
    """Colour images, ImageNet's classes, OpenImages's objects, the maps of COCO-Stuff.

    Classes and objects are called by their numbers.
    """
    info = DataInfo(channels=3, condition=stage.condition)
    if stage.condition == "class":
        return dataclasses.replace(info, class_names=_numbers(IMAGENET_CLASSES))
    if stage.condition == "layout":
        most = LayoutTokens(("object",), stage.objects, stage.sections).vocabulary - 1
        return dataclasses.replace(info, box_names=_numbers(min(OPENIMAGES_OBJECTS, most)))
    if stage.condition == "semantic":
        return dataclasses.replace(info, semantic_classes=SEMANTIC_CLASSES)
    if stage.condition == "text" and stage.tokenizer != "words":
        return dataclasses.replace(info, tokenizer=_empty_tokenizer(stage.tokenizer))
    return info


def placeholder_data(experiment: Experiment) -> tuple[DataInfo, Batch]:
    """(info, one example as a source reads it) in place of an experiment's data.

    The scenes are drawn, a few of them; of any other data nothing is read: its one example is a
    black image with all that a condition may need. Words of captions are as many as the
    configuration allows, and captions as long as any encoder takes.

    Raises:
      UserError: where the data itself would decide what the model is conditioned on.
    """
    stage, data = experiment.diffusion, experiment.data
    if isinstance(data, ScenesConfig):
        few = dataclasses.replace(data, count=min(data.count, SCENES), validation_count=1)
        opened = open_data(few, stage, experiment.seed)
        return opened.info, opened.train.read([0])
    if stage.condition == "auto":
        raise UserError(
            "the condition of this experiment depends on its data, which is not opened here; "
            "give --diffusion.condition"
        )
    info = placeholder_info(stage)
    if stage.condition == "text" and stage.tokenizer == "words":
        words = _numbers(stage.vocabulary)
        info = dataclasses.replace(info, vocabulary=words, caption_length=TEXT_LENGTH)
    example = {
        "image": np.zeros((1, data.size, data.size, 3), np.uint8),
        "caption": np.array([""], object),
        "class_label": np.zeros(1, np.int32),
        "boxes": np.zeros((1, 1, 4), np.float32),
        "box_labels": np.zeros((1, 1), np.int32),
        "embedding": np.zeros((1, 1, info.embedding_dim), np.float32),
        "semantic": np.zeros((1, data.size, data.size), np.uint8),
    }
    return info, example


def _numbers(n: int) -> tuple[str, ...]:
    return tuple(str(i) for i in range(n))


def _empty_tokenizer(kind: str) -> str:
    """A tokenizer.json that knows no word: only what stands around a caption."""
    frame = PUBLISHED_TOKENIZERS[kind]
    tokens = dict.fromkeys((frame.pad, frame.first, frame.last))
    vocabulary = {token: i for i, token in enumerate(tokens)}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": frame.pad}
    return json.dumps({"version": "1.0", "added_tokens": [], "model": model})
