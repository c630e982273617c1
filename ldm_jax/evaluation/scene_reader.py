"""The reader of scenes: what each pixel of an image shows, and what light and camera it has.

Objects are made of its pixels in `scene_objects.py`, agreement with a condition is in
`scene_reports.py`. The network is in `scene_network.py`; its weights come with the package.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ldm_jax.data.scenes import MATERIALS, SIZES
from ldm_jax.errors import UserError
from ldm_jax.evaluation.scene_network import (
    PIXEL_OUTPUTS,
    POSE_MEAN,
    POSE_SPREAD,
    SIZE,
    SMALL,
    VIEW_MEAN,
    VIEW_SPREAD,
    SceneNetwork,
    outputs,
)
from ldm_jax.parameters import make_graphdef

WEIGHTS = Path(__file__).with_name("scene_reader.npz")
OBJECT_WEIGHT = 3.0  # of object pixels in the loss, as they fill only a tenth of an image
_MICRO_BATCH = 64  # one compiled shape for any number of images


class Reading(NamedTuple):
    """Predictions for n images; those for a pixel have a meaning on objects only, but for two.

    H is the images' side, but at most 64: larger images are read at 64.
    """

    semantic: np.ndarray  # uint8 [n, H, H]: index in SEMANTIC_NAMES
    certainty: np.ndarray  # float32 [n, H, H]: probability of sky, of floor, or of the colour
    shapes: np.ndarray  # float32 [n, H, H, 4]: probability of each of SHAPES
    colour: np.ndarray  # uint8 [n, H, H]: index in COLOURS
    large: np.ndarray  # float32 [n, H, H]: log odds that the object is large
    shiny: np.ndarray  # float32 [n, H, H]: log odds that it is shiny
    centre: np.ndarray  # float32 [n, H, H, 2]: (x, y) of the centre of its box, in [0, 1]
    sound: np.ndarray  # float32 [n, H, H]: log odds that its edges and light are a true object's
    pose: np.ndarray  # float32 [n, H, H, 4]: its x, y, radius and turn in the world
    floor: np.ndarray  # uint8 [n]: index in FLOORS
    sky: np.ndarray  # uint8 [n]: index in SKIES
    view: np.ndarray  # float32 [n, 7]: the numbers named by `scene_network.VIEW`


class Weights(NamedTuple):
    """Parameters of the network, and the statistics of its features over true renders."""

    params: dict
    mean: np.ndarray  # float32 [d]
    std: np.ndarray  # float32 [d]


def save_weights(path: Path, params: dict, statistics: dict[str, np.ndarray]) -> None:
    """Writes parameters and statistics as float16, `layer.name` for each array of the network."""
    arrays = {f"{layer}.{name}": a for layer, inner in params.items() for name, a in inner.items()}
    arrays |= {f"features.{name}": a for name, a in statistics.items()}
    np.savez(path, **{name: np.asarray(a, np.float16) for name, a in arrays.items()})


@functools.cache
def weights() -> Weights:
    """The weights that come with the package, float32."""
    params: dict[str, dict] = {}
    with np.load(WEIGHTS) as file:
        for name in file.files:
            layer, _, inner = name.partition(".")
            params.setdefault(layer, {})[inner] = file[name].astype(np.float32)
    statistics = params.pop("features")
    return Weights(params, **statistics)


@functools.cache
def _graph() -> nnx.GraphDef:
    return make_graphdef(lambda rngs: SceneNetwork(rngs=rngs))


@jax.jit
def _read(params: dict, x: jax.Array) -> Reading:
    pixels, whole, _ = outputs(nnx.merge(_graph(), params), x)
    # Undoes the larger weight of object pixels in the loss.
    rarity = jnp.where(jnp.arange(PIXEL_OUTPUTS["semantic"]) >= 2, -jnp.log(OBJECT_WEIGHT), 0.0)
    semantic = jax.nn.softmax(pixels["semantic"] + rarity[None, None, None])
    colour = jax.nn.softmax(pixels["colour"])
    # Whether there is an object is decided before which one: four shapes share the probability.
    shapes = semantic[..., 2:]
    solid = shapes.sum(axis=-1)
    best = jnp.argmax(semantic[..., :2], axis=-1)
    on_object = solid > semantic[..., :2].max(axis=-1)
    best = jnp.where(on_object, 2 + jnp.argmax(shapes, axis=-1), best)
    certainty = jnp.where(on_object, solid * colour.max(axis=-1), semantic[..., :2].max(axis=-1))
    ticks = (jnp.arange(x.shape[1]) + 0.5) / x.shape[1]
    place = jnp.stack(jnp.meshgrid(ticks, ticks), axis=-1)[None]
    large, shiny = SIZES.index("large"), MATERIALS.index("shiny")
    return Reading(
        semantic=best.astype(jnp.uint8),
        certainty=certainty,
        shapes=shapes / jnp.maximum(solid, 1e-9)[..., None],
        colour=jnp.argmax(colour, axis=-1).astype(jnp.uint8),
        large=pixels["size"][..., large] - pixels["size"][..., 1 - large],
        shiny=pixels["material"][..., shiny] - pixels["material"][..., 1 - shiny],
        centre=place + pixels["offset"],
        sound=pixels["sound"][..., 0],
        pose=_in_world_units(pixels["pose"], POSE_MEAN, POSE_SPREAD),
        floor=jnp.argmax(whole["floor"], axis=-1).astype(jnp.uint8),
        sky=jnp.argmax(whole["sky"], axis=-1).astype(jnp.uint8),
        view=_in_world_units(whole["view"], VIEW_MEAN, VIEW_SPREAD),
    )


def _in_world_units(values: jax.Array, mean, spread) -> jax.Array:
    shape = (1,) * (values.ndim - 1) + (-1,)
    return values * jnp.reshape(jnp.array(spread), shape) + jnp.reshape(jnp.array(mean), shape)


def read(images) -> Reading:
    """Predictions for scenes of any level.

    Args:
      images: uint8 [n, H, H, 3], H = 32 or a multiple of 64.
    Raises:
      UserError: for any other dtype or size.
    """
    parts = [
        [np.asarray(a[:count]) for a in _read(weights().params, x)]
        for x, count in _batches(np.asarray(images))
    ]
    return Reading(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def features(params: Weights, images) -> jax.Array:
    """Features of images for the distances, each in (-1, 1).

    The means of each layer's channels over the positions, of the last two also over the objects: in
    units of their spread over true renders, and squashed, so that no outlier decides a distance.
    Images of 32 x 32, and those whose side is a multiple of 64, are read as `read` reads them; any
    others are resized to 64 x 64.

    Args:
      images: [n, H, W, 3] of 0..255.
    Returns:
      float32 [n, scene_network.FEATURES].
    """
    n, height, width = images.shape[:3]
    x = jnp.asarray(images, jnp.float32)
    if height == width and height % SIZE == 0:
        k = height // SIZE
        x = x.reshape(n, SIZE, k, SIZE, k, 3).mean(axis=(2, 4))
    elif (height, width) != (SMALL, SMALL):
        x = jax.image.resize(x, (n, SIZE, SIZE, 3), "bilinear")  # antialiased
    with jax.default_matmul_precision("highest"):  # equal on all devices
        found = outputs(nnx.merge(_graph(), params.params), x / 127.5 - 1)[2]
    return jnp.tanh((found - params.mean[None]) / (2 * params.std[None]))


def _check_side(shape: tuple[int, ...]) -> None:
    side = shape[1] if len(shape) == 4 else 0
    if not (side == SMALL or (side and side % SIZE == 0)) or shape[2:] != (side, 3):
        raise UserError(
            f"the scene reader reads images [n, H, H, 3] with H {SMALL} or a multiple of {SIZE}, "
            f"not {list(shape)}"
        )


def _batches(images: np.ndarray):
    """(images in [-1, 1] [64, H, H, 3], how many are no padding); once even for no image at all."""
    if images.dtype != np.uint8:
        raise UserError(f"the scene reader reads uint8 images, not {images.dtype}")
    _check_side(images.shape)
    side = images.shape[1]
    to = min(side, SIZE)
    for start in range(0, max(len(images), 1), _MICRO_BATCH):
        x = images[start : start + _MICRO_BATCH]
        count = len(x)
        x = x.reshape(count, to, side // to, to, side // to, 3)
        x = x.mean(axis=(2, 4), dtype=np.float32) / 127.5 - 1
        yield np.pad(x, ((0, _MICRO_BATCH - count), (0, 0), (0, 0), (0, 0))), count


def semantic(seen: Reading, side: int) -> np.ndarray:
    """The semantic map of images of `side` pixels: indices in SEMANTIC_NAMES, uint8 [n, H, H]."""
    k = side // seen.semantic.shape[1]
    return seen.semantic.repeat(k, axis=1).repeat(k, axis=2)
