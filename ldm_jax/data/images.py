"""From an image of any size to a square uint8 array: crops, borders, semantic maps alike."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import IO, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image
from tqdm import tqdm

from ldm_jax.bounds import Finite, PositiveFraction, Side
from ldm_jax.data.decode import WHOLE_RANGE, Range, decode, to_array
from ldm_jax.errors import UserError

Fit = Literal["crop", "pad", "stretch"]
Crop = Literal["centre", "random"]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom as fractions of an image's width and height."""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


class Preprocessed(NamedTuple):
    """A square image, which part of the original it shows, and its semantic map if it has one."""

    image: np.ndarray  # uint8 [H, W, C]
    crop: Box = WHOLE  # the part of the original; below 0 and above 1 where it is padded
    semantic: np.ndarray | None = None  # [H, W], class index of each pixel


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    # Pillow widens the bicubic kernel with the scale: antialiased, unlike most GPU resizes.
    return image.resize(size, Image.Resampling.BICUBIC)


def _crop(image: Image.Image, left: int, top: int, side: int, size: int) -> np.ndarray:
    # Cut first: resize(box=...) would blend in pixels from around the box.
    return to_array(_resize(image.crop((left, top, left + side, top + side)), (size, size)))


def shrink(image: Image.Image, short_side: int) -> Image.Image:
    """Reduces an image to a short side of `short_side` pixels; smaller images stay as they are."""
    scale = short_side / min(image.size)
    if scale >= 1:
        return image
    return _resize(image, tuple(max(short_side, round(side * scale)) for side in image.size))


def fit(image: Image.Image, size: int, how: Fit = "crop") -> np.ndarray:
    """Makes an 'L' or 'RGB' image square, without randomness: uint8 [size, size, C].

    'crop': the central square, resized (antialiased bicubic): the reference's LSUN preprocessing.
    'stretch': the whole image, resized in both directions.
    'pad': the whole image in the centre, reduced if larger than `size` but never enlarged; the
    border gets the lowest value along the image's edge, per channel (MNIST, 28 -> 32: 0).
    """
    if how == "crop":
        return _crop(image, *_central_square(*image.size), size)
    if how == "stretch":
        return to_array(_resize(image, (size, size)))
    left, top, w, h = _padded_place(*image.size, size)
    x = to_array(_resize(image, (w, h)))
    edge = np.concatenate([x[0], x[-1], x[:, 0], x[:, -1]])
    canvas = np.empty((size, size, x.shape[-1]), np.uint8)
    canvas[:] = edge.min(axis=0)
    canvas[top : top + h, left : left + w] = x
    return canvas


def _central_square(w: int, h: int) -> tuple[int, int, int]:
    """Left, top and side in pixels of the largest central square of w x h pixels."""
    side = min(w, h)
    return (w - side) // 2, (h - side) // 2, side


def _random_square(
    rng: np.random.Generator, w: int, h: int, min_crop: float, max_crop: float
) -> tuple[int, int, int]:
    """Left, top and side in pixels of a random square."""
    side = max(1, round(rng.uniform(min_crop, max_crop) * min(w, h)))
    return int(rng.integers(w - side + 1)), int(rng.integers(h - side + 1)), side


def _padded_place(w: int, h: int, size: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of a padded image on its canvas of size x size pixels."""
    scale = min(1, size / max(w, h))
    w, h = max(1, round(w * scale)), max(1, round(h * scale))
    return (size - w) // 2, (size - h) // 2, w, h


def resize_map(semantic: np.ndarray, width: int, height: int, part: Box = WHOLE) -> np.ndarray:
    """Crops and resizes a map [H, W] to [height, width] with nearest neighbours.

    part: the crop; where it reaches beyond the map, the result is class 0.
    """

    def positions(low: float, high: float, n: int, length: int) -> np.ndarray:
        return np.floor((low + (np.arange(n) + 0.5) / n * (high - low)) * length).astype(int)

    left, top, right, bottom = part
    x = positions(left, right, width, semantic.shape[1])[None, :]
    y = positions(top, bottom, height, semantic.shape[0])[:, None]
    inside = (x >= 0) & (x < semantic.shape[1]) & (y >= 0) & (y < semantic.shape[0])
    return np.where(inside, semantic[y * inside, x * inside], 0).astype(semantic.dtype)


@dataclass(frozen=True)
class ImageConfig:
    """How the images of files become training images: fields that all such data share.

    By default nothing is random: a crop or a mirror image need not be what a label or a caption
    says, and the samples would be cut and mirrored like the training images.
    """

    size: Side = 64
    """Side of the images in pixels."""
    fit: Fit = "crop"
    """How an image becomes a square: central crop, border, or distortion."""
    crop: Crop = "centre"
    """The largest square in the middle, or random squares while training; these cut what lies at
    the border, and the encoder then runs in every step of stage 2."""
    min_crop: PositiveFraction = 0.8
    """Smallest side of a random crop, as a fraction of the image's short side."""
    max_crop: PositiveFraction = 1.0
    """Largest side of a random crop, likewise; at least min_crop."""
    flip: bool = False
    """Mirror images at random: more variety, where left and right do not matter."""
    value_range: tuple[Finite, Finite] = WHOLE_RANGE
    """The values of black and white in grey images of more than 8 bits, such as 0 4095 for scans of
    12 bits, and in floating-point images."""


@dataclass(frozen=True)
class Preprocessor:
    """Makes images of any size uint8 [size, size, channels], and crops their maps in the same way.

    min_crop, max_crop: the side of a random crop is uniform between them, as fractions of the
    image's short side. channels: 1 or 3; 0 means "as in the data" and must be replaced before the
    first image. value_range: see `decode.to_mode`. UserError for invalid values.
    """

    size: int
    channels: int = 0
    fit: Fit = "crop"
    crop: Crop = "centre"
    min_crop: float = 0.8
    max_crop: float = 1.0
    value_range: Range = WHOLE_RANGE

    @classmethod
    def of(cls, config: ImageConfig, channels: int = 0) -> "Preprocessor":
        """The preprocessor that a data configuration describes."""
        return cls(
            config.size,
            channels,
            config.fit,
            config.crop,
            config.min_crop,
            config.max_crop,
            config.value_range,
        )

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"the image size must be at least 1 pixel, got {self.size}")
        if self.channels not in (0, 1, 3):
            raise UserError(f"channels must be 0 (as in the data), 1 or 3, got {self.channels}")
        for name, kind in (("fit", Fit), ("crop", Crop)):
            if getattr(self, name) not in get_args(kind):
                raise UserError(
                    f"{name} must be one of {', '.join(get_args(kind))}, "
                    f"got {getattr(self, name)!r}"
                )
        if not 0 < self.min_crop <= 1:
            raise UserError(f"min_crop must be above 0 and at most 1, got {self.min_crop}")
        if not self.min_crop <= self.max_crop <= 1:
            raise UserError(f"max_crop must be from min_crop to 1, got {self.max_crop}")
        if not self.value_range[0] < self.value_range[1]:
            raise UserError(
                "value_range is the value of black and then that of white, a larger one; got "
                + " ".join(f"{value:g}" for value in self.value_range)
            )
        if self.is_random and self.fit != "crop":
            raise UserError(f"crop 'random' needs fit 'crop', got fit {self.fit!r}")

    @property
    def is_random(self) -> bool:
        """Whether the result depends on the generator."""
        return self.crop == "random"

    @property
    def short_side(self) -> int:
        """The short side in pixels from which no crop has to be enlarged."""
        return math.ceil(self.size / self.min_crop) if self.is_random else self.size

    def __call__(
        self,
        image: Image.Image,
        rng: np.random.Generator | None = None,
        semantic: np.ndarray | None = None,
    ) -> Preprocessed:
        """Preprocesses an 'L' or 'RGB' image, and its map in the same way.

        rng: for random crops; None takes the central crop.
        semantic: class indices [H, W] of the whole image, at any resolution; resized with nearest
        neighbours, so that no new class appears. With 'pad' the square is larger than the image:
        its `crop` reaches below 0 and above 1, and the border of the map is class 0.
        """
        w, h = image.size
        if self.fit == "crop":
            if self.is_random and rng is not None:
                left, top, side = _random_square(rng, w, h, self.min_crop, self.max_crop)
            else:
                left, top, side = _central_square(w, h)
            pixels = _crop(image, left, top, side, self.size)
            crop = (left / w, top / h, (left + side) / w, (top + side) / h)
        else:
            pixels, crop = fit(image, self.size, self.fit), WHOLE
        if self.fit == "pad":
            left, top, w, h = _padded_place(w, h, self.size)
            crop = (-left / w, -top / h, (self.size - left) / w, (self.size - top) / h)
        if semantic is not None:
            semantic = resize_map(semantic, self.size, self.size, crop)
        return Preprocessed(pixels, crop, semantic)

    def read(
        self,
        file: IO[bytes],
        rng: np.random.Generator | None = None,
        semantic: np.ndarray | None = None,
    ) -> Preprocessed:
        """Decodes an image file and preprocesses it, as `__call__` does."""
        return self(self._decode(file), rng, semantic)

    def _decode(self, file: IO[bytes]) -> Image.Image:
        return decode(file, self.channels, self.short_side, self.value_range)

    def to_cache(self, file: IO[bytes]) -> np.ndarray:
        """The pixels to keep in memory of an image file, uint8 [H, W, C].

        The preprocessed image, or for random crops the whole image, reduced to `short_side`.
        """
        if not self.is_random:
            return self.read(file).image
        return to_array(shrink(self._decode(file), self.short_side))

    def cached_bytes(self, width: int, height: int, map_bytes: int = 0) -> int:
        """About how much memory an image of width x height pixels takes in a cache.

        map_bytes: bytes per pixel of its map, 0 without one.
        """
        pixels = self.size**2
        if self.is_random:
            pixels = width * height * min(1, self.short_side / min(width, height)) ** 2
        # 330 bytes are the Python objects around the arrays and the crop.
        return round(pixels * ((self.channels or 3) + map_bytes)) + 330


def _workers() -> int:
    return min(16, os.cpu_count() or 1)


@cache
def _pool() -> ThreadPoolExecutor:
    """The decoding threads, shared by all sources and started when first needed."""
    return ThreadPoolExecutor(_workers(), "decode")


def in_threads(function: Callable, *items: Sequence, progress: str | None = None) -> list:
    """list(map(function, *items)) on all cores: Pillow decodes outside of Python's lock.

    progress: the title of a tqdm bar, shown when it takes longer than a second; None shows none.
    `function` must not call `in_threads` itself.
    """
    rows = list(zip(*items, strict=True))
    share = max(1, min(16, len(rows) // (4 * _workers())))  # submitting one costs 30 microseconds
    shares = [rows[i : i + share] for i in range(0, len(rows), share)]
    results = []
    with tqdm(desc=progress, total=len(rows), delay=1, disable=progress is None, unit="img") as bar:
        for part in _pool().map(lambda rows: [function(*row) for row in rows], shares):
            results += part
            bar.update(len(part))
    return results
