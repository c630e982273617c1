"""The scene reader: a segmentation network for images of several objects.

It measures whether a sample agrees with its condition, as the oracle (`oracle.py`) does for images
of one object. `scene_objects.py` derives objects from the pixels, and `scene_reports.py` the
agreement with a condition.

A small U-shaped convolutional network, trained on true renders only (`scene_reader_training.py`).
It is a measure and never a loss: no model of this project is trained against it.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ldm_jax.data.scenes import COLOURS, MATERIALS, SEMANTIC_NAMES, SIZES
from ldm_jax.errors import UserError
from ldm_jax.layers import upsample2x

WEIGHTS = Path(__file__).with_name("scene_reader.npz")
SIZE = 64  # input size of the network: 32 x 32 is enlarged to it, larger images are averaged down
SMALL = SIZE // 2

# Outputs for each pixel -> channels, in this order; all but the first are for object pixels only.
OUTPUTS = {
    "semantic": len(SEMANTIC_NAMES),
    "colour": len(COLOURS),
    "size": len(SIZES),
    "material": len(MATERIALS),
    "offset": 2,  # to the middle of the object's box: right and down, in sides of the image
}
OBJECT_WEIGHT = 3.0  # weight of object pixels in training: they are only a tenth of an image
_EDGES = np.cumsum(list(OUTPUTS.values()))[:-1].tolist()
_WIDTHS = (32, 44, 56)  # channels at a half, a quarter and an eighth of the size
_MICRO_BATCH = 64  # one compiled shape for any number of images


class Reading(NamedTuple):
    """Predictions for each pixel; all but the first two are valid on objects only.

    H is the side of the images, at most 64: larger images are averaged down to it.
    """

    semantic: np.ndarray  # uint8 [n, H, H]: index in SEMANTIC_NAMES
    certainty: np.ndarray  # float32 [n, H, H]: probability of sky, of floor, or of the colour
    shapes: np.ndarray  # float32 [n, H, H, 4]: probability of each of SHAPES
    colour: np.ndarray  # uint8 [n, H, H]: index in COLOURS
    large: np.ndarray  # float32 [n, H, H]: probability that the object is large
    shiny: np.ndarray  # float32 [n, H, H]: probability that it is shiny
    middle: np.ndarray  # float32 [n, H, H, 2]: (x, y) of the middle of its box, in [0, 1]


def init(key) -> dict[str, jax.Array]:
    """Fresh parameters: a flat dictionary of arrays."""
    fine, half, coarse = _WIDTHS
    shapes = {
        "in": (3, 3, 12, fine),
        "down1": (3, 3, fine, half),
        "half": (3, 3, half, half),
        "down2": (3, 3, half, coarse),
        "coarse": (3, 3, coarse, coarse),
        "up1": (1, 1, coarse, half),
        "half_again": (3, 3, half, half),
        "up2": (1, 1, half, fine),
        "fine": (3, 3, fine, fine),
        "out": (1, 1, fine, 4 * sum(OUTPUTS.values())),
    }
    params = {}
    for (name, shape), k in zip(shapes.items(), jax.random.split(key, len(shapes)), strict=True):
        deviation = (2.0 / np.prod(shape[:3])) ** 0.5  # He et al.
        if name == "out":
            deviation *= 0.1  # nearly uniform probabilities at the start
        params[name] = deviation * jax.random.normal(k, shape)
        params[f"{name}_bias"] = jnp.zeros((1, 1, 1, shape[-1]))
    return params


def apply(params, x) -> jax.Array:
    """Outputs [B, 64, 64, sum of `OUTPUTS`] for images x [B, 64, 64, 3] in [-1, 1]."""

    def conv(name, x, stride=1, dilation=1):
        y = lax.conv_general_dilated(
            x, params[name], (stride, stride), "SAME", rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return y + params[f"{name}_bias"]

    relu = jax.nn.relu
    # The network works at half the size: 2 x 2 pixels become the channels of one.
    fine = relu(conv("in", _fold(x)))
    half = relu(conv("down1", fine, stride=2))
    half = half + relu(conv("half", half))
    coarse = relu(conv("down2", half, stride=2))
    coarse = coarse + relu(conv("coarse", coarse, dilation=2))
    half = relu(half + conv("up1", upsample2x(coarse)))
    half = half + relu(conv("half_again", half))
    fine = relu(fine + conv("up2", upsample2x(half)))
    fine = fine + relu(conv("fine", fine))
    return _unfold(conv("out", fine))


def _fold(x):
    """[B, 2h, 2w, c] to [B, h, w, 4c]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // 2, w // 2, 4 * c)


def _unfold(x):
    """[B, h, w, 4c] to [B, 2h, 2w, c]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, 2 * h, 2 * w, c // 4)


def predict(params, x) -> dict[str, jax.Array]:
    """Outputs by name, each [B, H, H, n], for images x [B, H, H, 3] in [-1, 1], H 32 or 64.

    Small images are enlarged, and the outputs of four pixels are averaged.
    """
    if x.shape[1] == SMALL:
        y = _fold(apply(params, upsample2x(x)))
        y = y.reshape(*y.shape[:3], 4, -1).mean(axis=3)
    else:
        y = apply(params, x)
    return dict(zip(OUTPUTS, jnp.split(y, _EDGES, axis=-1), strict=True))


@functools.cache
def weights() -> dict[str, jax.Array]:
    """The trained parameters, float32."""
    with np.load(WEIGHTS) as file:
        return {name: jnp.asarray(file[name], jnp.float32) for name in file.files}


@jax.jit
def _read(params, x) -> Reading:
    seen = predict(params, x)
    # Corrects for the larger weight of object pixels in training.
    rarity = jnp.where(jnp.arange(OUTPUTS["semantic"]) >= 2, -jnp.log(OBJECT_WEIGHT), 0.0)
    semantic = jax.nn.softmax(seen["semantic"] + rarity[None, None, None])
    colour = jax.nn.softmax(seen["colour"])
    # Decide first whether there is an object, by the sum over shapes, and then which shape.
    shapes = semantic[..., 2:]
    solid = shapes.sum(axis=-1)
    best = jnp.argmax(semantic[..., :2], axis=-1)
    on_object = solid > semantic[..., :2].max(axis=-1)
    best = jnp.where(on_object, 2 + jnp.argmax(shapes, axis=-1), best)
    certainty = jnp.where(on_object, solid * colour.max(axis=-1), semantic[..., :2].max(axis=-1))
    ticks = (jnp.arange(x.shape[1]) + 0.5) / x.shape[1]
    place = jnp.stack(jnp.meshgrid(ticks, ticks), axis=-1)[None]
    return Reading(
        best.astype(jnp.uint8),
        certainty,
        shapes / jnp.maximum(solid, 1e-9)[..., None],
        jnp.argmax(colour, axis=-1).astype(jnp.uint8),
        jax.nn.softmax(seen["size"])[..., SIZES.index("large")],
        jax.nn.softmax(seen["material"])[..., MATERIALS.index("shiny")],
        place + seen["offset"],
    )


def read(images) -> Reading:
    """Reads scenes of any level.

    The size of an object (large or small) is reliable for the levels `single` and `full` only: the
    reader was trained on the distances in these levels.

    Args:
      images: uint8 [n, H, H, 3], H = 32 or a multiple of 64.
    Raises:
      UserError: for any other dtype or size.
    """
    images = np.asarray(images)
    side = images.shape[1] if images.ndim == 4 else 0
    fits = side == SMALL or (side and side % SIZE == 0)
    if images.dtype != np.uint8 or not fits or images.shape[2:] != (side, 3):
        raise UserError(
            f"the scene reader reads uint8 images [n, H, H, 3] with H {SMALL} or a multiple of "
            f"{SIZE}, not {images.dtype} {list(images.shape)}"
        )
    parts = []
    for start in range(0, max(len(images), 1), _MICRO_BATCH):  # also once without images
        x = _to_input(images[start : start + _MICRO_BATCH])
        count = len(x)
        x = np.pad(x, ((0, _MICRO_BATCH - count), (0, 0), (0, 0), (0, 0)))
        parts.append([np.asarray(a[:count]) for a in _read(weights(), x)])
    return Reading(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _to_input(images) -> np.ndarray:
    """uint8 [n, H, H, 3] to float32 in [-1, 1], averaged over boxes down to 64 x 64."""
    n, side = images.shape[:2]
    to = min(side, SIZE)
    k = side // to
    x = images.reshape(n, to, k, to, k, 3).mean(axis=(2, 4), dtype=np.float32)
    return x / 127.5 - 1.0


def semantic(images) -> np.ndarray:
    """The predicted semantic map: indices in SEMANTIC_NAMES, uint8 [n, H, H]."""
    seen = read(images).semantic
    k = np.shape(images)[1] // seen.shape[1]
    return seen.repeat(k, axis=1).repeat(k, axis=2)
