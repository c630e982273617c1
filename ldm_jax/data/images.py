"""From an image file to a uint8 array: colour modes, orientation, square views, also of its map."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image
from tqdm import tqdm

from ldm_jax.errors import UserError

Fit = Literal["crop", "pad", "stretch"]
Crop = Literal["centre", "random"]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom as shares of an image's width and height."""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)

# EXIF's orientation tag 0x0112 and the turn that undoes each of its values.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Shown(NamedTuple):
    """A view of an image, and of its map of classes if it has one."""

    image: np.ndarray  # uint8 [H, W, C]
    crop: Box = WHOLE  # the part of the image that it shows; beyond 0 and 1 where it is padded
    semantic: np.ndarray | None = None  # [H, W], class index of each pixel


def natural_channels(image: Image.Image) -> int:
    """1 for an image stored in grey, 3 for every other (palettes count as colour)."""
    return 1 if image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I") else 3


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height once the EXIF orientation is applied, without decoding the image."""
    # Asked for the EXIF data of a PNG that has none in its header, Pillow decodes all of it.
    known = image.format != "PNG" or "exif" in image.info
    turned = known and image.getexif().get(0x0112, 1) >= 5
    return image.size[::-1] if turned else image.size


def to_mode(image: Image.Image, channels: int) -> Image.Image:
    """An upright 8-bit image in grey (channels 1, mode 'L') or colour (channels 3, mode 'RGB').

    Transparency is laid over white, EXIF orientation applied, 16-bit grey scaled to 8 bits.
    ValueError for floating-point images, which carry no scale.
    """
    turn = _UPRIGHT.get(image.getexif().get(0x0112))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode == "F":
        raise ValueError("floating-point images have no defined range; save it with 8 bits")
    if image.mode.startswith("I"):  # Pillow would clip 16 bits at 255, not scale them
        grey = np.clip(np.asarray(image).astype(np.float32) / 257, 0, 255)
        image = Image.fromarray(np.rint(grey).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def decode(file: IO[bytes], channels: int, short: int) -> Image.Image:
    """The image in an encoded file, as `to_mode` gives it.

    short: the least short side in pixels that will be used. A JPEG at least four times as large is
    decoded at 1/2, 1/4 or 1/8 of its size (never below twice `short`), which is several times
    faster. Raises whatever Pillow raises for a damaged file.
    """
    image = Image.open(file)
    image.draft(None, (2 * short, 2 * short))
    image.load()
    return to_mode(image, channels)


def to_array(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 1] of a grey image, [H, W, 3] of a colour one."""
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


def to_image(array: np.ndarray) -> Image.Image:
    """The inverse of `to_array`."""
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    # Pillow widens the bicubic kernel with the scale: antialiased, unlike most GPU resizes.
    return image.resize(size, Image.Resampling.BICUBIC)


def _square(image: Image.Image, left: int, top: int, side: int, size: int) -> np.ndarray:
    # Cut first: resize(box=...) would blend in pixels from around the box.
    return to_array(_resize(image.crop((left, top, left + side, top + side)), (size, size)))


def shrink(image: Image.Image, short: int) -> Image.Image:
    """The image with its short side reduced to `short` pixels; a smaller one is left alone."""
    scale = short / min(image.size)
    if scale >= 1:
        return image
    return _resize(image, tuple(max(short, round(side * scale)) for side in image.size))


def fit(image: Image.Image, size: int, how: Fit = "crop") -> np.ndarray:
    """A square view of an 'L' or 'RGB' image without chance: uint8 [size, size, C].

    'crop': the centred square, resized (antialiased bicubic): the reference's LSUN preprocessing.
    'stretch': all of it, resized in both directions.
    'pad': all of it in the centre, reduced if larger than `size` but never enlarged; the border
    gets the least value found along the image's edge, per channel (MNIST, 28 -> 32: 0).
    """
    if how == "crop":
        return _square(image, *_centred(*image.size), size)
    if how == "stretch":
        return to_array(_resize(image, (size, size)))
    left, top, w, h = _padded(*image.size, size)
    x = to_array(_resize(image, (w, h)))
    edge = np.concatenate([x[0], x[-1], x[:, 0], x[:, -1]])
    canvas = np.empty((size, size, x.shape[-1]), np.uint8)
    canvas[:] = edge.min(axis=0)
    canvas[top : top + h, left : left + w] = x
    return canvas


def random_crop(
    rng: np.random.Generator,
    image: Image.Image,
    size: int,
    min_crop: float = 0.8,
    max_crop: float = 1.0,
) -> np.ndarray:
    """A square at a random place, resized: uint8 [size, size, C].

    Its side is uniform in [min_crop, max_crop] of the image's short side.
    """
    return _square(image, *_drawn(rng, *image.size, min_crop, max_crop), size)


def _centred(w: int, h: int) -> tuple[int, int, int]:
    """Left, top and side in pixels of the largest square in the middle of w x h."""
    side = min(w, h)
    return (w - side) // 2, (h - side) // 2, side


def _drawn(
    rng: np.random.Generator, w: int, h: int, min_crop: float, max_crop: float
) -> tuple[int, int, int]:
    """Left, top and side in pixels of a random square."""
    side = max(1, round(rng.uniform(min_crop, max_crop) * min(w, h)))
    return int(rng.integers(w - side + 1)), int(rng.integers(h - side + 1)), side


def _padded(w: int, h: int, size: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of a padded image on its canvas of size x size pixels."""
    scale = min(1, size / max(w, h))
    w, h = max(1, round(w * scale)), max(1, round(h * scale))
    return (size - w) // 2, (size - h) // 2, w, h


def nearest(semantic: np.ndarray, width: int, height: int, part: Box = WHOLE) -> np.ndarray:
    """A part of a map [H, W] at height x width pixels, each the one of the map under its centre.

    Where the part reaches beyond the map there is class 0.
    """

    def places(low: float, high: float, n: int, length: int) -> np.ndarray:
        return np.floor((low + (np.arange(n) + 0.5) / n * (high - low)) * length).astype(int)

    left, top, right, bottom = part
    x = places(left, right, width, semantic.shape[1])[None, :]
    y = places(top, bottom, height, semantic.shape[0])[:, None]
    inside = (x >= 0) & (x < semantic.shape[1]) & (y >= 0) & (y < semantic.shape[0])
    return np.where(inside, semantic[y * inside, x * inside], 0).astype(semantic.dtype)


@dataclass(frozen=True)
class View:
    """How an image of any size becomes uint8 [size, size, channels].

    UserError for values that mean nothing. channels 0 stands for "as in the data" and is replaced
    before the first call.
    """

    size: int
    channels: int = 0
    fit: Fit = "crop"
    crop: Crop = "centre"
    min_crop: float = 0.8
    max_crop: float = 1.0

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
            raise UserError(f"min_crop must be in (0, 1], got {self.min_crop}")
        if not self.min_crop <= self.max_crop <= 1:
            raise UserError(f"max_crop must be from min_crop to 1, got {self.max_crop}")
        if self.drawn and self.fit != "crop":
            raise UserError(f"crop 'random' needs fit 'crop', got fit {self.fit!r}")

    @property
    def drawn(self) -> bool:
        """Whether the view depends on the generator."""
        return self.crop == "random"

    @property
    def short(self) -> int:
        """The short side in pixels at which no view has to be enlarged."""
        return math.ceil(self.size / self.min_crop) if self.drawn else self.size

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> np.ndarray:
        """The view of an 'L' or 'RGB' image: uint8 [size, size, C]."""
        return self.show(image, rng).image

    def show(
        self,
        image: Image.Image,
        rng: np.random.Generator | None = None,
        semantic: np.ndarray | None = None,
    ) -> Shown:
        """The view of an 'L' or 'RGB' image, where it lies, and the same view of its map.

        semantic: class indices [H, W] of the whole image, at any resolution; nearest pixels are
        taken, so that no class appears that is not there. 'pad' shows a square larger than the
        image: its `crop` reaches beyond 0 and 1, and the border of the map is class 0.
        """
        w, h = image.size
        if self.fit == "crop":
            if self.drawn and rng is not None:
                left, top, side = _drawn(rng, w, h, self.min_crop, self.max_crop)
            else:
                left, top, side = _centred(w, h)
            pixels = _square(image, left, top, side, self.size)
            crop = (left / w, top / h, (left + side) / w, (top + side) / h)
        else:
            pixels, crop = fit(image, self.size, self.fit), WHOLE
        if self.fit == "pad":
            left, top, w, h = _padded(w, h, self.size)
            crop = (-left / w, -top / h, (self.size - left) / w, (self.size - top) / h)
        if semantic is not None:
            semantic = nearest(semantic, self.size, self.size, crop)
        return Shown(pixels, crop, semantic)

    def read(
        self,
        file: IO[bytes],
        rng: np.random.Generator | None = None,
        semantic: np.ndarray | None = None,
    ) -> Shown:
        """The view of an encoded image, and of its map, as in `show`."""
        return self.show(decode(file, self.channels, self.short), rng, semantic)

    def keep(self, file: IO[bytes]) -> np.ndarray:
        """What to hold in memory of an encoded image so that views of it need no file.

        The view itself, or for random crops all of it, reduced to the short side that they need.
        """
        if not self.drawn:
            return self.read(file).image
        return to_array(shrink(decode(file, self.channels, self.short), self.short))

    def kept_bytes(self, width: int, height: int, map_bytes: int = 0) -> int:
        """About how much memory an image of width x height pixels takes when it is kept.

        map_bytes: of each pixel of its map, 0 without one.
        """
        pixels = self.size**2
        if self.drawn:
            pixels = width * height * min(1, self.short / min(width, height)) ** 2
        # What Python adds to the arrays and the numbers of the crop.
        return round(pixels * ((self.channels or 3) + map_bytes)) + 330


_WORKERS = min(16, os.cpu_count() or 1)
_POOL = ThreadPoolExecutor(_WORKERS, "decode")


def in_threads(function: Callable, *items: Sequence, progress: str | None = None) -> list:
    """list(map(function, *items)) on all cores: Pillow decodes outside of Python's lock.

    progress: the title of a tqdm bar, shown when it takes longer than a second; None shows none.
    `function` must not call `in_threads` itself.
    """
    rows = list(zip(*items, strict=True))
    share = max(1, min(16, len(rows) // (4 * _WORKERS)))  # handing one over costs 30 microseconds
    shares = [rows[i : i + share] for i in range(0, len(rows), share)]
    results = []
    with tqdm(desc=progress, total=len(rows), delay=1, disable=progress is None, unit="img") as bar:
        for part in _POOL.map(lambda rows: [function(*row) for row in rows], shares):
            results += part
            bar.update(len(part))
    return results
