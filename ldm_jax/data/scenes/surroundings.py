"""Sky and floor without objects. Colours are linear."""

import functools
import math

import numpy as np

from ldm_jax.data.scenes import geometry
from ldm_jax.data.scenes.light import LIGHTS, rgb
from ldm_jax.data.scenes.world import Scene

_GRAIN = 256  # side of the noise tile


@functools.cache
def _noise() -> tuple[np.ndarray, np.ndarray]:
    """Two tiles [256, 256] in [0, 1]: smooth fractal and white noise; both wrap around."""
    rng = np.random.default_rng(0)
    white = rng.random((_GRAIN, _GRAIN))
    f = np.fft.fftfreq(_GRAIN) * _GRAIN
    amplitude = 1.0 / np.maximum(np.hypot(f[:, None], f[None]), 2.0) ** 1.7
    amplitude[0, 0] = 0.0
    smooth = np.fft.ifft2(np.fft.fft2(white) * amplitude).real
    ranks = smooth.ravel().argsort().argsort() / smooth.size  # uniform: a threshold is a share
    return ranks.reshape(smooth.shape).astype(np.float32), white.astype(np.float32)


def _look_up(tile, x, y):
    """The tile at [..., x, y] in periods of the tile, nearest neighbour."""
    mask = _GRAIN - 1
    i = np.floor(x * _GRAIN).astype(np.int32) & mask
    j = np.floor(y * _GRAIN).astype(np.int32) & mask
    return tile[i, j]


def sky(scene: Scene, samples: int, horizon: int) -> np.ndarray:
    """Colours [horizon, S, 3] of the rows above the horizon: a gradient with clouds or stars."""
    dx, dy, dz = geometry.rays(scene.camera, samples)
    rise = dz[:horizon] / dy[:horizon]  # [h, 1]
    light = LIGHTS[scene.sky]
    low, high = rgb(light.low), rgb(light.high)
    up = np.minimum(rise / 0.30, 1.0)
    colour = low + (high - low) * (up**0.7)[..., None]  # [h, 1, 3]
    smooth, white = _noise()
    ox, oy = scene.offset
    if scene.sky == "night":
        # Stars are cells of a fixed angle, so that they are the same at every size.
        star = _look_up(white, dx * 0.75 + ox, rise * 0.75 + oy)
        star = np.maximum(star - 0.975, 0.0) * 36.0 * np.minimum(rise * 12, 1.0)
        # A moon, which may lie outside of the image.
        distance = np.sqrt((dx - 0.6 * (ox - 0.5)) ** 2 + (rise - 0.12 - 0.08 * oy) ** 2)
        moon = np.clip((0.032 - distance) * 200.0, 0.0, 1.0) + 0.10 * np.exp(distance * -18.0)
        return colour + np.maximum(star, moon)[..., None] * rgb((0.95, 0.93, 0.80))
    # Clouds lie on a plane overhead, so they crowd towards the horizon.
    cloud = _look_up(smooth, dx / (rise + 0.22) * 0.16 + ox, 0.275 / (rise + 0.22) + oy)
    if scene.sky == "overcast":
        return colour * (0.66 + 0.6 * cloud[..., None])
    if scene.sky == "sunset":
        side = math.copysign(0.3, scene.sun[0])  # the afterglow is on the side of the light
        glow = np.exp(-((dx - side) ** 2) * 10.0) * (1.0 - up)
        streak = np.clip((cloud - 0.5) * 3.0, 0.0, 0.8)
        colour = colour + glow[..., None] * rgb((0.45, 0.28, 0.06))
        return colour + (rgb((0.90, 0.36, 0.34)) - colour) * streak[..., None]
    cover = np.clip((cloud - 0.5) * 4.0, 0.0, 0.95)
    return colour + (rgb((0.98, 0.98, 0.99)) - colour) * cover[..., None]


# Hardly any colour in the floors: the colours of the objects must stand out under every light.
FLOOR_TINT = {
    "plain": (1.0, 1.0, 1.0),
    "checkered": (1.0, 1.0, 1.02),
    "wooden": (1.18, 0.98, 0.80),
    "speckled": (1.0, 1.0, 0.98),
}


def floor_pattern(scene: Scene, x, y, fade):
    """The floor's reflectance [h, S] at world points (x [h, S], y [h, 1]), without its tint.

    fade: [h, 1], the contrast of the pattern, which falls with distance to avoid aliasing.
    """
    smooth, white = _noise()
    tone = scene.floor_tone
    ox, oy = scene.offset
    cos, sin = math.cos(scene.floor_turn), math.sin(scene.floor_turn)
    p, q = x * cos + y * sin + 7 * ox, y * cos - x * sin + 7 * oy
    if scene.floor == "checkered":
        squares = (np.floor(p * 0.9).astype(np.int32) + np.floor(q * 0.9).astype(np.int32)) & 1
        return 0.26 + 0.08 * tone + fade * (0.15 + 0.03 * tone) * (2.0 * squares - 1.0)
    if scene.floor == "wooden":
        across = p * 1.7
        plank = np.floor(across)
        along = q * 0.45 + 0.37 * plank
        board = _look_up(white, plank * 0.137 + ox, np.floor(along) * 0.211 + oy)
        grain = _look_up(smooth, across * 0.11 + board, q * 0.035)
        seam = ((across - plank) < 0.07) | ((along - np.floor(along)) < 0.02)
        marks = 0.13 * (board - 0.5) + 0.13 * (grain - 0.5) - 0.10 * seam
        return 0.24 + 0.08 * tone + fade * marks
    if scene.floor == "speckled":
        chips = _look_up(smooth, p * 0.21 + ox, q * 0.21 + oy)
        fine = _look_up(white, p * 0.07, q * 0.07)
        specks = 0.22 * (fine > 0.86) - 0.16 * (fine < 0.14) + 0.10 * (chips - 0.5)
        return 0.28 + 0.10 * tone + fade * specks
    stains = _look_up(smooth, p * 0.05 + ox, q * 0.05 + oy)
    return 0.24 + 0.18 * tone + 0.05 * fade * (stains - 0.5)
