"""What can guide: log p(y|z_t) of a class, and of an image (App. C)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.classifier import log_likelihood
from ldm_jax.errors import UserError
from ldm_jax.sampling.guidance import LogP

Array = jax.Array
GuideLogP = Callable[[Any, Array, Array, Array, Array], Array]


@dataclass(frozen=True)
class Guide:
    """s log p(y|z_t), as `Sampler` takes it: the function is compiled in, all else is an input.

    log_p: (weights, y, z_t, t `[B]`, z_0) -> `[B]`, see `guidance.classifier_guided`.
    weights: what it computes with. y: a row for each image, `[n, ...]`. scale: s, 0 is off.
    """

    log_p: GuideLogP
    weights: Any
    y: np.ndarray
    scale: float

    def __post_init__(self):
        if not np.isfinite(self.scale):
            raise UserError(f"the scale of a guide is {self.scale}; it is a finite number")


def sum_of_guides(
    log_ps: Sequence[GuideLogP], scaled: Sequence[tuple[Any, Array]], targets: Sequence[Array]
) -> LogP:
    """Guides as one, the sum of s log p(y|z_t), from the log p, (weights, s) and y of each."""
    guides = list(zip(log_ps, scaled, targets, strict=True))

    def log_p(z_t: Array, t: Array, z_0: Array) -> Array:
        return sum(s * one(weights, y, z_t, t, z_0) for one, (weights, s), y in guides)

    return log_p


def class_log_p(classifier: Callable[[Any], Callable[[Array, Array], Array]]) -> GuideLogP:
    """log p_Phi(y|z_t) of Eq. (16): what a classifier of noisy latents makes of z_t.

    Args:
      classifier: weights -> callable (z_t, t) -> logits `[B, classes]`. y: classes, int `[B]`.
    """

    def log_p(weights, y, z_t, t, z_0):
        del z_0
        return log_likelihood(classifier(weights)(z_t, t), y)

    return log_p


def image_log_p(
    decode: Callable[[Any, Array], Array],
    distance: Callable[[Any, Array, Array], Array] | None = None,
    transform: Callable[[Array], Array] = lambda x: x,
) -> GuideLogP:
    """-distance(y, T(D(z_0(z_t)))): Eq. (17), which draws the image towards y.

    The gradient runs through decoder and network. Its weights are the pair (of the decoder, of the
    distance); y: images as T makes them `[B, ...]`.

    Args:
      decode: (weights, z_0) -> images `[B, H, W, C]` in [-1, 1], as floats.
      distance: (weights, y, T(x)) -> `[B]`, such as LPIPS; None: 1/2 || y - T(x) ||^2.
      transform: T, what y is compared with of an image, such as `downsample`.
    """
    distance = distance or half_squared_error

    def log_p(weights, y, z_t, t, z_0):
        del z_t, t
        of_decoder, of_distance = weights
        return -distance(of_distance, y, transform(decode(of_decoder, z_0)))

    return log_p


def half_squared_error(weights: Any, y: Array, x: Array) -> Array:
    """1/2 || y - x ||^2, summed over everything but the first dimension: `[B]`. No weights."""
    del weights
    return jnp.sum((y - x) ** 2, axis=tuple(range(1, x.ndim))) / 2


def downsample(x: Array, n: int, how: Literal["bicubic", "mean"] = "bicubic") -> Array:
    """Every n-th pixel in both directions: `[B, H, W, C]` -> `[B, H/n, W/n, C]`.

    bicubic is antialiased, as Pillow's is; mean is that of the n x n pixels.

    Raises:
      UserError: n is less than 1 or does not divide H and W.
    """
    b, h, w, c = x.shape
    if n < 1 or h % n or w % n:
        raise UserError(f"an image of {h}x{w} pixels cannot be downsampled {n}-fold")
    if how == "mean":
        return jnp.mean(x.reshape(b, h // n, n, w // n, n, c), axis=(2, 4))
    return jax.image.resize(x, (b, h // n, w // n, c), "cubic", antialias=True)
