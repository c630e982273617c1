"""The light of each sky: its colours and its direction."""

from dataclasses import dataclass

import numpy as np

from ldm_jax.data.scenes.world import Scene


def rgb(colour) -> np.ndarray:
    """Three numbers as a float32 array [3]."""
    return np.array(colour, np.float32)


@dataclass(frozen=True)
class Light:
    """The light that a sky gives; colours are linear."""

    sun: tuple[float, float, float]  # direct light
    shade: tuple[float, float, float]  # ambient light
    low: tuple[float, float, float]  # the sky at the horizon
    high: tuple[float, float, float]  # the sky further up
    haze: tuple[float, float, float]  # what the far floor fades into
    spread: float  # apparent size of the light; larger makes softer shadows


# The sun's colour is kept mild, or yellow would be orange at sunset and white blue at night.
LIGHTS = {
    "day": Light(
        sun=(0.88, 0.84, 0.76), shade=(0.27, 0.30, 0.35), low=(0.55, 0.74, 0.92),
        high=(0.07, 0.25, 0.70), haze=(0.52, 0.64, 0.76), spread=0.05,
    ),
    "sunset": Light(
        sun=(0.96, 0.72, 0.50), shade=(0.26, 0.23, 0.29), low=(0.98, 0.50, 0.20),
        high=(0.19, 0.14, 0.38), haze=(0.60, 0.40, 0.31), spread=0.06,
    ),
    "overcast": Light(
        sun=(0.54, 0.54, 0.53), shade=(0.38, 0.39, 0.41), low=(0.62, 0.64, 0.66),
        high=(0.34, 0.37, 0.41), haze=(0.52, 0.54, 0.56), spread=0.20,
    ),
    "night": Light(
        sun=(0.50, 0.54, 0.64), shade=(0.13, 0.145, 0.20), low=(0.045, 0.065, 0.16),
        high=(0.005, 0.010, 0.045), haze=(0.04, 0.055, 0.125), spread=0.04,
    ),
}  # fmt: skip


def towards_light(scene: Scene, samples: int):
    """Directions (lx [1, S], ly, lz [S, 1]) to the light: four points of it per pixel."""
    x, y, z = scene.sun
    spread = LIGHTS[scene.sky].spread
    sign = np.where(np.arange(samples) % 2, 1.0, -1.0).astype(np.float32)
    return x + spread * sign[None, :], y, z + 0.7 * spread * sign[:, None]
