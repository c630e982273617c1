"""What is compared with: held-out images of the data, in two independent halves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from ldm_jax.commands.evaluate.command import EvaluateCommand
from ldm_jax.commands.evaluate.image_files import read_images
from ldm_jax.commands.train.held_out import HeldOut
from ldm_jax.data.open import into_memory, open_sources
from ldm_jax.data.scenes import RENDER_VERSION, ScenesConfig
from ldm_jax.data.source import ArraySource, Source, Subset, digest
from ldm_jax.data.tfds import TfdsConfig
from ldm_jax.errors import UserError
from ldm_jax.evaluation.measures import check_enough
from ldm_jax.model.config_json import to_json
from ldm_jax.model.data import EXTRAS, NEEDS, identity
from ldm_jax.model.latent_diffusion import LatentDiffusion

# Images of a half. With fewer held-out images than two halves of this size, one set serves for
# everything.
SMALLEST_HALF = 100


@dataclass(frozen=True)
class Reference:
    """Real images, and further examples whose conditions are sampled and which are reconstructed.

    Both are held out, as the model sees them: made by the transform of its own data.
    """

    real: np.ndarray
    """uint8 `[n, H, W, C]`."""
    examples: HeldOut
    """As many others, or the same where there are too few."""
    independent: bool
    """Whether the examples are others than the real images."""
    facts: dict[str, Any]
    """What the data is, as JSON."""
    train: Source | None = None
    """The training images, for --training."""


def open_reference(
    command: EvaluateCommand, model: LatentDiffusion | None, num_samples: int, sampled: bool
) -> Reference:
    """Opens the data, and checks that it fits the model.

    Args:
      num_samples: how many images it is to be compared with; as many are taken, where there are.
      sampled: whether the model is to be sampled, by the conditions of the examples.

    Raises:
      UserError: no data, too little of it, or other data than the model can be judged by.
    """
    condition = model.condition if sampled else None
    if command.real:
        images = read_images("--real", command.real)
        facts = {"real": command.real}
        source: Source = ArraySource({"image": images})
        train = None
        order = np.arange(len(source))
    else:
        train, source, facts = _open(command, model, num_samples)
        # Not `spread`: in turns, the classes of one half would be other than those of the next.
        order = np.random.default_rng(0).permutation(len(source))
    if model is not None:
        _check_fits(model, source, needs_condition=condition is not None)
    check_enough(held_out=len(source))
    n = min(num_samples, len(source))
    half = min(num_samples, len(source) // 2)
    # All images of --real are compared with, as whoever names a file expects
    independent = not command.real and (half >= SMALLEST_HALF or len(source) >= 2 * num_samples)
    if independent:
        real, others = order[:half], order[half : 2 * half]
    else:
        real = others = order if command.real else order[:n]
    examples = HeldOut.read(Subset(source, others), condition, len(others))
    images = source.read(real)["image"]
    facts |= {"held_out": len(source), "compared_with": len(real)}
    return Reference(images, examples, independent, facts, train if command.training else None)


def _open(
    command: EvaluateCommand, model: LatentDiffusion | None, num_samples: int
) -> tuple[Source, Source, dict[str, Any]]:
    """(training source, held-out source, facts as JSON)."""
    data, seed, extras = command.data, 0, ()
    if model is not None:
        seed, extras = model.config.seed, EXTRAS.get(model.info.condition, ())
    if isinstance(data, ScenesConfig):  # whose held-out images are as many as are wanted
        data = replace(data, validation_count=max(data.validation_count, 2 * num_samples))
    progress = jax.process_index() == 0
    try:
        train, validation = open_sources(data, seed, extras, progress)
    except UserError as error:
        if command.model:
            raise UserError(
                f"the data of {command.model} cannot be opened: {error}; --data.path FOLDER, or "
                "--data.name NAME of TFDS, judges it by other data"
            ) from error
        raise
    facts = {"seed": seed, "config": to_json(data) | {"type": type(data).__name__}}
    facts |= identity(train, validation)
    if isinstance(data, ScenesConfig):
        facts["render_version"] = RENDER_VERSION
    if model is not None:
        _check_split(command, model, facts)
    others = [(key, value) for key, value in sorted(facts.items()) if key != "config"]
    facts["digest"] = digest([_transform(data), *others])
    return train, into_memory(validation, progress), facts


def _transform(data: Any) -> dict[str, Any]:
    """The fields of the data that decide its images, but for where they lie."""
    return {k: v for k, v in sorted(to_json(data).items()) if k not in ("path", "dir", "flip")}


def _check_split(command: EvaluateCommand, model: LatentDiffusion, facts: dict[str, Any]) -> None:
    """Raises UserError where training images would count as held out."""
    own, given = model.config.data, command.data
    if type(own) is not type(given) or not hasattr(given, "validation"):
        return
    known = model.info.held_out_below or own.validation
    same = model.info.files_digest and model.info.files_digest == facts["files_digest"]
    same |= isinstance(own, TfdsConfig) and own.name == given.name
    if same and facts["images"] < model.info.images and given.validation > known:
        raise UserError(
            f"--data.validation {given.validation:g} holds out images that {command.model} was "
            f"trained on; leave it out, or give at most {known:g}"
        )


def _check_fits(model: LatentDiffusion, source: Source, needs_condition: bool) -> None:
    """Raises UserError for images or conditions that the model was not made for."""
    info, size = model.info, model.config.data.size
    first = source.read([0])
    h, w = first["image"].shape[1:3]
    if (h, w) != (size, size):
        raise UserError(
            f"the images to compare with are {w}x{h}, and those of the model {size}x{size}; give "
            "images of this size (--data.size)"
        )
    if source.channels != info.channels:
        raise UserError(
            f"the images to compare with have {source.channels} channels, and those of the model "
            f"{info.channels}"
        )
    needed = NEEDS.get(info.condition)
    if not needs_condition or needed is None:
        return
    if needed not in first:
        raise UserError(
            f"the samples of this model need the condition {info.condition}, which these images "
            f"have not ({needed}); --samples FILE judges images that were sampled before"
        )
    own = {"class": info.class_names, "layout": info.box_names}.get(info.condition)
    names = source.class_names if info.condition == "class" else source.box_names
    # Published weights may have numbers for names: of as many classes, in their order
    numbered = own is not None and list(own) == [str(i) for i in range(len(names or ()))]
    if own is not None and tuple(names or ()) != tuple(own) and not numbered:
        here, there = set(names or ()), set(own)
        parts = [("new", sorted(here - there)), ("missing", sorted(there - here))]
        said = "; ".join(f"{title}: {', '.join(some[:5])}" for title, some in parts if some)
        raise UserError(
            f"these images have other classes than the model ({said or 'in another order'}); "
            "judge it by images of its own classes"
        )
    if info.condition == "semantic" and len(source.semantic_names or ()) != info.semantic_classes:
        raise UserError(
            f"the maps of these images have {len(source.semantic_names or ())} classes, those of "
            f"the model {info.semantic_classes}"
        )
