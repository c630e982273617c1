"""Images that look like scenes and are none: damaged renders, and objects that the world has not.

`IMPROPER` holds functions (scene, size, rng) -> (image uint8 [H, H, 3], objects bool [H, H]): the
image, and where a reader would see an object. A cube where a function needs one is made of any.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from ldm_jax.data.scenes import geometry
from ldm_jax.data.scenes.render import render
from ldm_jax.data.scenes.world import SceneObject

THUMBNAIL = 6  # pixels of a side


@dataclass(frozen=True)
class Tapered(SceneObject):
    """A cylinder whose top is narrower than its base, or wider."""

    narrowing: float = 0.0

    @property
    def taper(self) -> float:
        return self.narrowing


def shown(scene, size):
    """Where a scene shows objects, bool [size, size]."""
    return geometry.pixel_truth(scene, size)[1] >= 0


def true_render(scene, size, rng):
    return render(scene, size), shown(scene, size)


def of_image(change):
    """A damage (Pillow image -> Pillow image) of the true render."""

    def damaged(scene, size, rng):
        image = change(Image.fromarray(render(scene, size)))
        return np.asarray(image), shown(scene, size)

    return damaged


def thumbnail(image):
    small = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.BICUBIC)


def blend(scene, size, rng):
    """Half of it and half of the same world with other objects elsewhere."""
    other = [replace(o, x=-o.x + 0.4, y=o.y + 0.3, colour="blue") for o in scene.objects]
    other = replace(scene, objects=tuple(other), floor_turn=-scene.floor_turn)
    two = [render(one, size).astype(np.float32) for one in (scene, other)]
    return np.rint(sum(two) / 2).astype(np.uint8), shown(scene, size) | shown(other, size)


def warp(amplitude, pieces=4):
    """Shifts of `amplitude` pixels at 64 (standard deviation), smooth from piece to piece."""

    def warped(scene, size, rng):
        shifts = rng.normal(0, amplitude * size / 64, (2, pieces, pieces))
        shifts = [ndimage.zoom(s, size / pieces, order=3) for s in shifts]
        return _moved(*true_render(scene, size, rng), np.indices((size, size)) + shifts)

    return warped


def _moved(image, objects, source):
    """Image and mask with the pixels that stand at `source` [2, H, H] (row, column)."""
    channels = [
        ndimage.map_coordinates(image[..., c].astype(np.float32), source, order=1, mode="nearest")
        for c in range(3)
    ]
    mask = ndimage.map_coordinates(objects.astype(np.float32), source, order=1, mode="nearest")
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8), mask > 0.5


def tapered(shape, taper):
    """Objects of a shape are cylinders of their size, tapered: tubs and cut cones."""

    def improper(scene, size, rng):
        objects = []
        for solid in scene.objects:
            if solid.shape == shape:
                own = {f.name: getattr(solid, f.name) for f in fields(SceneObject)}
                solid = Tapered(**own | {"shape": "cylinder"}, narrowing=taper)
            objects.append(solid)
        return true_render(replace(scene, objects=tuple(objects)), size, rng)

    return improper


def ellipsoid(scene, size, rng, squeeze=0.78):
    """The image squeezed across, about the middle of its objects."""
    image, objects = true_render(scene, size, rng)
    rows, columns = np.indices((size, size)).astype(np.float64)
    middle = np.nonzero(objects)[1].mean() if objects.any() else size / 2
    return _moved(image, objects, np.stack([rows, middle + (columns - middle) / squeeze]))


def two_lights(scene, size, rng):
    """Each object lit from the left and from the right: two highlights on a shiny one."""
    x, y, z = scene.sun
    image, objects = true_render(scene, size, rng)
    other = render(replace(scene, sun=(-x, y, z)), size)
    return np.where(objects[..., None], np.maximum(image, other), image), objects


def no_shape(scene, size, rng):
    """Blobs: the outline of each object is redrawn with three bumps."""
    image, objects = true_render(scene, size, rng)
    rows, columns = np.indices((size, size)).astype(np.float64)
    i, j = (x.mean() for x in np.nonzero(objects)) if objects.any() else (size / 2, size / 2)
    angle = np.arctan2(rows - i, columns - j) + rng.uniform(0, 2 * np.pi)
    factor = 1 + 0.18 * np.cos(3 * angle)
    source = np.stack([i + (rows - i) * factor, j + (columns - j) * factor])
    return _moved(image, objects, source)


# Name: (what makes it, the shape that its objects need or None).
IMPROPER = {
    "true renders": (true_render, None),
    f"shrunk to {THUMBNAIL}x{THUMBNAIL}": (of_image(thumbnail), None),
    "blurred by 1 pixel": (of_image(lambda x: x.filter(ImageFilter.GaussianBlur(1))), None),
    "half of two scenes": (blend, None),
    "warped by 2 pixels at 64": (warp(2.0), None),
    "warped by 4 pixels at 64": (warp(4.0), None),
    "cubes as tubs, narrow below": (tapered("cube", -0.35), "cube"),
    "cubes as tubs, narrow above": (tapered("cube", 0.35), "cube"),
    "cones as funnels": (tapered("cone", -0.5), "cone"),
    "cones without their tip": (tapered("cone", 0.6), "cone"),
    "balls as ellipsoids": (ellipsoid, "ball"),
    "balls with two highlights": (two_lights, "ball"),
    "outlines with three bumps": (no_shape, None),
}


def improper(name, scene, size, rng):
    """(image, objects, the scene that a reader would read) of one kind of `IMPROPER`."""
    make, shape = IMPROPER[name]
    if shape:
        objects = tuple(replace(solid, shape=shape) for solid in scene.objects)
        scene = replace(scene, objects=objects)
    if name == "balls with two highlights":
        shiny = tuple(replace(solid, material="shiny") for solid in scene.objects)
        scene = replace(scene, objects=shiny)
    image, objects = make(scene, size, rng)
    return image, objects, scene
