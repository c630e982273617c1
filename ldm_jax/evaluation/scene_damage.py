"""Renders with damaged objects, and with faults that do not matter: what the reader learns from.

A generated image may have every colour right and still show no cube: its edges are soft, bent or
doubled. The network that reads scenes (`scene_network.py`) is shown such objects, made from renders
in several ways, and says for each pixel whether its object is sound.

Lengths are in units of u, a 32nd of the image's side: one pixel at 32 x 32, two at 64 x 64.
Images are uint8 [H, H, 3], instance maps int [H, H] as in `geometry.first_hits`.
"""

import dataclasses
import io
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from ldm_jax.data.scenes.render import render
from ldm_jax.data.scenes.world import SHAPES, Scene

SOFT = 0.5  # standard deviation in u of a blur that leaves an object sound, at most
BLURRED = 0.75  # and of one that does not, at least
STILL = 0.2  # displacement in u (root mean square) that leaves it sound
BENT = 0.55  # and one that does not


class Damaged(NamedTuple):
    """An image in which some objects are not sound any more."""

    image: np.ndarray  # uint8 [H, H, 3]
    objects: tuple[int, ...]  # which


def blur(image: np.ndarray, deviation: float) -> np.ndarray:
    """A Gaussian blur; `deviation` in u."""
    pixels = deviation * len(image) / 32
    return _to_uint8(ndimage.gaussian_filter(image.astype(np.float32), (pixels, pixels, 0)))


def thumbnail(image: np.ndarray, side: int, how=Image.Resampling.BICUBIC) -> np.ndarray:
    """The image shrunk to side x side pixels and enlarged again."""
    whole = Image.fromarray(image)
    return np.asarray(whole.resize((side, side), Image.Resampling.BOX).resize(whole.size, how))


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """The image after JPEG at this quality."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "jpeg", quality=quality)
    return np.asarray(Image.open(buffer))


def noise(image: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise; `deviation` in steps of 1/255."""
    return _to_uint8(image + deviation * rng.standard_normal(image.shape, np.float32))


def shift(image: np.ndarray, rows: float, columns: float) -> np.ndarray:
    """The image moved by parts of a pixel, interpolated linearly."""
    move = (rows, columns, 0)
    return _to_uint8(ndimage.shift(image.astype(np.float32), move, order=1, mode="nearest"))


def warp(image: np.ndarray, amplitude: float, length: float, rng: np.random.Generator):
    """Every pixel displaced by a smooth random field: edges are bent.

    Args:
      amplitude: root mean square of the displacement in u. length: of its waves, in u.
    """
    side = len(image)
    u = side / 32
    field = ndimage.gaussian_filter(
        rng.standard_normal((2, side, side)), (0, length * u, length * u)
    )
    field *= amplitude * u / np.sqrt(np.mean(np.sum(field**2, axis=0)))
    return _sample(image, np.indices((side, side)) + field)


def ghost(scene: Scene, number: int, share: float, rng: np.random.Generator, size: int):
    """The scene in which an object has two shapes at once, one shining through the other."""
    one = scene.objects[number]
    shape = rng.choice([name for name in SHAPES if name != one.shape])
    other = dataclasses.replace(one, shape=str(shape), turn=float(rng.uniform(0.3, 1.27)))
    objects = tuple(other if k == number else solid for k, solid in enumerate(scene.objects))
    second = render(dataclasses.replace(scene, objects=objects), size)
    return _to_uint8((1 - share) * render(scene, size).astype(np.float32) + share * second)


def two_lights(scene: Scene, size: int) -> np.ndarray:
    """The scene with highlights and lit sides from two suns, the second on the other side."""
    x, y, z = scene.sun
    second = render(dataclasses.replace(scene, sun=(-x, y, z)), size)
    return np.maximum(render(scene, size), second)


def reshape(image: np.ndarray, instance: np.ndarray, number: int, rng: np.random.Generator):
    """An object made wider or narrower by rows: a tub of a cube, a funnel of a cone, an egg."""
    rows, columns = np.nonzero(instance == number)
    side = len(image)
    top, bottom = rows.min(), rows.max() + 1
    centre, half = (columns.min() + columns.max()) / 2, (columns.max() + 1 - columns.min()) / 2
    v = np.clip((np.arange(side) - top + 0.5) / (bottom - top), 0, 1)  # from top to bottom
    strength = rng.uniform(0.35, 0.8)
    profile = {
        "taper": 1 + strength * (v - 0.5),
        "funnel": 1 - strength * (v - 0.5),
        "barrel": 1 + 0.6 * strength * (np.sin(np.pi * v) - 0.5),
        "waist": 1 - 0.6 * strength * (np.sin(np.pi * v) - 0.5),
        "lean": np.ones(side),
        "thin": np.full(side, 1 / (1 + 0.8 * strength)),
        "wide": np.full(side, 1 + 0.8 * strength),
    }
    name = str(rng.choice(list(profile)))
    width = np.clip(profile[name], 0.35, 2.0)[:, None]
    moved = np.zeros(side)
    if name == "lean":
        moved = rng.choice([-1, 1]) * strength * half * (v - 0.5)
    y, x = np.indices((side, side)).astype(np.float64)
    away = x - centre
    near = np.exp(-((away / (2.0 * half + 1)) ** 4))  # what is far from it stays in place
    source = centre + (away - moved[:, None]) / width
    return _sample(image, np.stack([y, x + near * (source - x)]))


def damaged(scene: Scene, size: int, instance: np.ndarray, rng: np.random.Generator) -> Damaged:
    """The scene rendered and damaged in one of these ways, chosen at random."""
    every = tuple(range(len(scene.objects)))
    visible = [k for k in every if (instance == k).sum() >= 6]
    one = int(rng.choice(visible)) if visible else 0
    kind = rng.choice(("blur", "thumbnail", "warp", "ghost", "reshape", "lights"), p=_SHARES)
    if kind == "lights":
        shiny = [k for k in visible if scene.objects[k].material == "shiny"]
        if shiny:
            return Damaged(two_lights(scene, size), tuple(shiny))
        kind = "reshape"
    if kind == "ghost":
        return Damaged(ghost(scene, one, rng.uniform(0.25, 0.75), rng, size), (one,))
    image = render(scene, size)
    if kind == "reshape" and visible:
        return Damaged(reshape(image, instance, one, rng), (one,))
    if kind == "thumbnail":
        how = (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.NEAREST)
        return Damaged(thumbnail(image, int(rng.integers(5, 13)), how[rng.integers(3)]), every)
    if kind == "warp":
        return Damaged(warp(image, rng.uniform(BENT, 1.6), rng.uniform(0.8, 1.8), rng), every)
    return Damaged(blur(image, BLURRED + rng.exponential(0.5)), every)


_SHARES = (0.25, 0.12, 0.2, 0.18, 0.2, 0.05)


def harmless(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image with small faults of files and of good decoders, after which objects are sound."""
    if rng.random() < 0.3:
        image = blur(image, rng.uniform(0, SOFT))
    if rng.random() < 0.3:
        image = shift(image, *rng.uniform(-0.5, 0.5, 2))
    if rng.random() < 0.2:
        image = warp(image, rng.uniform(0, STILL), rng.uniform(0.8, 1.8), rng)
    if rng.random() < 0.4:
        image = noise(image, rng.uniform(0.5, 5), rng)
    if rng.random() < 0.3:
        image = jpeg(image, int(rng.integers(85, 100)))
    return image


def _sample(image, where) -> np.ndarray:
    """The image at these positions [2, H, H] of rows and columns, interpolated linearly."""
    channels = np.moveaxis(image.astype(np.float32), -1, 0)
    moved = [ndimage.map_coordinates(c, where, order=1, mode="nearest") for c in channels]
    return _to_uint8(np.stack(moved, axis=-1))


def _to_uint8(values) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
