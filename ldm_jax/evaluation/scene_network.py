"""The network that reads scenes: what each pixel shows, and what light and camera the image has.

It is a measure and never a loss: no model of this project is trained against it. Its weights are
trained on renders alone (`scene_reader_training.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from ldm_jax.data.scenes import COLOURS, FLOORS, MATERIALS, SEMANTIC_NAMES, SIZES, SKIES
from ldm_jax.layers import Array, conv, group_norm, linear, upsample2x

SIZE = 64  # what the network sees: 32 x 32 is enlarged to it, larger images are averaged down
SMALL = SIZE // 2

# The outputs for a pixel, in this order; all but the first have a meaning on objects only.
PIXEL_OUTPUTS = {
    "semantic": len(SEMANTIC_NAMES),
    "colour": len(COLOURS),
    "size": len(SIZES),
    "material": len(MATERIALS),
    "offset": 2,  # to the centre of the object's box: right and down, in sides of the image
    "sound": 1,  # whether the object has the edges and the light of a true one
    "pose": 4,  # x, y, radius and turn of the object, in units of POSE_SPREAD around POSE_MEAN
}
POSE_MEAN = (0.0, 5.5, 0.75, 0.785)
POSE_SPREAD = (1.0, 1.0, 0.2, 0.3)

# The outputs for the whole image
IMAGE_OUTPUTS = {
    "floor": len(FLOORS),
    "sky": len(SKIES),
    "view": 7,  # VIEW, in units of VIEW_SPREAD around VIEW_MEAN
}
VIEW = ("height", "pitch", "spread", "azimuth", "elevation", "floor_turn", "floor_tone")
VIEW_MEAN = (2.5, 0.27, 0.39, 0.0, 0.75, 0.0, 0.5)
VIEW_SPREAD = (0.3, 0.05, 0.03, 0.8, 0.15, 0.35, 0.3)

_WIDTHS = (32, 48, 64, 96)  # channels at a half, a quarter, an eighth, a sixteenth of the size
_HIDDEN = 96
FEATURES = sum(_WIDTHS) + _HIDDEN + sum(_WIDTHS[:2])


class Outputs(NamedTuple):
    """What the network gives for images `[B, 64, 64, 3]`."""

    pixels: Array  # [B, 64, 64, sum of PIXEL_OUTPUTS]
    image: Array  # [B, sum of IMAGE_OUTPUTS]
    features: Array  # [B, FEATURES]: means of channels, negative values counted as 0


class SceneNetwork(nnx.Module):
    """A small U-shaped convolutional network; its finest layer has half of the image's side."""

    def __init__(self, *, rngs: nnx.Rngs):
        fine, half, quarter, coarse = _WIDTHS

        def layer(c_in: int, c_out: int, size: int = 3, stride: int = 1):
            return conv(c_in, c_out, size, stride=stride, dtype=jnp.float32, rngs=rngs)

        def norm(channels: int):
            return group_norm(channels, 8, 1e-5, dtype=jnp.float32, rngs=rngs)

        self.conv_in, self.fine = layer(12 + 2, fine), layer(fine, fine)
        self.down_half, self.half = layer(fine, half, stride=2), layer(half, half)
        self.down_quarter, self.quarter = layer(half, quarter, stride=2), layer(quarter, quarter)
        self.down_coarse, self.coarse = layer(quarter, coarse, stride=2), layer(coarse, coarse)
        self.norm_fine, self.norm_half = norm(fine), norm(half)
        self.norm_quarter, self.norm_coarse = norm(quarter), norm(coarse)
        positions = (SIZE // 16) ** 2 * coarse + SIZE // 4 * half
        self.whole = linear(positions, _HIDDEN, dtype=jnp.float32, rngs=rngs)
        self.whole_to_coarse = linear(_HIDDEN, coarse, dtype=jnp.float32, rngs=rngs)
        self.image_out = linear(_HIDDEN, sum(IMAGE_OUTPUTS.values()), dtype=jnp.float32, rngs=rngs)
        self.up_quarter, self.quarter_again = layer(coarse, quarter, 1), layer(quarter, quarter)
        self.up_half, self.half_again = layer(quarter, half, 1), layer(half, half)
        self.up_fine, self.fine_again = layer(half, fine, 1), layer(fine, fine)
        self.norm_up_quarter, self.norm_up_half = norm(quarter), norm(half)
        self.norm_up_fine = norm(fine)
        self.pixels_out = layer(fine, 4 * sum(PIXEL_OUTPUTS.values()), 1)

    def __call__(self, x: Array) -> Outputs:
        """Images `[B, 64, 64, 3]` in [-1, 1] to their `Outputs`."""
        relu = jax.nn.relu
        fine = relu(self.conv_in(_with_place(fold(x))))  # 2 x 2 pixels become one
        fine = self.norm_fine(fine + relu(self.fine(fine)))
        half = relu(self.down_half(fine))
        half = self.norm_half(half + relu(self.half(half)))
        quarter = relu(self.down_quarter(half))
        quarter = self.norm_quarter(quarter + relu(self.quarter(quarter)))
        coarse = relu(self.down_coarse(quarter))
        coarse = self.norm_coarse(coarse + relu(self.coarse(coarse)))
        # Rows are kept apart: the horizon's height is the camera's.
        rows = half.mean(axis=2).reshape(len(x), -1)
        whole = relu(self.whole(jnp.concatenate([coarse.reshape(len(x), -1), rows], axis=-1)))
        features = [relu(a).mean(axis=(1, 2)) for a in (fine, half, quarter, coarse)] + [whole]

        coarse = relu(coarse + self.whole_to_coarse(whole)[:, None, None])
        quarter = relu(quarter + self.up_quarter(upsample2x(coarse)))
        quarter = self.norm_up_quarter(quarter + relu(self.quarter_again(quarter)))
        half = relu(half + self.up_half(upsample2x(quarter)))
        half = self.norm_up_half(half + relu(self.half_again(half)))
        fine = relu(fine + self.up_fine(upsample2x(half)))
        fine = self.norm_up_fine(fine + relu(self.fine_again(fine)))
        pixels = unfold(self.pixels_out(fine))
        # Of the last two layers the means over objects, which say what these are
        on_object = _share_of_objects(pixels)
        for layer, share in ((fine, on_object), (half, nnx.avg_pool(on_object, (2, 2), (2, 2)))):
            total = (relu(layer) * share).sum(axis=(1, 2))
            features.append(total / (share.sum(axis=(1, 2)) + 1))
        return Outputs(pixels, self.image_out(whole), jnp.concatenate(features, axis=-1))


def _share_of_objects(pixels: Array) -> Array:
    """`[B, 2h, 2w, n]` to `[B, h, w, 1]`: the probability of an object in each 2 x 2 pixels."""
    semantic = jax.nn.softmax(pixels[..., : PIXEL_OUTPUTS["semantic"]])
    return nnx.avg_pool(semantic[..., 2:].sum(axis=-1, keepdims=True), (2, 2), (2, 2))


def _with_place(x: Array) -> Array:
    """`[B, h, h, c]` with two channels more: the column and the row, from -1 to 1."""
    b, h = x.shape[:2]
    ticks = (jnp.arange(h) + 0.5) * (2 / h) - 1
    place = jnp.stack(jnp.meshgrid(ticks, ticks), axis=-1)[None]
    return jnp.concatenate([x, jnp.broadcast_to(place, (b, h, h, 2))], axis=-1)


def fold(x: Array) -> Array:
    """`[B, 2h, 2w, c]` to `[B, h, w, 4c]`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // 2, w // 2, 4 * c)


def unfold(x: Array) -> Array:
    """`[B, h, w, 4c]` to `[B, 2h, 2w, c]`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, 2 * h, 2 * w, c // 4)


def outputs(network: SceneNetwork, x: Array) -> tuple[dict[str, Array], dict[str, Array], Array]:
    """(outputs by name for each pixel, for the whole image, features) of images in [-1, 1].

    Args:
      x: `[B, H, H, 3]`, H 32 or 64. A small image is enlarged, and the outputs of each four pixels
        are averaged: each output is `[B, H, H, n]`.
    """
    small = x.shape[1] == SMALL
    found = network(upsample2x(x) if small else x)
    pixels = found.pixels
    if small:
        pixels = fold(pixels).reshape(*x.shape[:3], 4, -1).mean(axis=3)
    return (
        _by_name(pixels, PIXEL_OUTPUTS),
        _by_name(found.image, IMAGE_OUTPUTS),
        found.features,
    )


def _by_name(values: Array, sizes: dict[str, int]) -> dict[str, Array]:
    edges, start = [], 0
    for size in sizes.values():
        edges.append(start := start + size)
    return dict(zip(sizes, jnp.split(values, edges[:-1], axis=-1), strict=True))
