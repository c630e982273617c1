"""Scenes as a random-access source: images, captions and classes, and exact ground truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from ldm_jax.bounds import Bounds, PositiveInt, violations
from ldm_jax.data.scenes import captions, geometry
from ldm_jax.data.scenes.combinations import has_combination, parse_combination
from ldm_jax.data.scenes.render import render
from ldm_jax.data.scenes.world import (
    LEVELS,
    MAX_OBJECTS,
    SHAPES,
    SPLITS,
    Level,
    Scene,
    generator,
    sample_scene,
)
from ldm_jax.data.source import Rngs, Split
from ldm_jax.errors import UserError

SEMANTIC_NAMES = ("sky", "floor", *SHAPES)
EXTRAS = ("semantic", "boxes")
_MOST_TRIES = 1000  # for a scene without a held-out combination


@dataclass(frozen=True)
class ScenesConfig:
    """The embedded scenes: rendered by NumPy, with a caption and, at level single, a class."""

    size: Annotated[int, Bounds(8, 2**14)] = 32
    """Side of the images in pixels."""
    level: Level = "single"
    """One object (32 classes: shape and colour), one or two, or one to four."""
    count: PositiveInt = 16_384
    """Training images to render."""
    validation_count: PositiveInt = 512
    """Held-out images to render."""
    flip: bool = False
    """Mirror images at random; captions that say left and right would then be wrong."""
    held_out_words: tuple[str, ...] = ()
    """Combinations of words that no training image shows, such as "cyan cone at night"."""


@dataclass(frozen=True)
class ObjectTruth:
    """One object in the image: attributes, class, box and number of visible pixels."""

    shape: str
    colour: str
    size: str
    material: str
    class_label: int  # index in CLASS_NAMES
    box: tuple[int, int, int, int]  # left, top, right, bottom; right and bottom are exclusive
    pixels: int  # visible ones: from size 32 on at least 12 * (size / 64)^2


@dataclass(frozen=True)
class SceneTruth:
    """The ground truth of one image. H = W = size."""

    image: np.ndarray  # uint8 [H, W, 3]
    semantic: np.ndarray  # uint8 [H, W]: index in SEMANTIC_NAMES
    instance: np.ndarray  # int8 [H, W]: index in `objects`, -1 floor, -2 sky
    depth: np.ndarray  # float32 [H, W]: units along the viewing axis, infinite in the sky
    objects: tuple[ObjectTruth, ...]
    caption: str
    scene: Scene


class ScenesSource:
    """Coloured solids under four skies, rendered on demand.

    Image `index` is a pure function of (seed, split, level, index, size), whatever `count` is.

    The scene does not depend on the size: index 7 is the same world at size 32 and at size 64.

    Args:
      config: size, level and number of the images.
      split: 'train' or 'validation'; their scenes are independent.
      seed: another seed gives another, independent set.
      extras: additional arrays that `read` returns: 'semantic', 'boxes'.
    Raises:
      UserError: for an invalid value.
    """

    channels = 3

    def __init__(
        self,
        config: ScenesConfig,
        split: Split = "train",
        seed: int = 0,
        extras: Sequence[str] = (),
    ) -> None:
        level = config.level
        if level not in LEVELS:
            raise UserError(f"unknown level {level!r} of scenes: choose one of {', '.join(LEVELS)}")
        if split not in SPLITS:
            raise UserError(f"unknown split {split!r} of scenes: choose one of {', '.join(SPLITS)}")
        if wrong := [*violations(config, "data")]:
            raise UserError("; ".join(wrong))
        if seed < 0:
            raise UserError(f"the seed of scenes must be 0 or more, not {seed}")
        combinations = [parse_combination(text) for text in config.held_out_words]
        self.held_out_words = config.held_out_words if split == "train" else ()
        self._held_out = combinations if split == "train" else []
        unknown = set(extras) - set(EXTRAS)
        if unknown:
            raise UserError(
                f"scenes have no {sorted(unknown)[0]}: beside images, captions and classes they "
                f"have {', '.join(EXTRAS)}"
            )
        self.config, self.split, self.seed = config, split, seed
        self.size, self.level = config.size, level
        self.count = config.count if split == "train" else config.validation_count
        self.extras = tuple(name for name in EXTRAS if name in extras)
        self.class_names = captions.CLASS_NAMES if level == "single" else None
        self.box_names = captions.CLASS_NAMES if "boxes" in extras else None
        self.semantic_names = SEMANTIC_NAMES if "semantic" in extras else None

    def __len__(self) -> int:
        return self.count

    def scene(self, index: int) -> Scene:
        """The scene of one image."""
        if not -self.count <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        rng = generator(self.seed, self.split, self.level, int(index) % self.count)
        for _ in range(_MOST_TRIES):
            scene = sample_scene(rng, self.level, geometry.visible_pixels)
            if not any(has_combination(scene, words) for words in self._held_out):
                return scene
        raise UserError("--data.held-out-words leaves out (nearly) all scenes; name fewer")

    def read(self, indices, rngs: Rngs = None) -> dict[str, np.ndarray]:
        """Renders the images at `indices` (integers [n], any order).

        rngs: not used, as a scene has no random crops (see `Source` in data/source.py).

        Returns:
          'image' uint8 [n, size, size, 3], 'caption' str objects [n], for the level single
          'class_label' int32 [n]; among `extras` 'semantic' uint8 [n, size, size], 'boxes' float32
          [n, 4, 4] (left, top, right, bottom in [0, 1]) and 'box_labels' int32 [n, 4] (-1: none).
        """
        scenes = [self.scene(index) for index in np.asarray(indices).reshape(-1)]
        shape = (len(scenes), self.size, self.size)
        out = {
            "image": np.empty((*shape, 3), np.uint8),
            "caption": np.array([captions.caption(scene) for scene in scenes], object),
        }
        for i, scene in enumerate(scenes):
            out["image"][i] = render(scene, self.size)
        if self.level == "single":
            out["class_label"] = _labels(scenes)
        if self.extras:
            truths = [_semantic_and_objects(scene, self.size) for scene in scenes]
        if "semantic" in self.extras:
            out["semantic"] = np.stack([semantic for semantic, *_ in truths])
        if "boxes" in self.extras:
            out["boxes"] = np.zeros((len(scenes), MAX_OBJECTS, 4), np.float32)
            out["box_labels"] = np.full((len(scenes), MAX_OBJECTS), -1, np.int32)
            for i, (*_, objects) in enumerate(truths):
                for j, one in enumerate(objects):
                    if not one.pixels:
                        continue
                    out["boxes"][i, j] = np.array(one.box) / self.size
                    out["box_labels"][i, j] = one.class_label
        return out

    def texts(self, indices) -> list[list[str]]:
        """The captions of the images at `indices`: see `Source`."""
        return [[captions.caption(self.scene(index))] for index in indices]

    def labels(self, indices) -> np.ndarray:
        """The classes of the images at `indices`: see `Source`."""
        return _labels([self.scene(index) for index in indices])

    def truth(self, i: int) -> SceneTruth:
        """The ground truth of image `i`."""
        scene = self.scene(i)
        semantic, instance, depth, objects = _semantic_and_objects(scene, self.size)
        return SceneTruth(
            image=render(scene, self.size),
            semantic=semantic,
            instance=instance,
            depth=depth,
            objects=objects,
            caption=captions.caption(scene),
            scene=scene,
        )


def _labels(scenes: Sequence[Scene]) -> np.ndarray:
    return np.array([captions.class_label(scene.objects[0]) for scene in scenes], np.int32)


def _semantic_and_objects(scene, size):
    depth, instance = geometry.pixel_truth(scene, size)
    # sky, floor, then each object's shape: -2, -1, 0, 1, ... shifted to start at 0.
    lookup = [0, 1, *(2 + SHAPES.index(solid.shape) for solid in scene.objects)]
    semantic = np.array(lookup, np.uint8)[instance + 2]
    objects = []
    for number, solid in enumerate(scene.objects):
        rows, columns = np.nonzero(instance == number)
        box = (0, 0, 0, 0)
        if len(rows):
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        objects.append(
            ObjectTruth(
                shape=solid.shape,
                colour=solid.colour,
                size=solid.size,
                material=solid.material,
                class_label=captions.class_label(solid),
                box=tuple(int(edge) for edge in box),
                pixels=len(rows),
            )
        )
    return semantic, instance, depth, tuple(objects)
