"""What the data of a published model was like: its names, tokenizer and numbers of classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from ldm_jax.conditioning.subwords import SubwordTokenizer
from ldm_jax.errors import UserError
from ldm_jax.experiments.config import DiffusionStage
from ldm_jax.model.conditioning import SUBWORDS
from ldm_jax.model.data import published_tokenizer
from ldm_jax.model.data_info import DataInfo
from ldm_jax.model.parts import TrainedStage
from ldm_jax.model.placeholder import placeholder_info
from ldm_jax.pretrained.match import plain_name
from ldm_jax.text_files import lines_of, read_text

# Arrays whose shape says how many classes a model knows: kind -> (pattern of names, axis)
COUNTS = {
    "class": (r"(cond_stage_model|tau)[./]embedding\.weight|(.*[./])?(label_emb|class_embedding)"
              r"\.weight", 0),
    "semantic": (r"(cond_stage_model|tau)[./]channel_mapper\.weight", 1),
}  # fmt: skip


def published_info(stage: DiffusionStage, trained: TrainedStage) -> DataInfo:
    """The facts of a published model's training data, without its tokenizer."""
    if trained == "autoencoder":
        return DataInfo(channels=3, condition="none")
    if stage.condition == "auto" or (stage.condition == "text" and stage.tokenizer == "words"):
        raise UserError("this experiment has no published weights: its data decides its networks")
    return placeholder_info(stage)


def with_tokenizer(info: DataInfo, stage: DiffusionStage, file: str) -> DataInfo:
    """With the tokenizer of a model of texts, from a file or downloaded; others as they are.

    Raises:
      UserError: a tokenizer of more tokens than the model knows.
    """
    if info.condition != "text":
        return info
    chosen = DiffusionStage(tokenizer=stage.tokenizer, tokenizer_file=file)
    info = replace(info, tokenizer=published_tokenizer(chosen))
    size = SubwordTokenizer(info.tokenizer, stage.tokenizer).size
    if size > (most := SUBWORDS[stage.tokenizer]):
        raise UserError(f"this tokenizer.json has {size} tokens; the model knows {most}")
    return info


def with_names(info: DataInfo, file: str) -> DataInfo:
    """The classes, or the objects of layouts, called as a file says that has a name a line.

    Raises:
      UserError: one line for a file that is not that, for names that are not as many as the model
        has, or two alike, and for a model without names.
    """
    field = {"class": "class_names", "layout": "box_names"}.get(info.condition)
    if field is None:
        raise UserError("--names is for a model of classes or layouts, which this is not")
    names = tuple(line.strip() for line in lines_of(read_text(file, "--names").strip()))
    if len(names) != (known := len(getattr(info, field))):
        raise UserError(f"--names {file} has {len(names)} lines; the model knows {known} names")
    if twice := [name for name, n in Counter(names).items() if n > 1 or not name]:
        raise UserError(f"--names {file} has the line {twice[0]!r} twice, or it is empty")
    return replace(info, **{field: names})


def with_counts(
    info: DataInfo,
    stage: DiffusionStage,
    names: Iterable[str],
    shape: Callable[[str], Sequence[int]],
) -> DataInfo:
    """With as many classes as a file has, which an experiment leaves open.

    Args:
      names: of the arrays in the file. shape: name -> its shape.
    """
    pattern, axis = COUNTS.get(info.condition, ("", 0))
    shapes = [
        shape(name)
        for name in (names if pattern else ())
        if re.fullmatch(pattern, plain_name(name))
    ]
    if not shapes or len(shapes[0]) < 2:
        return info
    n = shapes[0][axis]
    if info.condition == "semantic":
        return replace(info, semantic_classes=n)
    n -= stage.drop_probability > 0  # "no class" is one of them
    if n == len(info.class_names):
        return info
    return replace(info, class_names=tuple(str(i) for i in range(n)))
