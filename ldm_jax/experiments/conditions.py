"""Every kind of condition, from an example of the data to the y of the model (Sec. 3.3, 4.3-4.5).

On its way an example passes three places: `keep` says what of it stays beside its latent, once;
`view` what a step reads, anew each time (another order of the boxes, another mask); and `y` what
the model takes, inside the step's program. `null` is the y that asks for nothing, where there is
such; `names` and `show` are for people.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import plots
from ldm_jax.autoencoder.step import to_model_range
from ldm_jax.conditioning.class_label import ClassLabels
from ldm_jax.conditioning.layout import LayoutTokens
from ldm_jax.conditioning.subwords import SubwordTokenizer
from ldm_jax.conditioning.tokenizer import Tokenizer
from ldm_jax.data.degradations import Degradation, degrade
from ldm_jax.data.loader import Batch
from ldm_jax.data.masks import MaskKind, masked_image, random_mask
from ldm_jax.data.source import Rngs
from ldm_jax.experiments.config import DiffusionStage
from ldm_jax.experiments.run_dir import DataInfo

Array = jax.Array
Encode = Callable[[dict, Array], Array]  # (constants, bytes `[B, H, W, C]`) -> z_0
BOX_SCALE = 3  # images are enlarged by it, so that there is room for the names of boxes


class Condition(Protocol):
    """See the head of this module."""

    null: np.ndarray | None

    def keep(self, batch: Batch) -> Batch:
        """Of examples as a source reads them, what is kept: arrays `[n, ...]`."""
        ...

    def view(self, kept: Batch, rngs: Rngs) -> Batch:
        """What a step reads of that; without generators it is always the same."""
        ...

    def y(self, constants: dict, seen: Batch) -> Array:
        """What the model takes: `[B, ...]`. Traced."""
        ...

    def names(self, batch: Batch) -> list[str]:
        """Of examples as a source reads them: to print under images; blanks where `show` does."""
        ...

    def show(self, seen: Batch) -> np.ndarray | None:
        """The condition as images: uint8 `[n, H', W', 3]`; None where its name says it all."""
        ...

    def finish(self, seen: Batch, images: np.ndarray) -> np.ndarray:
        """Samples `[n, H, W, C]` with what was known of them put in."""
        ...


class _Tokens:
    """What conditions that are whole numbers have in common: `condition`, int32 `[n, ...]`."""

    def __init__(self, encoder: Any):
        self.encoder, self.null = encoder, encoder.null

    def view(self, kept: Batch, rngs: Rngs) -> Batch:
        return kept

    def y(self, constants: dict, seen: Batch) -> Array:
        return seen["condition"]

    def show(self, seen: Batch) -> None:
        return None

    def finish(self, seen: Batch, images: np.ndarray) -> np.ndarray:
        return images


class Class(_Tokens):
    """A class label; its encoder is `ClassLabels`."""

    def keep(self, batch: Batch) -> Batch:
        return {"condition": batch["class_label"].astype(np.int32)}

    def names(self, batch: Batch) -> list[str]:
        return self.encoder.decode(batch["class_label"])


class Text(_Tokens):
    """A caption; its encoder is a tokenizer."""

    def keep(self, batch: Batch) -> Batch:
        return {"condition": self.encoder.encode(batch["caption"], strict=False)}

    def names(self, batch: Batch) -> list[str]:
        return list(batch["caption"])


class Layout(_Tokens):
    """Boxes with names; its encoder is `LayoutTokens`. Their order is drawn anew each time."""

    def keep(self, batch: Batch) -> Batch:
        return {key: batch[key] for key in ("boxes", "box_labels", "crop") if key in batch}

    def view(self, kept: Batch, rngs: Rngs) -> Batch:
        boxes, labels = kept["boxes"], kept["box_labels"]
        return {"condition": self.encoder.encode(boxes, labels, kept.get("crop"), rngs)}

    def names(self, batch: Batch) -> list[str]:
        return [""] * len(batch["image"])

    def show(self, seen: Batch) -> np.ndarray:
        return self.drawn([None] * len(seen["condition"]), seen)

    def drawn(self, images: Sequence[np.ndarray | None], seen: Batch) -> np.ndarray:
        """The boxes, drawn on images or on grey."""
        rows = zip(images, self.encoder.decode(seen["condition"]), strict=True)
        return np.stack(
            [
                plots.with_boxes(image, boxes, [self.encoder.names[i] for i in labels], BOX_SCALE)
                for image, (boxes, labels, _) in rows
            ]
        )


class _Images:
    """What conditions that are images have in common: none of them asks for nothing."""

    null = None

    def view(self, kept: Batch, rngs: Rngs) -> Batch:
        return kept

    def names(self, batch: Batch) -> list[str]:
        return [""] * len(batch["image"])

    def finish(self, seen: Batch, images: np.ndarray) -> np.ndarray:
        return images


@dataclass(frozen=True)
class SemanticMap(_Images):
    """A class for each pixel, one-hot for its encoder (Sec. 4.3.2)."""

    classes: int

    def keep(self, batch: Batch) -> Batch:
        return {"semantic": batch["semantic"]}

    def y(self, constants: dict, seen: Batch) -> Array:
        return jax.nn.one_hot(seen["semantic"], self.classes)

    def show(self, seen: Batch) -> np.ndarray:
        return plots.coloured(seen["semantic"])


@dataclass(frozen=True)
class LowResolution(_Images):
    """The image, `factor` times smaller: as large as its latent (Sec. 4.4).

    By bicubic reduction it is made once, by the others anew each time.
    """

    factor: int
    degradation: Degradation

    def keep(self, batch: Batch) -> Batch:
        if self.degradation == "bicubic":
            return {"low_res": degrade("bicubic", batch["image"], self.factor, None)}
        return {"image": batch["image"]}

    def view(self, kept: Batch, rngs: Rngs) -> Batch:
        if "low_res" in kept:
            return kept
        images = kept["image"]
        rngs = [np.random.default_rng(i) for i in range(len(images))] if rngs is None else rngs
        pairs = zip(images, rngs, strict=True)
        low = [degrade(self.degradation, x, self.factor, rng) for x, rng in pairs]
        return {"low_res": np.stack(low)}

    def y(self, constants: dict, seen: Batch) -> Array:
        return to_model_range(seen["low_res"])

    def show(self, seen: Batch) -> np.ndarray:
        return seen["low_res"]


@dataclass(frozen=True)
class Masked(_Images):
    """The latent of an image with a black hole, and where the hole is, as -1 and 1 (Sec. 4.5)."""

    factor: int
    """f: the mask is reduced to the latent's size by taking every f-th pixel, as published."""
    masks: MaskKind
    encode: Encode

    def keep(self, batch: Batch) -> Batch:
        return {"image": batch["image"]}

    def view(self, kept: Batch, rngs: Rngs) -> Batch:
        images = kept["image"]
        rngs = [np.random.default_rng(i) for i in range(len(images))] if rngs is None else rngs
        mask = np.stack([random_mask(self.masks, *images.shape[1:3], rng) for rng in rngs])
        return {"masked": np.stack(list(map(masked_image, images, mask))), "mask": mask}

    def y(self, constants: dict, seen: Batch) -> Array:
        z = self.encode(constants, seen["masked"])
        mask = seen["mask"][:, :: self.factor, :: self.factor, None]
        return jnp.concatenate([z, 2.0 * mask - 1.0], axis=-1)

    def show(self, seen: Batch) -> np.ndarray:
        return np.where(seen["mask"][..., None], np.uint8(128), seen["masked"])

    def finish(self, seen: Batch, images: np.ndarray) -> np.ndarray:
        return np.where(seen["mask"][..., None], images, seen["masked"])


def condition_of(
    stage: DiffusionStage, facts: DataInfo, f: int, encode: Encode
) -> Condition | None:
    """The condition of a run; None if it is unconditional.

    Args:
      f: downsampling factor of the first stage. encode: its latents, as the diffusion model sees
        them.
    """
    match facts.condition:
        case "class":
            return Class(ClassLabels(facts.class_names))
        case "text" if stage.tokenizer != "words":
            return Text(SubwordTokenizer(facts.tokenizer, stage.tokenizer))
        case "text":
            return Text(Tokenizer(facts.vocabulary, facts.caption_length))
        case "layout":
            return Layout(LayoutTokens(facts.box_names, stage.objects, stage.sections))
        case "semantic":
            return SemanticMap(facts.semantic_classes)
        case "super-resolution":
            return LowResolution(f, stage.degradation)
        case "inpainting":
            return Masked(f, stage.masks, encode)
    return None
