"""Every kind of condition, from an example of the data to the y of the model (Sec. 3.3, 4.3-4.5).

In training an example takes three steps: `to_cache` says what is kept of it beside its latent,
once; `to_batch` what a training step reads, anew each time (another order of the boxes, another
mask); and `encode` what the model takes, inside the step's program. For sampling, `parse` reads
what a person gives. `null` is the y of no condition, where a model can be trained with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import plots
from ldm_jax.autoencoder.step import to_model_range
from ldm_jax.conditioning.class_label import ClassLabels
from ldm_jax.conditioning.layout import LayoutTokens, within
from ldm_jax.conditioning.subwords import SubwordTokenizer
from ldm_jax.conditioning.tokenizer import Tokenizer
from ldm_jax.data.degradations import Degradation, degrade
from ldm_jax.data.loader import Batch
from ldm_jax.data.masks import MaskKind, masked_image, random_mask
from ldm_jax.data.source import Rngs
from ldm_jax.errors import UserError
from ldm_jax.experiments.config import DiffusionStage
from ldm_jax.model.data_info import DataInfo
from ldm_jax.sampling.settings import SamplingSettings

Array = jax.Array
EncodeImage = Callable[[dict, Array], Array]  # (constants, bytes `[B, H, W, C]`) -> z_0
BOX_SIDE = 192  # pixels that images with boxes are enlarged to at least: names need room


class Condition(Protocol):
    """See the top of this module. `conditions` are arrays by name, a row `[n, ...]` each."""

    null: np.ndarray | None

    def parse(self, value: Any) -> Batch:
        """What a person gives -> conditions, as from `to_batch`. UserError if it does not fit."""
        ...

    def to_cache(self, batch: Batch) -> Batch:
        """Examples as a source reads them -> what is kept of them: arrays `[n, ...]`."""
        ...

    def to_batch(self, cached: Batch, rngs: Rngs) -> Batch:
        """What a training step reads of that; without generators it is always the same."""
        ...

    def encode(self, constants: dict, conditions: Batch) -> Array:
        """What the model takes, y: `[B, ...]`. Traced."""
        ...

    def labels(self, batch: Batch) -> list[str]:
        """Of examples as a source reads them: text to print; blank where `as_image` shows it."""
        ...

    def as_image(self, conditions: Batch) -> np.ndarray | None:
        """The conditions as images: uint8 `[n, H', W', 3]`; None where the label says it all."""
        ...

    def illustrate(self, images: np.ndarray, conditions: Batch) -> list[np.ndarray]:
        """Images with their conditions, as images to be shown below each other, `[n, ...]` each."""
        ...

    def composite(self, conditions: Batch, images: np.ndarray) -> np.ndarray:
        """Samples `[n, H, W, C]` with the known part of the images put back."""
        ...


class _Tokens:
    """What conditions that are integers have in common: `condition`, int32 `[n, ...]`."""

    def __init__(self, encoder: Any):
        self.encoder, self.null = encoder, encoder.null

    def to_batch(self, cached: Batch, rngs: Rngs) -> Batch:
        return cached

    def encode(self, constants: dict, conditions: Batch) -> Array:
        return conditions["condition"]

    def as_image(self, conditions: Batch) -> None:
        return None

    def illustrate(self, images: np.ndarray, conditions: Batch) -> list[np.ndarray]:
        return [images]

    def composite(self, conditions: Batch, images: np.ndarray) -> np.ndarray:
        return images


class ClassCondition(_Tokens):
    """A class label; its encoder is `ClassLabels`."""

    def parse(self, value: str | int | Sequence[str | int] | np.ndarray) -> Batch:
        """Names or numbers of classes."""
        single = isinstance(value, (str, int, np.integer))
        wanted = [value] if single else [v if isinstance(v, str) else int(v) for v in value]
        return {"condition": self.encoder.encode(wanted)}

    def to_cache(self, batch: Batch) -> Batch:
        return {"condition": batch["class_label"].astype(np.int32)}

    def labels(self, batch: Batch) -> list[str]:
        return self.encoder.decode(batch["class_label"])


class TextCondition(_Tokens):
    """A caption; its encoder is a tokenizer."""

    def parse(self, value: str | Sequence[str]) -> Batch:
        """One prompt or several."""
        single = isinstance(value, str) or not isinstance(value, Iterable)
        prompts = [value] if single else list(value)
        if not all(isinstance(prompt, str) for prompt in prompts):
            raise UserError("this model was trained on captions: a prompt is a text")
        return {"condition": self.encoder.encode(prompts)}

    def to_cache(self, batch: Batch) -> Batch:
        return {"condition": self.encoder.encode(batch["caption"], strict=False)}

    def labels(self, batch: Batch) -> list[str]:
        return list(batch["caption"])


class LayoutCondition(_Tokens):
    """Boxes with names; its encoder is `LayoutTokens`. Their order is drawn anew each time."""

    def parse(self, value: str | dict | Sequence[dict]) -> Batch:
        """A layout {"objects": [{"label", "box"}, ...]}, a list of such, or the JSON of either."""
        try:
            content = value if isinstance(value, str) else json.dumps(value, default=_as_list)
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"a layout holds texts and numbers alone: {error}") from error
        return {"condition": self.encoder.encode(*self.encoder.parse(content))}

    def to_cache(self, batch: Batch) -> Batch:
        return {key: batch[key] for key in ("boxes", "box_labels", "crop") if key in batch}

    def to_batch(self, cached: Batch, rngs: Rngs) -> Batch:
        boxes, labels = cached["boxes"], cached["box_labels"]
        return {"condition": self.encoder.encode(boxes, labels, cached.get("crop"), rngs)}

    def labels(self, batch: Batch) -> list[str]:
        return [""] * len(batch["image"])

    def as_image(self, conditions: Batch) -> np.ndarray:
        return self.boxes_on([None] * len(conditions["condition"]), conditions)

    def illustrate(self, images: np.ndarray, conditions: Batch) -> list[np.ndarray]:
        return [self.boxes_on(images, conditions)]

    def boxes_on(self, images: Sequence[np.ndarray | None], conditions: Batch) -> np.ndarray:
        """The boxes, drawn on images of the crop or on grey: uint8 `[n, H', W', 3]`."""
        drawn = []
        for image, layout in zip(images, self.encoder.decode(conditions["condition"]), strict=True):
            boxes, labels, crop = layout
            names = [self.encoder.names[i] for i in labels]
            side = BOX_SIDE if image is None else image.shape[0]
            scale, size = max(1, -(-BOX_SIDE // side)), (side, side)
            drawn.append(plots.with_boxes(image, within(boxes, crop), names, scale, size))
        return np.stack(drawn)


class _Images:
    """What conditions that are images have in common; but for embeddings, without a null one."""

    null = None

    def to_batch(self, cached: Batch, rngs: Rngs) -> Batch:
        return cached

    def labels(self, batch: Batch) -> list[str]:
        return [""] * len(batch["image"])

    def illustrate(self, images: np.ndarray, conditions: Batch) -> list[np.ndarray]:
        return [self.as_image(conditions), images]

    def composite(self, conditions: Batch, images: np.ndarray) -> np.ndarray:
        return images


@dataclass(frozen=True)
class SemanticCondition(_Images):
    """A class for each pixel, one-hot for its encoder (Sec. 4.3.2)."""

    classes: int

    def parse(self, value: np.ndarray) -> Batch:
        """A map of class numbers `[H, W]`, or several `[n, H, W]`."""
        semantic = np.asarray(value)
        semantic = semantic[None] if semantic.ndim == 2 else semantic
        if semantic.ndim != 3 or semantic.dtype.kind not in "iu":
            raise UserError(
                f"a semantic map is class numbers [H, W]; this is {semantic.dtype} {semantic.shape}"
            )
        if not 0 <= semantic.min() <= semantic.max() < self.classes:
            wrong = semantic.min() if semantic.min() < 0 else semantic.max()
            raise UserError(f"the map has class {wrong}; this model knows 0 to {self.classes - 1}")
        return {"semantic": semantic}

    def to_cache(self, batch: Batch) -> Batch:
        return {"semantic": batch["semantic"]}

    def encode(self, constants: dict, conditions: Batch) -> Array:
        return jax.nn.one_hot(conditions["semantic"], self.classes)

    def as_image(self, conditions: Batch) -> np.ndarray:
        return plots.coloured(conditions["semantic"])


@dataclass(frozen=True)
class LowResolutionCondition(_Images):
    """The image, `factor` times smaller: as large as its latent (Sec. 4.4).

    By bicubic reduction it is made once, by the others anew each time.
    """

    factor: int
    degradation: Degradation

    def parse(self, value: np.ndarray) -> Batch:
        """A small image, uint8 `[h, w, C]`, or several `[n, h, w, C]`."""
        return {"low_res": _images(value)}

    def to_cache(self, batch: Batch) -> Batch:
        if self.degradation == "bicubic":
            return {"low_res": degrade("bicubic", batch["image"], self.factor, None)}
        return {"image": batch["image"]}

    def to_batch(self, cached: Batch, rngs: Rngs) -> Batch:
        if "low_res" in cached:
            return cached
        images = cached["image"]
        rngs = [np.random.default_rng(i) for i in range(len(images))] if rngs is None else rngs
        pairs = zip(images, rngs, strict=True)
        low = [degrade(self.degradation, x, self.factor, rng) for x, rng in pairs]
        return {"low_res": np.stack(low)}

    def encode(self, constants: dict, conditions: Batch) -> Array:
        return to_model_range(conditions["low_res"])

    def as_image(self, conditions: Batch) -> np.ndarray:
        return conditions["low_res"]


@dataclass(frozen=True)
class InpaintingCondition(_Images):
    """The latent of an image with a black hole, and where the hole is, as -1 and 1 (Sec. 4.5)."""

    factor: int
    """f: the mask is reduced to the latent's size by taking every f-th pixel, as published."""
    masks: MaskKind
    encode_image: EncodeImage

    def parse(self, value: Mapping[str, np.ndarray]) -> Batch:
        """{"image": uint8 `[H, W, C]`, "mask": bool `[H, W]`, true where to fill}, or several."""
        try:
            images, mask = _images(value["image"]), np.asarray(value["mask"])
        except (KeyError, TypeError, IndexError) as error:
            raise UserError('in-painting takes {"image": [H, W, C], "mask": [H, W]}') from error
        mask = mask[None] if mask.ndim == 2 else mask
        if mask.shape != images.shape[:3] or mask.dtype != bool:
            raise UserError(
                f"a mask is bool and as large as its image: {mask.dtype} {mask.shape}, "
                f"images {images.shape}"
            )
        return {"masked": np.stack(list(map(masked_image, images, mask))), "mask": mask}

    def to_cache(self, batch: Batch) -> Batch:
        return {"image": batch["image"]}

    def to_batch(self, cached: Batch, rngs: Rngs) -> Batch:
        images = cached["image"]
        rngs = [np.random.default_rng(i) for i in range(len(images))] if rngs is None else rngs
        mask = np.stack([random_mask(self.masks, *images.shape[1:3], rng) for rng in rngs])
        return {"masked": np.stack(list(map(masked_image, images, mask))), "mask": mask}

    def encode(self, constants: dict, conditions: Batch) -> Array:
        z = self.encode_image(constants, conditions["masked"])
        mask = conditions["mask"][:, :: self.factor, :: self.factor, None]
        return jnp.concatenate([z, 2.0 * mask - 1.0], axis=-1)

    def as_image(self, conditions: Batch) -> np.ndarray:
        return np.where(conditions["mask"][..., None], np.uint8(128), conditions["masked"])

    def composite(self, conditions: Batch, images: np.ndarray) -> np.ndarray:
        return np.where(conditions["mask"][..., None], images, conditions["masked"])


@dataclass(frozen=True)
class EmbeddingCondition(_Images):
    """Embeddings of images by CLIP, which the UNet attends to as they are (RDM)."""

    dim: int

    @property
    def null(self) -> np.ndarray:
        """Zeros `[1, dim]`, as published: they stand for any number M of embeddings."""
        return np.zeros((1, self.dim), np.float32)

    def parse(self, value: np.ndarray) -> Batch:
        """Float `[M, dim]`, or several `[n, M, dim]`."""
        context = np.asarray(value, np.float32)
        context = context[None] if context.ndim == 2 else context
        if context.ndim != 3 or context.shape[-1] != self.dim:
            raise UserError(f"embeddings are [n, M, {self.dim}], not {list(context.shape)}")
        return {"condition": context}

    def to_cache(self, batch: Batch) -> Batch:
        return {"condition": batch["embedding"]}

    def encode(self, constants: dict, conditions: Batch) -> Array:
        return conditions["condition"]

    def as_image(self, conditions: Batch) -> None:
        return None

    def illustrate(self, images: np.ndarray, conditions: Batch) -> list[np.ndarray]:
        return [images]


def _as_list(array: np.ndarray) -> list:
    """For JSON, which knows no arrays."""
    return array.tolist()


def _images(value: np.ndarray) -> np.ndarray:
    images = np.asarray(value)
    images = images[None] if images.ndim == 3 else images
    if images.ndim != 4 or images.dtype != np.uint8:
        raise UserError(f"images are uint8 [n, H, W, C], not {images.dtype} {list(images.shape)}")
    return images


def with_size_of(conditions: Batch | None, settings: SamplingSettings, f: int) -> SamplingSettings:
    """The settings with the size of the samples that conditions which are images decide."""
    for name, factor in (("semantic", 1), ("masked", 1), ("low_res", f)):
        if conditions is not None and name in conditions:
            h, w = conditions[name].shape[1:3]
            return replace(settings, height=factor * h, width=factor * w)
    return settings


def make_condition(
    stage: DiffusionStage, info: DataInfo, f: int, encode_image: EncodeImage
) -> Condition | None:
    """The condition of a model; None if it is unconditional.

    Args:
      f: downsampling factor of the first stage. encode_image: an image to the latents that the
        diffusion model sees.
    """
    match info.condition:
        case "class":
            return ClassCondition(ClassLabels(info.class_names))
        case "text" if stage.tokenizer != "words":
            return TextCondition(SubwordTokenizer(info.tokenizer, stage.tokenizer))
        case "text":
            return TextCondition(Tokenizer(info.vocabulary, info.caption_length))
        case "layout":
            return LayoutCondition(LayoutTokens(info.box_names, stage.objects, stage.sections))
        case "semantic":
            return SemanticCondition(info.semantic_classes)
        case "super-resolution":
            return LowResolutionCondition(f, stage.degradation)
        case "inpainting":
            return InpaintingCondition(f, stage.masks, encode_image)
        case "image-embedding":
            return EmbeddingCondition(info.embedding_dim)
    return None
