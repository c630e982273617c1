"""The scene that an image seems to show: from readings to a `Scene` that can be rendered."""

import math
from collections.abc import Sequence

import numpy as np

from ldm_jax.data.scenes import FLOORS, SKIES
from ldm_jax.data.scenes.world import Camera, Scene
from ldm_jax.evaluation.scene_network import VIEW
from ldm_jax.evaluation.scene_objects import objects_in
from ldm_jax.evaluation.scene_reader import Reading


def guess_scenes(seen: Reading) -> list[Scene]:
    """The scene of each image that was read; without objects where none was detected.

    The patterns of floor and sky start anywhere: their offsets cannot be read, and are 0.
    """
    found = objects_in(seen)
    return [
        _scene(objects, FLOORS[floor], SKIES[sky], dict(zip(VIEW, view.tolist(), strict=True)))
        for objects, floor, sky, view in zip(found, seen.floor, seen.sky, seen.view, strict=True)
    ]


def object_masks(seen: Reading) -> np.ndarray:
    """The pixels that the reader takes for an object: bool [n, H, H]."""
    return seen.semantic >= 2


def _scene(objects: Sequence, floor: str, sky: str, view: dict[str, float]) -> Scene:
    azimuth, elevation = view["azimuth"], view["elevation"]
    sun = (
        math.sin(azimuth) * math.cos(elevation),
        -math.cos(azimuth) * math.cos(elevation),
        math.sin(elevation),
    )
    return Scene(
        objects=tuple(one.solid for one in objects),
        camera=Camera(view["height"], view["pitch"], view["spread"]),
        floor=floor,
        sky=sky,
        sun=sun,
        floor_turn=view["floor_turn"],
        floor_tone=min(max(view["floor_tone"], 0.0), 1.0),
        offset=(0.0, 0.0),
        wording=0,
    )
