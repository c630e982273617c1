"""Prompts and classes from the command line: what to sample, and what to guide towards."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ldm_jax.commands.sample.command import ConditionOptions, GuideOptions
from ldm_jax.data.loader import Batch
from ldm_jax.errors import UserError
from ldm_jax.model.conditions import ClassCondition
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.text_files import lines_of, read_text


class Prompts(NamedTuple):
    """A row for each prompt or class; one row for an unconditional model."""

    conditions: Batch | None
    """As arrays; the null condition where the guides alone decide; None if unconditional."""
    labels: list[str]
    """What to print under an image."""
    targets: list[str]
    """The class to guide it towards; none without --classifier-scale."""


def parse_prompts(
    options: ConditionOptions, guides: GuideOptions, model: LatentDiffusion
) -> Prompts:
    """What --prompt, --class-label and --from-file ask for; the file may hold either.

    Classes are what a model of classes samples. With --classifier-scale they are what any model is
    guided towards; a model of captions then takes one class for each prompt, or one for all, or
    no prompt.

    Raises:
      UserError: what this model cannot sample, or what does not fit together.
    """
    prompts, classes = (
        [word for words in option for word in words]
        for option in (options.prompt, options.class_label)
    )
    lines = prompt_lines(options.from_file) if options.from_file else []
    encoder, guided_by_class = getattr(model.condition, "encoder", None), guides.classifier_scale
    if encoder is None and model.info.condition != "none":
        raise UserError(
            f"this model's condition, {model.info.condition}, can be given in Python alone: "
            "ldm_jax.load(RUN).sample(...)"
        )
    of_classes = isinstance(model.condition, ClassCondition)
    if of_classes and classes == ["all"] and "all" not in encoder.names:
        classes = list(encoder.names)
    if encoder is None:
        wanted, targets = [], classes + lines
    elif of_classes:
        wanted = targets = classes + lines
    else:
        wanted, targets = prompts + lines, classes
    _check_kind(model, prompts, targets, bool(guided_by_class))
    if guided_by_class and not targets:
        raise UserError("--classifier-scale guides towards classes: give --class-label NAME")
    targets = targets if guided_by_class else []
    if encoder is None:
        return Prompts(None, targets or [""], targets)
    if wanted:
        labels = wanted
        if targets and not of_classes:
            targets = _one_each(wanted, targets)
            labels = [f"{a}, towards {b}" for a, b in zip(wanted, targets, strict=True)]
        return Prompts(model.parse(wanted), labels, targets)
    if model.guidable and (guides.classifier_scale or guides.guide_image):
        labels = targets or [""]
        null = np.stack([model.condition.null] * len(labels))
        return Prompts({"condition": null}, labels, targets)
    takes = "classes: give --class-label NAME" if of_classes else 'captions: give --prompt "..."'
    raise UserError(f"this model was trained on {takes} or --from-file FILE")


def parse_negative(prompt: str, model: LatentDiffusion) -> Batch | None:
    """What --negative-prompt says, as arrays with one row; None without it.

    Raises:
      UserError: this model takes none.
    """
    if not prompt:
        return None
    if model.info.condition != "text":
        raise UserError(
            "--negative-prompt is for a model of captions; the condition of this one: "
            f"{model.info.condition}"
        )
    if not model.guidable:
        raise UserError(
            "this model was never trained without its condition: it takes no --negative-prompt"
        )
    return model.parse(prompt)


def _check_kind(
    model: LatentDiffusion, prompts: list[str], classes: list[str], guided_by_class: bool
) -> None:
    if model.condition is None and (prompts or (classes and not guided_by_class)):
        raise UserError(
            "this model is unconditional: it takes no prompts, and classes only to guide towards, "
            "with --classifier-scale"
        )
    if isinstance(model.condition, ClassCondition):
        if prompts:
            raise UserError("this model was trained on classes: use --class-label")
    elif model.condition is not None and classes and not guided_by_class:
        raise UserError(
            "this model was trained on captions: use --prompt, or --classifier-scale to guide it "
            "towards a class"
        )


def _one_each(prompts: list[str], classes: list[str]) -> list[str]:
    if len(classes) not in (1, len(prompts)):
        raise UserError(
            f"there are {len(prompts)} prompts and {len(classes)} classes to guide them towards; "
            "give one for each, or one for all"
        )
    return classes * (len(prompts) // len(classes))


def prompt_lines(file: str) -> list[str]:
    """The lines of --from-file that are not blank. UserError where there are none."""
    lines = [line.strip() for line in lines_of(read_text(file, "--from-file"))]
    if not any(lines):
        raise UserError(f"--from-file {file} has no line with a prompt or class")
    return [line for line in lines if line]
