"""The contents of a scene: objects, camera, light, floor and sky, sampled with one generator.

World coordinates: x to the right, y away from the camera, z up; the floor is z = 0. A scene holds
no pixels: the same scene can be rendered at any size.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

SHAPES = ("ball", "cube", "cylinder", "cone")
COLOURS = ("red", "yellow", "green", "cyan", "blue", "purple", "pink", "white")
SIZES = ("small", "large")
MATERIALS = ("matte", "shiny")
FLOORS = ("plain", "checkered", "wooden", "speckled")
SKIES = ("day", "sunset", "overcast", "night")
Level = Literal["single", "pair", "full"]
LEVELS = ("single", "full", "pair")  # the index seeds the generator: append new levels
SPLITS = ("train", "validation")  # the index seeds the generator
MAX_OBJECTS = 4
MIN_VISIBLE = 12  # visible pixels that an object needs at 64x64; other sizes in proportion

# Level: (most objects, radii of small and large objects, least and greatest distance).
_PLACEMENTS = {
    "pair": (2, (0.58, 0.95), (4.6, 6.0)),
    "full": (MAX_OBJECTS, (0.50, 0.92), (4.2, 8.4)),
}
# (base radius or half side, height) in multiples of the object's radius.
_PROPORTIONS = {
    "ball": (1.0, 2.0),
    "cube": (0.8, 1.6),
    "cylinder": (0.75, 1.75),
    "cone": (1.0, 2.1),
}


@dataclass(frozen=True)
class SceneObject:
    """One solid standing on the floor at (x, y), turned by `turn` radians about the vertical."""

    shape: str
    colour: str
    size: str
    material: str
    x: float
    y: float
    radius: float
    turn: float

    @property
    def base(self) -> float:
        """Radius of the base; for the cube half its side."""
        return _PROPORTIONS[self.shape][0] * self.radius

    @property
    def height(self) -> float:
        return _PROPORTIONS[self.shape][1] * self.radius

    @property
    def taper(self) -> float:
        """The share of the base's radius that is lost up to the top of a cylinder or cone."""
        return 1.0 if self.shape == "cone" else 0.0

    @property
    def footprint(self) -> float:
        """Radius of the smallest vertical cylinder around the object."""
        return self.base * (math.sqrt(2.0) if self.shape == "cube" else 1.0)


@dataclass(frozen=True)
class Camera:
    """A pinhole above the origin, looking along y and `pitch` radians downwards."""

    height: float
    pitch: float
    spread: float  # tangent of half the field of view

    def project(self, x, y, z):
        """World points to (u, v, depth): u right and v up in [-1, 1] inside the image."""
        cos, sin = math.cos(self.pitch), math.sin(self.pitch)
        depth = y * cos - (z - self.height) * sin
        depth = np.maximum(depth, 0.2)  # behind the camera: far outside the image, not mirrored
        u = x / (depth * self.spread)
        v = (y * sin + (z - self.height) * cos) / (depth * self.spread)
        return u, v, depth


@dataclass(frozen=True)
class Scene:
    """Everything that decides one image and its caption."""

    objects: tuple[SceneObject, ...]
    camera: Camera
    floor: str
    sky: str
    sun: tuple[float, float, float]  # unit vector towards the light
    floor_turn: float  # direction of the floor's pattern, radians
    floor_tone: float  # [0, 1): dark to light
    offset: tuple[float, float]  # [0, 1): where patterns, grain and clouds start
    wording: int  # 16 random bits: which of the possible captions it gets


def generator(seed: int, split: str, level: str, index: int) -> np.random.Generator:
    """The random generator of one scene; splits and levels never share one."""
    return np.random.default_rng([seed, SPLITS.index(split), LEVELS.index(level), index])


def sample_scene(rng: np.random.Generator, level: str, visible_pixels) -> Scene:
    """Samples one scene.

    Args:
      rng: its generator; the scene is a pure function of it.
      level: 'single' (one object, close), 'pair' (one or two, nearly as close) or 'full' (one to
        four, farther away). Objects may hide each other in part.
      visible_pixels: (scene) -> visible pixels of each object at 64x64. A scene where
        an object shows too few is sampled again, so that a caption names only visible objects.
    """
    if level == "single":
        return _surroundings(rng, _close_camera(rng), (_close_object(rng),))
    most, radii, distances = _PLACEMENTS[level]
    while True:
        camera = _near_camera(rng) if level == "pair" else _far_camera(rng)
        count = int(rng.integers(1, most + 1))
        objects = _place_objects(rng, camera, count, radii, distances)
        if objects is None:
            continue
        scene = _surroundings(rng, camera, objects)
        # Twice the minimum, so that it also holds at other sizes, whose pixels lie elsewhere.
        if len(objects) == 1 or min(visible_pixels(scene)) >= 2 * MIN_VISIBLE:
            return scene


def _close_camera(rng) -> Camera:
    height = rng.uniform(1.95, 2.35)
    aim = rng.uniform(1.0, 1.15)  # the height that it looks at, at the distance of the objects
    return Camera(height, math.atan((height - aim) / 4.6), rng.uniform(0.35, 0.38))


def _close_object(rng) -> SceneObject:
    return _object(rng, (0.70, 1.0), rng.uniform(-0.35, 0.35), rng.uniform(4.6, 5.1))


def _near_camera(rng) -> Camera:
    height = rng.uniform(2.3, 2.8)
    return Camera(height, math.atan((height - 0.9) / 5.4), rng.uniform(0.37, 0.40))


def _far_camera(rng) -> Camera:
    height = rng.uniform(2.7, 3.3)
    return Camera(height, math.atan((height - 0.9) / 7.0), rng.uniform(0.40, 0.44))


def _object(rng, radii, x, y) -> SceneObject:
    shape, colour, size, material = (
        int(rng.integers(len(names))) for names in (SHAPES, COLOURS, SIZES, MATERIALS)
    )
    radius = radii[size] * rng.uniform(0.94, 1.06)
    turn = rng.uniform(0.3, math.pi / 2 - 0.3)  # a cube seen face-on would look like a square
    return SceneObject(
        SHAPES[shape], COLOURS[colour], SIZES[size], MATERIALS[material], x, y, radius, turn
    )


def _place_objects(rng, camera, count, radii, distances):
    """`count` objects that do not touch, each wholly inside the image; None if that failed."""
    objects = []
    for _ in range(30 * count):
        y = rng.uniform(*distances)
        half_width = y * camera.spread
        one = _object(rng, radii, rng.uniform(-half_width, half_width), y)
        if _in_image(one, camera) and all(_apart(one, other) for other in objects):
            objects.append(one)
        if len(objects) == count:
            return tuple(objects)
    return None


def _in_image(one, camera) -> bool:
    margin = 0.97
    for z in (0.0, one.height):
        for x in (one.x - one.footprint, one.x + one.footprint):
            u, v, _ = camera.project(x, one.y - one.footprint, z)
            if abs(u) > margin or abs(v) > margin:
                return False
    return True


def _apart(one, other) -> bool:
    gap = 0.12
    return math.hypot(one.x - other.x, one.y - other.y) > one.footprint + other.footprint + gap


def _surroundings(rng, camera, objects) -> Scene:
    floor = FLOORS[int(rng.integers(len(FLOORS)))]
    sky = SKIES[int(rng.integers(len(SKIES)))]
    # The light stands behind the camera, to the left or the right; the sinking sun at the side.
    low, high = (65, 95) if sky == "sunset" else (25, 65)
    azimuth = math.radians(rng.uniform(low, high)) * (1 if rng.random() < 0.5 else -1)
    low, high = (24, 34) if sky == "sunset" else (38, 56)
    elevation = math.radians(rng.uniform(low, high))
    sun = (
        math.sin(azimuth) * math.cos(elevation),
        -math.cos(azimuth) * math.cos(elevation),
        math.sin(elevation),
    )
    return Scene(
        objects=objects,
        camera=camera,
        floor=floor,
        sky=sky,
        sun=sun,
        floor_turn=rng.uniform(-0.6, 0.6),
        floor_tone=rng.random(),
        offset=(rng.random(), rng.random()),
        wording=int(rng.integers(1 << 16)),
    )
