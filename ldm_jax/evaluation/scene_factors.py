"""The continuous factors of a scene as a vector, and the ranges that the world gives them.

Those that decide how its objects look: camera and light, and of each object place, size and turn.
The pattern of the floor and the clouds are not among them.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np

from ldm_jax.data.scenes.world import Camera, Scene, sample_scene

CAMERA = ("height", "pitch", "spread")
SUN = ("azimuth", "elevation")
SURROUNDINGS = (*CAMERA, *SUN)  # the first factors of a vector, before those of the objects
OBJECT = ("x", "y", "radius", "turn")

# The error of a reader of images; also the scale on which one step matters as much as another.
_ERROR = {
    "height": 0.15, "pitch": 0.02, "spread": 0.01,
    "azimuth": math.radians(8), "elevation": math.radians(5),
    "x": 0.15, "y": 0.15, "radius": 0.05, "turn": 0.15,  # the radius: a share of it
}  # fmt: skip
_SCENES = 1000  # whose factors show the ranges
_MARGIN = 0.05  # of a range, as samples hardly reach its ends


def factors(scene: Scene) -> np.ndarray:
    """The factors of a scene, float64 [5 + 4 n] for n objects: `SURROUNDINGS`, n times `OBJECT`.

    Lengths in units of the world, angles in radians; the azimuth is 0 behind the camera and
    positive to the right.
    """
    x, y, z = scene.sun
    values = [getattr(scene.camera, name) for name in CAMERA]
    values += [math.atan2(x, -y), math.asin(min(max(z, -1.0), 1.0))]
    for solid in scene.objects:
        values += [getattr(solid, name) for name in OBJECT]
    return np.array(values, np.float64)


def with_factors(scene: Scene, values: np.ndarray) -> Scene:
    """The scene with other factors, in the order of `factors`; all else is unchanged."""
    values = [float(value) for value in values]
    camera = Camera(*values[: len(CAMERA)])
    azimuth, elevation = values[len(CAMERA) : len(SURROUNDINGS)]
    objects = []
    for number, solid in enumerate(scene.objects):
        start = len(SURROUNDINGS) + number * len(OBJECT)
        own = dict(zip(OBJECT, values[start : start + len(OBJECT)], strict=True))
        objects.append(replace(solid, **own))
    sun = (
        math.sin(azimuth) * math.cos(elevation),
        -math.cos(azimuth) * math.cos(elevation),
        math.sin(elevation),
    )
    return replace(scene, camera=camera, sun=sun, objects=tuple(objects))


def errors(scene: Scene) -> np.ndarray:
    """The standard error of each factor in what a reader reads, in the order of `factors`."""
    values = [_ERROR[name] for name in SURROUNDINGS]
    for solid in scene.objects:
        values += [_ERROR[name] * (solid.radius if name == "radius" else 1.0) for name in OBJECT]
    return np.array(values, np.float64)


def ranges(scene: Scene, level: str) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest value of each factor in scenes of this level, as `factors`.

    Those of the light depend on the sky and on the side where it stands, which stays. A radius may
    be that of a small or a large object, whatever is said: the distance decides that too.
    """
    found = _ranges(level)
    names = [(name, "") for name in CAMERA] + [(name, scene.sky) for name in SUN]
    names += [(name, "") for name in OBJECT] * len(scene.objects)
    low, high = np.array([found[name] for name in names]).T
    azimuth = SURROUNDINGS.index("azimuth")
    if scene.sun[0] < 0:
        low[azimuth], high[azimuth] = -high[azimuth], -low[azimuth]
    return low, high


@functools.cache
def _ranges(level: str) -> dict[tuple[str, str], tuple[float, float]]:
    """(name, sky that it depends on) -> (least, greatest), from scenes of the level."""
    values: dict[tuple[str, str], list[float]] = {}
    for seed in range(_SCENES):
        scene = sample_scene(
            np.random.default_rng(seed), level, lambda scene: [math.inf] * len(scene.objects)
        )
        own = factors(scene)
        for name, value in zip(SURROUNDINGS, own, strict=False):
            kind = scene.sky if name in SUN else ""
            values.setdefault((name, kind), []).append(abs(value) if name == "azimuth" else value)
        for solid in scene.objects:
            for name in OBJECT:
                values.setdefault((name, ""), []).append(getattr(solid, name))
    margins = {key: _MARGIN * np.ptp(found) for key, found in values.items()}
    return {
        key: (float(min(found) - margins[key]), float(max(found) + margins[key]))
        for key, found in values.items()
    }
