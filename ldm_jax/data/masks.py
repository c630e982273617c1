"""Random masks for in-painting (Sec. 4.5) as in LaMa (Suvorov et al. 2021), and masked images.

A mask is bool [H, W], True where the image is to be painted; in a file these pixels are at least
half white. The masked image is black there: 0 in bytes, -1 in [-1, 1]. The published model is
conditioned on the masked image and on the mask as -1 and 1.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ldm_jax.errors import UserError

MaskKind = Literal["narrow", "medium", "wide", "box", "mixed"]

MAX_COVERAGE = 0.5  # LaMa's limit for its test sets; masks above it are rejected
MIN_SIDE = 8  # pixels of the image

# LaMa gives lengths in pixels of images with this side; here they scale with the image, so
# that masks of every size cover about the same fraction of it.
_SIDE = 256
_THINNEST = 4  # pixels; what is thinner shows in no latent of f = 4


@dataclass(frozen=True)
class _Strokes:
    """Bent brush strokes of one to five straight pieces. Each pair: least and most."""

    count: tuple[int, int]
    length: tuple[int, int]  # of a piece
    thickness: tuple[int, int]  # of a piece

    def sample(self, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
        mask = np.zeros((height, width), bool)
        scale = min(height, width) / _SIDE
        # LaMa samples angles in whole radians, from straight down.
        least, most = zip((0, 3), self.length, self.thickness, strict=True)
        thinnest = _least_width(height, width)
        for i in range(rng.integers(*self.count, endpoint=True)):
            y, x = rng.uniform(0, (height, width)).tolist()
            side = 1 if i % 2 else -1  # LaMa sends every other stroke to the left
            shape = (rng.integers(1, 5, endpoint=True), 3)
            for angle, length, thickness in rng.integers(
                least, most, shape, endpoint=True
            ).tolist():
                end_y = min(max(y + scale * length * math.cos(angle), 0.0), height)
                end_x = min(max(x + scale * length * math.sin(angle) * side, 0.0), width)
                # LaMa's OpenCV draws lines one or two pixels wider than asked; with one, coverage
                # is the same.
                _add_piece(mask, y, x, end_y, end_x, max(thinnest, scale * (thickness + 1)) / 2)
                y, x = end_y, end_x
        return mask

    def thinnest(self, side: int) -> float:
        return max(_least_width(side, side), side / _SIDE * (self.thickness[0] + 1))


@dataclass(frozen=True)
class _Boxes:
    """Upright rectangles, which may overlap. Each pair: least and most."""

    count: tuple[int, int]
    side: tuple[int, int]
    margin: int  # without rectangles, along the image's edge

    def sample(self, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
        mask = np.zeros((height, width), bool)
        scale = min(height, width) / _SIDE
        margin = round(scale * self.margin)
        for _ in range(rng.integers(*self.count, endpoint=True)):
            sides = rng.integers(*self.side, 2, endpoint=True)
            least = round(_least_width(height, width))
            h, w = (max(least, round(scale * side)) for side in sides)
            top = rng.integers(margin, height - margin - h, endpoint=True)
            left = rng.integers(margin, width - margin - w, endpoint=True)
            mask[top : top + h, left : left + w] = True
        return mask

    def thinnest(self, side: int) -> float:
        return max(_least_width(side, side), round(side / _SIDE * self.side[0]))


def _least_width(height: int, width: int) -> float:
    """Of strokes and rectangles, in pixels; an eighth of the side where images are tiny."""
    return min(_THINNEST, min(height, width) / 8)


# Relative probabilities of the shapes: LaMa's random_thin_256, random_medium_256,
# random_thick_256.
_WIDE_BOXES = _Boxes((1, 3), (30, 149), 10)
_KINDS: dict[str, tuple[tuple[float, _Strokes | _Boxes], ...]] = {
    "narrow": ((1.0, _Strokes((4, 50), (10, 49), (5, 14))),),
    "medium": (
        (1.0, _Strokes((4, 5), (10, 109), (5, 54))),
        (0.3, _Boxes((1, 5), (10, 49), 0)),
    ),
    "wide": ((1.0, _Strokes((1, 5), (10, 209), (5, 104))), (0.3, _WIDE_BOXES)),
    "box": ((1.0, _WIDE_BOXES),),
}
_MIXED = ("narrow", "medium", "wide")


def random_mask(kind: MaskKind, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A random mask, neither empty nor more than half of the image: bool [height, width].

    kind: 'narrow', 'medium' and 'wide' are LaMa's thin, medium and thick masks: brush strokes,
    and in a quarter or so of the wider ones rectangles instead. 'box': the rectangles of 'wide'
    alone. 'mixed': one of LaMa's three, each as likely as the others. No stroke is thinner than 4
    pixels, which matters where a side is below 170.

    Raises:
      UserError: no such kind, or a side of less than 8 pixels.
    """
    if kind not in get_args(MaskKind):
        raise UserError(f"masks must be one of {', '.join(get_args(MaskKind))}, got {kind!r}")
    if min(height, width) < MIN_SIDE:
        raise UserError(f"masks need at least {MIN_SIDE} pixels a side, got {width}x{height}")
    if kind == "mixed":
        kind = _MIXED[rng.integers(len(_MIXED))]
    odds, shapes = zip(*_KINDS[kind], strict=True)
    while True:
        shape = shapes[rng.choice(len(odds), p=np.divide(odds, sum(odds)))]
        mask = shape.sample(height, width, rng)
        if 0 < coverage(mask) <= MAX_COVERAGE:
            return mask


def thinnest(kind: MaskKind, side: int) -> float:
    """The width in pixels of the thinnest strokes of `random_mask`, or of its narrowest boxes.

    A mask is reduced to its latent by taking every f-th pixel: what is thinner than f is lost.
    """
    kinds = _MIXED if kind == "mixed" else (kind,)
    return min(shape.thinnest(side) for one in kinds for _, shape in _KINDS[one])


def _add_piece(
    mask: np.ndarray, y_0: float, x_0: float, y_1: float, x_1: float, radius: float
) -> None:
    """Sets the pixels whose centres are within `radius` of a line, so that its ends are round.

    From (y_0, x_0) to (y_1, x_1) in pixels; the centre of the first pixel is (0.5, 0.5).
    """
    top, left = (max(0, int(min(ends) - radius)) for ends in ((y_0, y_1), (x_0, x_1)))
    bottom, right = (int(max(ends) + radius) + 1 for ends in ((y_0, y_1), (x_0, x_1)))
    near = mask[top:bottom, left:right]  # a view: only these can be touched
    # From the start of the line to each centre. float32 is exact to 1e-4 of a pixel, and faster.
    y = np.arange(near.shape[0], dtype=np.float32)[:, None] + np.float32(top + 0.5 - y_0)
    x = np.arange(near.shape[1], dtype=np.float32) + np.float32(left + 0.5 - x_0)
    dy, dx = y_1 - y_0, x_1 - x_0
    squared_length = max(dy * dy + dx * dx, 1e-6)  # it is 0 where the edge stops a stroke
    along = y * (dy / squared_length) + x * (dx / squared_length)
    np.clip(along, 0, 1, out=along)
    near |= (y - along * dy) ** 2 + (x - along * dx) ** 2 <= radius**2


def coverage(mask: np.ndarray) -> float:
    """The fraction of the image to be painted, from 0 to 1."""
    return float(np.mean(mask))


def masked_image(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image with masked pixels black: uint8 [..., H, W, C], mask bool [..., H, W]."""
    return np.where(mask[..., None], np.uint8(0), image)


def mean_fill(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The simplest in-painting: masked pixels get the mean colour of the others.

    image uint8 [H, W, C], mask bool [H, W] -> uint8 [H, W, C]; a mean is rounded.

    Raises:
      UserError: all pixels are masked.
    """
    if mask.all():
        raise UserError("the mask covers all of the image, so it has no colour to fill in")
    colour = np.rint(image[~mask].mean(axis=0)).astype(np.uint8)
    return np.where(mask[..., None], colour, image)
