"""The ray-caster: from a scene to an image, with light, shadow and gloss.

Four rays per pixel, everything float32 and in linear light; an object costs only the rectangle of
the image that it, or its shadow, can reach. The four rays of a pixel see four slightly different
points of the light, which makes the shadows soft.
"""

import math

import numpy as np

from ldm_jax.data.scenes import geometry, surroundings
from ldm_jax.data.scenes.light import LIGHTS, rgb, towards_light
from ldm_jax.data.scenes.world import Scene

# sRGB under white light. Eight colours with common names, as far apart as possible:
# no orange (red at sunset, or wood), no brown (yellow in the shade), no grey (floors).
PALETTE = {
    "red": (0.86, 0.08, 0.09),
    "yellow": (0.98, 0.84, 0.05),
    "green": (0.10, 0.64, 0.16),
    "cyan": (0.10, 0.86, 0.88),
    "blue": (0.09, 0.24, 0.88),
    "purple": (0.53, 0.13, 0.74),
    "pink": (1.00, 0.45, 0.66),
    "white": (0.90, 0.90, 0.89),
}


_BODY = np.float32(0.88)  # what a shiny surface leaves of the light for its own colour


def render(scene: Scene, size: int) -> np.ndarray:
    """The image, uint8 [size, size, 3]: a pure function of the scene and the size."""
    samples = 2 * size
    with np.errstate(all="ignore"):
        depth, instance = geometry.first_hits(scene, samples)
        light = np.empty((samples, samples, 3), np.float32)
        horizon = int((geometry.rays(scene.camera, samples)[2] >= 0).sum())  # rows above it
        if horizon > 0:
            light[:horizon] = surroundings.sky(scene, samples, horizon)
        if horizon < samples:
            light[horizon:] = _floor(scene, samples, horizon)
        for number in range(len(scene.objects)):
            _paint(scene, number, light, depth, instance)
    pixels = light[0::2, 0::2] + light[1::2, 0::2] + light[0::2, 1::2] + light[1::2, 1::2]
    # Square root for gamma: linear light to displayed values, which PALETTE and the eye are in.
    return (np.sqrt(np.minimum(pixels * 0.25, 1.0)) * 255.0 + 0.5).astype(np.uint8)


def _floor(scene, samples, horizon):
    """Linear colours [S - horizon, S, 3] of the floor with cast shadows, contact shade and haze."""
    dx, dy, dz = geometry.rays(scene.camera, samples)
    depth = scene.camera.height / -dz[horizon:]  # [h, 1]
    x, y = dx * depth, dy[horizon:] * depth  # [h, S], [h, 1]
    fade = np.exp(-depth * 0.05)
    sunlit, open_sky = _shadows(scene, samples, horizon, x, y)
    light = LIGHTS[scene.sky]
    albedo = surroundings.floor_pattern(scene, x, y, fade)
    tint = rgb(surroundings.FLOOR_TINT[scene.floor])
    steep = max(scene.sun[2], 0.5)
    direct = (albedo * open_sky * sunlit * steep * 1.25)[..., None] * (rgb(light.sun) * tint)
    floor = direct + (albedo * open_sky)[..., None] * (rgb(light.shade) * tint)
    haze = 1.0 - np.exp(np.maximum(depth - 6.0, 0.0) * -0.04)
    return floor + (rgb(light.haze) - floor) * haze[..., None]


def _shadows(scene, samples, horizon, x, y):
    """The fractions of sunlight and of sky light that reach the floor: two arrays [h, S]."""
    lx, ly, lz = towards_light(scene, samples)
    spread = LIGHTS[scene.sky].spread
    sunlit, open_sky = np.ones_like(x), np.ones_like(x)
    for solid in scene.objects:
        # The shadow lies within the box around the solid and its own shadow.
        px, py, pz = geometry.corners(solid)
        reach = pz / (scene.sun[2] - 0.7 * spread)
        px = np.concatenate(
            [px, px - (scene.sun[0] - spread) * reach, px - (scene.sun[0] + spread) * reach]
        )
        py = np.concatenate([py, py - ly * reach, py - ly * reach])
        rows, columns = geometry.window(scene.camera, samples, px, py, np.zeros_like(px))
        rows = slice(max(rows.start, horizon), max(rows.stop, horizon))
        here = slice(rows.start - horizon, rows.stop - horizon)
        t = geometry.entry(
            solid, x[here, columns] - solid.x, y[here] - solid.y, 0.0, lx[:, columns], ly, lz[rows]
        )
        sunlit[here, columns] *= ~np.isfinite(t)
        # Contact shade: the solid hides part of the sky from the floor around it.
        px, py, pz = geometry.corners(solid, reach=2.1)
        rows, columns = geometry.window(scene.camera, samples, px, py, np.zeros_like(pz))
        here = slice(max(rows.start - horizon, 0), max(rows.stop - horizon, 0))
        away = (x[here, columns] - solid.x) ** 2 + (y[here] - solid.y) ** 2
        near = np.clip(1.0 - (away / solid.footprint**2 - 0.5) / 3.0, 0.0, 1.0)
        open_sky[here, columns] *= 1.0 - 0.6 * near * near
    return sunlit, open_sky


def _paint(scene, number, light, depth, instance):
    """Shades the visible rays of one object, in place."""
    solid, camera = scene.objects[number], scene.camera
    samples = light.shape[0]
    rows, columns = geometry.window(camera, samples, *geometry.corners(solid))
    i, j = np.nonzero(instance[rows, columns] == number)
    i, j = i + rows.start, j + columns.start
    dx, dy, dz = geometry.rays(camera, samples)
    dx, dy, dz = dx[0, j], dy[i, 0], dz[i, 0]
    t = depth[i, j]
    x, y, z = t * dx - solid.x, t * dy - solid.y, t * dz + camera.height
    nx, ny, nz = geometry.normal(solid, x, y, z)

    lx, ly, lz = towards_light(scene, samples)
    lx, lz = lx[0, j], lz[i, 0]
    facing = np.maximum(nx * lx + ny * ly + nz * lz, 0.0)
    for other in scene.objects:
        if other is not solid:
            t = geometry.entry(other, x + solid.x - other.x, y + solid.y - other.y, z, lx, ly, lz)
            facing *= ~np.isfinite(t)

    source = LIGHTS[scene.sky]
    sun, shade = rgb(source.sun), rgb(source.shade)
    albedo = np.square(rgb(PALETTE[solid.colour]))
    # Ambient light: the sky from above, the floor's reflection from below, less near the ground.
    side = math.copysign(0.16, scene.sun[0])  # a little more from the side of the light
    openness = 0.55 + 0.45 * nz + side * nx
    openness *= np.clip(0.55 + 0.9 * z / solid.height, 0.0, 1.0)
    bounce = 0.16 * (1.0 - nz) * scene.sun[2]
    ambient = openness[:, None] * (shade * 1.15) + bounce[:, None] * (sun + shade)
    colour = albedo * (facing[:, None] * (sun * 1.05) + ambient)
    if solid.material == "shiny":
        rounded = geometry.rounded_normal(solid, x, y, z, (nx, ny, nz))
        gloss = _gloss(source, facing, (dx, dy, dz), rounded, (lx, ly, lz))
        colour = _BODY * colour + gloss
    light[i, j] = colour


def _gloss(light, facing, ray, normal, to_light):
    """Specular light [N, 3] of a shiny surface: a highlight and a faint reflection of the sky.

    facing: [N], the cosine between normal and light, 0 in shadow. ray, normal, to_light: directions
    as (x, y, z), each [N].
    """
    (dx, dy, dz), (nx, ny, nz), (lx, ly, lz) = ray, normal, to_light
    length = 1.0 / np.sqrt(dx * dx + dy * dy + dz * dz)
    vx, vy, vz = -dx * length, -dy * length, -dz * length
    along = 2.0 * (nx * vx + ny * vy + nz * vz)
    rx, ry, rz = along * nx - vx, along * ny - vy, along * nz - vz  # mirror direction
    spot = np.maximum(rx * lx + ry * ly + rz * lz, 0.0)
    for _ in range(3):
        spot *= spot
    highlight = 2.0 * spot**3 * (facing > 0)  # Phong, exponent 24
    grazing = (1.0 - np.clip(0.5 * along, 0.0, 1.0)) ** 3
    mirror = (0.05 + 0.35 * grazing) * np.clip(rz * 3.0 + 0.3, 0.0, 1.0)
    up = np.clip(rz, 0.0, 1.0)[:, None]
    low, high = rgb(light.low), rgb(light.high)
    return highlight[:, None] * rgb(light.sun) + mirror[:, None] * (low + (high - low) * up)
