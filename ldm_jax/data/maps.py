"""Semantic maps: images whose pixels are class indices."""

import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import IO, NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from ldm_jax.data.annotations import match_names, stem
from ldm_jax.data.decode import upright
from ldm_jax.data.images import in_threads
from ldm_jax.data.listing import visible_files
from ldm_jax.errors import UserError
from ldm_jax.text_files import lines_of, read_text

NAMES = "names.txt"


def decode_map(file: IO[bytes]) -> np.ndarray:
    """Decodes a map to class indices [H, W], upright: uint8 for 8 bits or a palette, else int32.

    UserError for a colour image, whose pixels are no indices, and for numbers below 0; whatever
    Pillow raises for a damaged file.
    """
    image = upright(Image.open(file))
    if image.mode.startswith("I"):
        indices = np.asarray(image).astype(np.int32)
        if indices.min() < 0:
            raise UserError("a map holds class numbers from 0 on; this one has some below 0")
        return indices
    if image.mode not in ("1", "L", "P"):
        raise UserError(
            "a map must be grey or have a palette, one class index a pixel; "
            f"this one is {image.mode}"
        )
    return np.asarray(image).astype(np.uint8)


def check_map_size(map_size: tuple[int, int], image_size: tuple[int, int], what: str) -> None:
    """UserError unless a map has the size (width, height) of its image."""
    if map_size != image_size:
        raise UserError(
            f"{what} has {map_size[0]}x{map_size[1]} pixels, but its image has "
            f"{image_size[0]}x{image_size[1]}"
        )


def check_class_names(highest: int, names: Collection[str], what: str) -> None:
    """UserError where the highest class index has no name."""
    if highest >= len(names):
        raise UserError(
            f"{what} has class {highest}, but there are only {len(names)} class names; each index "
            "needs one, also the index for 'unknown'"
        )


def index_dtype(names: Collection[str]) -> type:
    """The dtype of the class indices in a batch: uint8 for up to 256 classes."""
    return np.uint8 if len(names) <= 256 else np.int32


@dataclass(frozen=True)
class Maps:
    """The maps of a folder, by the names of their images."""

    folder: epath.Path
    files: dict[str, epath.Path]
    sizes: dict[str, tuple[int, int]]  # width, height
    checksums: dict[str, int]  # of the class indices
    names: tuple[str, ...]
    unreadable: dict[str, str]  # the reason, for images whose maps are damaged
    remarks: tuple[str, ...] = ()  # what may be other than the user thinks

    def read(self, image: str) -> np.ndarray:
        """The class indices [H, W] of an image."""
        with self.files[image].open("rb") as file:
            return decode_map(file)


def open_maps(folder: epath.Path, images: Collection[str], progress: bool = True) -> Maps:
    """Finds the maps FOLDER/NAME.png of images NAME.*, and reads each once to check it.

    Classes are named by the lines of `names.txt` in the folder; without it their names are
    the numbers from 0 to the highest index.
    UserError for a folder without a map of any of the images, for colours instead of indices, and
    for an index without a name.
    """
    if not folder.is_dir():
        raise UserError(f"the folder of maps {folder} does not exist")
    pngs = [name for name in sorted(visible_files(folder)) if name.lower().endswith(".png")]
    there = {stem(name): folder / name for name in pngs}
    if not there:
        raise UserError(f"no map in {folder}; looked for PNG files named like the images")
    by_stem = match_names({stem(name) for name in images}, there, folder)
    files = {name: there[by_stem[stem(name)]] for name in images if stem(name) in by_stem}

    title = "reading maps" if progress else None
    found = in_threads(_inspect, list(files.values()), progress=title)
    inspected = dict(zip(files, found, strict=True))
    unreadable = {name: x for name, x in inspected.items() if isinstance(x, str)}
    good = {name: x for name, x in inspected.items() if name not in unreadable}
    if not good:
        name, reason = next(iter(unreadable.items()))
        raise UserError(f"no map in {folder} can be read; {files[name].name}: {reason}")
    last = max(good, key=lambda name: max(good[name].in_use))
    highest = max(good[last].in_use)
    names, remarks = _names(folder), ()
    if not names:
        names = tuple(str(i) for i in range(highest + 1))
        in_use = sorted(set().union(*(one.in_use for one in good.values())))
        if 2 * len(in_use) < len(names):  # such as 0 and 255
            listed = ", ".join(map(str, in_use[:10])) + (", ..." if len(in_use) > 10 else "")
            remarks = (
                f"of the classes 0 to {highest} of the maps in {folder} only {len(in_use)} are in "
                f"use ({listed}), and each is a channel: number them from 0 on",
            )
    check_class_names(highest, names, f"the map {files[last]}")
    sizes = {name: one.size for name, one in good.items()}
    checksums = {name: one.checksum for name, one in good.items()}
    good_files = {name: files[name] for name in good}
    return Maps(folder, good_files, sizes, checksums, names, unreadable, remarks)


class _Inspected(NamedTuple):
    """What is known of a map that was read once."""

    size: tuple[int, int]  # width, height
    in_use: frozenset[int]  # class indices
    checksum: int


def _inspect(path: epath.Path) -> _Inspected | str:
    """What is known of a map, or why it cannot be read."""
    try:
        with path.open("rb") as file:
            indices = decode_map(file)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # a damaged file can make the decoders raise anything
        return f"its map cannot be read: {error}"
    in_use = frozenset(np.unique(indices).tolist())
    return _Inspected(indices.shape[::-1], in_use, zlib.crc32(indices.tobytes()))


def _names(folder: epath.Path) -> tuple[str, ...]:
    path = folder / NAMES
    if not path.exists():
        return ()
    # A blank line within the list is a class without a name, and still counts.
    return tuple(line.strip() for line in lines_of(read_text(path).rstrip()))
