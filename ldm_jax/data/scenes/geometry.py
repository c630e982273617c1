"""Intersections of rays with solids: the geometry that images and ground truth share.

Every solid is convex, so a ray is inside it for one interval of t: the intersection of the
intervals of its surfaces (a slab between two planes, or a quadric). Arrays are float32 and
broadcast.
"""

import math

import numpy as np

from ldm_jax.data.scenes.world import Camera, Scene, SceneObject

SKY, FLOOR = -2, -1  # in an instance map; an object is its position in `scene.objects`
_BULGE = np.float32(2.5)  # weight of the direction from the centre beside the normal of a face


def rays(camera: Camera, samples: int):
    """Directions (dx [1, S], dy [S, 1], dz [S, 1]) of an S x S grid, scaled to depth 1.

    The camera neither rolls nor turns, so each component varies along one axis only: broadcasting
    does the rest, and a ray's parameter t is the depth along the viewing axis.
    """
    ticks = (np.arange(samples, dtype=np.float32) + 0.5) * (2.0 / samples) - 1.0
    dx = (ticks * camera.spread)[None, :]
    v = (-ticks * camera.spread)[:, None]
    cos, sin = math.cos(camera.pitch), math.sin(camera.pitch)
    return dx, cos + v * sin, v * cos - sin


def entry(solid: SceneObject, x, y, z, dx, dy, dz):
    """Ray parameter at which rays enter `solid`, infinite where they miss it.

    Origins (x, y, z) are relative to the centre of the solid's base, and outside the solid.
    """
    if solid.shape == "ball":
        z = z - solid.radius
        near, far = _quadric(
            dx * dx + dy * dy + dz * dz,
            x * dx + y * dy + z * dz,
            x * x + y * y + z * z - solid.radius**2,
        )
    else:
        # A plane parallel to a ray divides by zero: plus or minus infinity is the right answer.
        near, far = _slab(z, dz, 0.0, solid.height)
        if solid.shape == "cube":
            cos, sin = math.cos(solid.turn), math.sin(solid.turn)
            for p, d in (
                (x * cos + y * sin, dx * cos + dy * sin),
                (y * cos - x * sin, dy * cos - dx * sin),
            ):
                near_side, far_side = _slab(p, d, -solid.base, solid.base)
                near, far = np.maximum(near, near_side), np.minimum(far, far_side)
        else:
            # Radius at height z is base - slope * z: a cylinder is a cone with slope 0.
            slope = solid.taper * solid.base / solid.height
            radius, growth = solid.base - slope * z, -slope * dz
            near_side, far_side = _quadric(
                dx * dx + dy * dy - growth * growth,
                x * dx + y * dy - radius * growth,
                x * x + y * y - radius * radius,
            )
            near, far = np.maximum(near, near_side), np.minimum(far, far_side)
    return np.where((near < far) & (near > 0.0), near, np.float32(np.inf))


def _quadric(a, b, c):
    """Where a t^2 + 2 b t + c < 0 (a > 0); NaN, which compares false, if nowhere."""
    root = np.sqrt(b * b - a * c)
    return (-b - root) / a, (-b + root) / a


def _slab(p, d, low, high):
    one, two = (low - p) / d, (high - p) / d
    return np.minimum(one, two), np.maximum(one, two)


def normal(solid: SceneObject, x, y, z):
    """Outward unit normal (nx, ny, nz), each [N], at surface points relative to the base centre."""
    if solid.shape == "ball":
        return x / solid.radius, y / solid.radius, z / solid.radius - 1.0
    if solid.shape == "cube":
        cos, sin = math.cos(solid.turn), math.sin(solid.turn)
        p, q = x * cos + y * sin, y * cos - x * sin
        r = z * (2 * solid.base / solid.height) - solid.base
        top = (r > np.abs(p)) & (r > np.abs(q))
        side = ~top & (np.abs(p) > np.abs(q))
        p, q = np.where(side, np.sign(p), 0.0), np.where(side | top, 0.0, np.sign(q))
        nx, ny, nz = p * cos - q * sin, p * sin + q * cos, top.astype(np.float32)
        return nx.astype(np.float32), ny.astype(np.float32), nz
    lean = solid.taper * solid.base / solid.height
    norm = math.sqrt(1.0 + lean * lean)
    radius = np.sqrt(x * x + y * y)
    scale = 1.0 / (np.maximum(radius, 1e-6) * norm)
    nx, ny, nz = x * scale, y * scale, np.full_like(x, lean / norm)
    if solid.shape == "cylinder":
        side = solid.height - z > solid.base - radius  # nearer to the side than to the top
        nx, ny, nz = nx * side, ny * side, (~side).astype(np.float32)
    return nx, ny, nz


def rounded_normal(solid: SceneObject, x, y, z, normal):
    """`normal`, bent as if flat faces bulged: (nx, ny, nz), each [N], at the same points.

    For the gloss alone. A flat face mirrors one direction, hardly ever that of the light, so that
    without this a shiny cube or cylinder would look like a matte one.
    """
    if solid.shape in ("ball", "cone"):
        return normal
    half = solid.height / 2
    outward = _unit(x / solid.base, y / solid.base, (z - half) / half)
    return _unit(*(n + _BULGE * out for n, out in zip(normal, outward, strict=True)))


def _unit(x, y, z):
    norm = np.sqrt(x * x + y * y + z * z)
    return x / norm, y / norm, z / norm


def corners(solid: SceneObject, reach: float = 1.0):
    """Corners (x, y, z), each [8], of an upright box around the solid, `reach` times as wide."""
    signs = np.array([[i & 1, i >> 1 & 1, i >> 2] for i in range(8)])
    x = solid.x + (2 * signs[:, 0] - 1) * solid.footprint * reach
    y = solid.y + (2 * signs[:, 1] - 1) * solid.footprint * reach
    return x, y, signs[:, 2] * solid.height


def window(camera: Camera, samples: int, x, y, z):
    """Slices (rows, columns) of the S x S grid that cover the convex hull of world points."""
    u, v, _ = camera.project(x, y, z)
    columns, rows = (u + 1) * (samples / 2), (1 - v) * (samples / 2)
    return _span(rows, samples), _span(columns, samples)


def _span(values, samples) -> slice:
    low = min(max(math.floor(values.min()) - 1, 0), samples)
    return slice(low, min(max(math.ceil(values.max()) + 1, low), samples))


def first_hits(scene: Scene, samples: int):
    """Depth and instance (object number, FLOOR or SKY) of each ray's first hit, [S, S]."""
    dx, dy, dz = rays(scene.camera, samples)
    with np.errstate(all="ignore"):
        row = np.where(dz < 0, scene.camera.height / -dz, np.float32(np.inf))
        depth = np.repeat(row, samples, axis=1)
        instance = np.where(np.isfinite(depth), np.int8(FLOOR), np.int8(SKY))
        for number, solid in enumerate(scene.objects):
            rows, columns = window(scene.camera, samples, *corners(solid))
            t = entry(
                solid, -solid.x, -solid.y, scene.camera.height,
                dx[:, columns], dy[rows], dz[rows],
            )  # fmt: skip
            closer = t < depth[rows, columns]
            np.copyto(depth[rows, columns], t, where=closer)
            np.copyto(instance[rows, columns], np.int8(number), where=closer)
    return depth, instance


def pixel_truth(scene: Scene, size: int):
    """Depth and instance [size, size] of most of a pixel's 2 x 2 rays; the nearest of equals."""
    depth, instance = (_quarters(a) for a in first_hits(scene, 2 * size))
    votes = (instance[:, None] == instance[None]).sum(axis=1).astype(np.float32)  # [4, size, size]
    nearness = 1.0 / (1.0 + depth)  # below 1, so it only breaks ties
    chosen = np.argmax(votes + nearness, axis=0)[None]
    return np.take_along_axis(depth, chosen, 0)[0], np.take_along_axis(instance, chosen, 0)[0]


def _quarters(a):
    """[2h, 2w] to [4, h, w]: the 2 x 2 rays of each pixel."""
    return np.stack([a[0::2, 0::2], a[0::2, 1::2], a[1::2, 0::2], a[1::2, 1::2]])


def visible_pixels(scene: Scene, size: int = 64) -> list[int]:
    """The number of visible pixels of each object in an image of this size."""
    _, instance = pixel_truth(scene, size)
    return [int((instance == number).sum()) for number in range(len(scene.objects))]
