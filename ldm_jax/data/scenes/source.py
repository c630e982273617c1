"""Scenes as a random-access source: images, captions and classes, and the exact truth of each."""

from dataclasses import dataclass

import numpy as np

from ldm_jax.data.scenes import captions, geometry
from ldm_jax.data.scenes.render import render
from ldm_jax.data.scenes.world import (
    LEVELS,
    MAX_OBJECTS,
    SHAPES,
    SPLITS,
    Scene,
    generator,
    sample_scene,
)
from ldm_jax.errors import UserError

SEMANTIC_NAMES = ("sky", "floor", *SHAPES)
EXTRAS = ("semantic", "boxes")


@dataclass(frozen=True)
class ObjectTruth:
    """One object as the image shows it: attributes, class, box and number of pixels."""

    shape: str
    colour: str
    size: str
    material: str
    class_label: int  # index in CLASS_NAMES
    box: tuple[int, int, int, int]  # left, top, right, bottom; right and bottom are exclusive
    pixels: int  # how many are visible: from size 32 on at least 12 * (size / 64)^2


@dataclass(frozen=True)
class SceneTruth:
    """Everything exact about one image. H = W = size."""

    image: np.ndarray  # uint8 [H, W, 3]
    semantic: np.ndarray  # uint8 [H, W]: index in SEMANTIC_NAMES
    instance: np.ndarray  # int8 [H, W]: index in `objects`, -1 floor, -2 sky
    depth: np.ndarray  # float32 [H, W]: units along the viewing axis, infinite in the sky
    objects: tuple[ObjectTruth, ...]
    caption: str
    scene: Scene


class ScenesSource:
    """Coloured solids under four skies, drawn on demand.

    Image `index` is a pure function of (seed, split, level, index, size), whatever `count` is.

    The scene does not depend on the size: index 7 shows the same world at size 32 and at size 64.

    Args:
      size: side of the images in pixels.
      level: 'single' (one object; class = shape and colour), 'pair' (one or two objects) or 'full'
        (one to four).
      count: how many images the source holds.
      seed: another seed is another, independent set.
      split: 'train' or 'validation'; their scenes are independent.
      extras: what `read` returns besides: 'semantic', 'boxes'.
    Raises:
      UserError: for a value that cannot be.
    """

    channels = 3

    def __init__(self, size=32, level="single", count=10_000, seed=0, split="train", extras=()):
        if level not in LEVELS:
            raise UserError(f"unknown level {level!r} of scenes: choose one of {', '.join(LEVELS)}")
        if split not in SPLITS:
            raise UserError(f"unknown split {split!r} of scenes: choose one of {', '.join(SPLITS)}")
        if size < 8:
            raise UserError(f"scenes of size {size} cannot be drawn: the size must be 8 or more")
        if count < 1 or seed < 0:
            raise UserError(f"scenes need count >= 1 and seed >= 0, not count {count}, seed {seed}")
        unknown = set(extras) - set(EXTRAS)
        if unknown:
            raise UserError(
                f"scenes have no {sorted(unknown)[0]!r}: extras are {', '.join(EXTRAS)}"
            )
        self.size, self.level, self.count, self.seed, self.split = size, level, count, seed, split
        self.extras = tuple(name for name in EXTRAS if name in extras)
        self.class_names = captions.CLASS_NAMES if level == "single" else None
        self.box_names = captions.CLASS_NAMES if "boxes" in extras else None
        self.semantic_names = SEMANTIC_NAMES if "semantic" in extras else None

    def __len__(self) -> int:
        return self.count

    def parameters(self) -> dict:
        """The arguments that make an equal source."""
        names = ("size", "level", "count", "seed", "split", "extras")
        return {name: getattr(self, name) for name in names}

    def scene(self, index: int) -> Scene:
        """The world behind one image."""
        if not -self.count <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        rng = generator(self.seed, self.split, self.level, int(index) % self.count)
        return sample_scene(rng, self.level, geometry.visible_pixels)

    def read(self, indices, rngs=None) -> dict[str, np.ndarray]:
        """Draws the images at `indices` (integers [n], any order).

        `rngs` is there for sources with random views (`Source` in data/source.py); a scene has one.

        Returns:
          'image' uint8 [n, size, size, 3], 'caption' str objects [n], for the level single
          'class_label' int32 [n]; on demand 'semantic' uint8 [n, size, size], 'boxes' float32
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
            labels = [captions.class_label(scene.objects[0]) for scene in scenes]
            out["class_label"] = np.array(labels, np.int32)
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

    def truth(self, i: int) -> SceneTruth:
        """Everything exact about image `i`."""
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


def _semantic_and_objects(scene, size):
    depth, instance = geometry.pixel_truth(scene, size)
    # sky, floor, then each object's shape: -2, -1, 0, 1, ... shifted to start at 0.
    lookup = [0, 1, *(2 + SHAPES.index(thing.shape) for thing in scene.objects)]
    semantic = np.array(lookup, np.uint8)[instance + 2]
    objects = []
    for number, thing in enumerate(scene.objects):
        rows, columns = np.nonzero(instance == number)
        box = (0, 0, 0, 0)
        if len(rows):
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        objects.append(
            ObjectTruth(
                shape=thing.shape,
                colour=thing.colour,
                size=thing.size,
                material=thing.material,
                class_label=captions.class_label(thing),
                box=tuple(int(edge) for edge in box),
                pixels=len(rows),
            )
        )
    return semantic, instance, depth, tuple(objects)
