"""What a command asks a run for: captions or classes to draw, and classes to guide towards."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from etils import epath

from ldm_jax.conditioning.class_label import ClassLabels
from ldm_jax.data.loader import Batch
from ldm_jax.errors import UserError
from ldm_jax.experiments.guide import GuideOptions
from ldm_jax.experiments.models import SecondStage


class Asked(NamedTuple):
    """A row for each caption or class; one row if it is unconditional."""

    seen: Batch | None
    """As the model sees it; the null condition where the guides alone decide; None if
    unconditional."""
    labels: list[str]
    """What to print under an image."""
    towards: list[str]
    """The class to guide it towards; none without --classifier-scale."""


def ask(
    second: SecondStage,
    captions: list[str],
    classes: list[str],
    lines: list[str],
    guides: GuideOptions,
) -> Asked:
    """What is asked for by --caption, --class-label, and --from-file, which may hold either.

    Classes are what a model of classes draws. With --classifier-scale they are what any model is
    guided towards; one of captions then draws its captions with one class each, or one for all, or
    without any caption.

    Raises:
      UserError: what this run cannot draw, or what does not fit together.
    """
    encoder = getattr(second.condition, "encoder", None)
    classified = guides.classifier_scale != 0
    if encoder is None and second.kind != "none":
        raise UserError(f"this run's condition, {second.kind}, cannot be drawn from here")
    of_classes = isinstance(encoder, ClassLabels)
    if of_classes and classes == ["all"] and "all" not in encoder.names:
        classes = list(encoder.names)
    if encoder is None:
        wanted, towards = [], classes + lines
    elif of_classes:
        wanted = towards = classes + lines
    else:
        wanted, towards = captions + lines, classes
    _check_kind(second, captions, towards, classified)
    if classified and not towards:
        raise UserError("--classifier-scale leads towards classes: give --class-label NAME")
    towards = towards if classified else []
    if encoder is None:
        return Asked(None, towards or [""], towards)
    if wanted:
        labels = wanted
        if towards and not of_classes:
            towards = _one_each(wanted, towards)
            labels = [f"{a}, towards {b}" for a, b in zip(wanted, towards, strict=True)]
        return Asked({"condition": encoder.encode(wanted)}, labels, towards)
    if second.guidable and guides.given():
        labels = towards or [""]
        null = np.stack([second.generator.null] * len(labels))
        return Asked({"condition": null}, labels, towards)
    takes, option = (
        ("classes", "--class-label NAME") if of_classes else ("captions", '--caption "..."')
    )
    raise UserError(f"this run draws {takes}: give {option} or --from-file FILE")


def _check_kind(
    second: SecondStage, captions: list[str], classes: list[str], classified: bool
) -> None:
    encoder = getattr(second.condition, "encoder", None)
    if encoder is None and (captions or (classes and not classified)):
        raise UserError(
            "this run is unconditional: it takes no captions, and no classes but those to guide "
            "towards, with --classifier-scale"
        )
    if isinstance(encoder, ClassLabels):
        if captions:
            raise UserError("this run was trained on classes: use --class-label")
    elif encoder is not None and classes and not classified:
        raise UserError(
            "this run was trained on captions: use --caption, or --classifier-scale to guide it "
            "towards a class"
        )


def _one_each(captions: list[str], classes: list[str]) -> list[str]:
    if len(classes) not in (1, len(captions)):
        raise UserError(
            f"there are {len(captions)} captions and {len(classes)} classes to guide them towards; "
            "give one for each, or one for all"
        )
    return classes * (len(captions) // len(classes))


def lines_of(file: str) -> list[str]:
    """The lines of --from-file that are not blank. UserError where there are none."""
    path = epath.Path(file).expanduser()
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--from-file {file} cannot be read: {error}") from error
    if not any(lines):
        raise UserError(f"--from-file {file} has no line with a caption or class")
    return [line for line in lines if line]
