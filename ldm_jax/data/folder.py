"""A folder of images: flat, with captions, or one sub-folder per class."""

import json
import logging
import os
import posixpath
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import IO, TypeVar

import numpy as np
from etils import epath
from PIL import Image

from ldm_jax.data.images import Crop, Fit, View, in_threads, natural_channels, to_image
from ldm_jax.data.source import Rngs, held_out, one_text
from ldm_jax.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
CAPTIONS = "captions.jsonl"

T = TypeVar("T")
log = logging.getLogger(__name__)


class FolderSource:
    """The readable images in a folder, and what the folder says about them.

    Classes: the sub-folders, in order of their names, unless there is a `captions.jsonl`.
    Captions: `captions.jsonl` with lines `{"file": "a/b.jpg", "caption": "..."}` ("file_name" and
    "text" are understood too; several lines for one image are several captions), or a `.txt` beside
    each image. An image without one gets ''.
    Validation: folders `train` and `validation` (or `val`, `test`) at the top are the split where
    there are such; otherwise a seeded part of the images is held out.

    Images that fit into `memory_bytes`, once reduced to the size that is needed, are all decoded
    here, so that a damaged one is known, reported and left out at once. In a larger set the headers
    are checked, and an image that turns out damaged is reported and replaced by the next when read.
    `unreadable` says which and why.
    """

    def __init__(
        self,
        path,
        size: int,
        split: str = "train",
        validation: float = 0.05,
        seed: int = 0,
        channels: int = 0,
        fit: Fit = "crop",
        crop: Crop = "centre",
        min_crop: float = 0.8,
        max_crop: float = 1.0,
        memory_bytes: float = 2e9,
        progress: str | None = "reading images",
    ) -> None:
        """split: 'train' or 'validation'. validation: the fraction held out, 0 for none.

        size, channels, fit, crop, min_crop, max_crop: see `images.View`; channels 0 is 1 where
        every image is grey, otherwise 3. progress: the title of a tqdm bar for long reading, None
        shows none.
        UserError for a folder without a readable image and for captions that make no sense.
        """
        if split not in ("train", "validation"):
            raise UserError(f"the split of a folder is 'train' or 'validation', got {split!r}")
        self._view = View(size, channels, fit, crop, min_crop, max_crop)
        self._root = epath.Path(path).expanduser()
        self.unreadable: dict[str, str] = {}
        contents = _contents(self._root, split)

        headers = self._read_all(_header, contents.names)
        names = list(headers)
        if not names:
            name, reason = next(iter(self.unreadable.items()))
            raise UserError(f"no image in {self._root} can be read; {name}: {reason}")
        self.channels = channels or max(channels for _, _, channels in headers.values())
        self._view = replace(self._view, channels=self.channels)
        taken = slice(0, len(names))
        if not contents.divided:
            order, held = held_out(len(names), validation, seed)
            names = [names[i] for i in order]
            taken = slice(0, held) if split == "validation" else slice(held, len(names))
        self._pixels: list[np.ndarray] | None = None
        if sum(self._view.kept_bytes(w, h) for w, h, _ in headers.values()) <= memory_bytes:
            # Validation is the first readable images of the order, for whichever split this is:
            # a damaged one moves no image from one split to the other.
            kept = self._read_all(self._view.keep, names[: taken.stop], progress)
            for name in names[taken.stop :]:
                if len(kept) == taken.stop:
                    break
                kept |= self._read_all(self._view.keep, [name])
            names, self._pixels = list(kept), list(kept.values())[taken]
        self._names = names[taken]
        if self.unreadable:
            bad, of = len(self.unreadable), len(contents.names)
            log.warning("%d of %d images in %s left out: they cannot be read", bad, of, self._root)
        if not self._names:
            raise UserError(f"no image for {split} in {self._root} (held out: {validation} of all)")

        self.class_names = contents.classes or None
        self._labels = self._captions = None
        if contents.classes:
            number = {name: i for i, name in enumerate(contents.classes)}
            self._labels = np.array([number[contents.class_of[n]] for n in self._names], np.int32)
        if contents.captions:
            self._captions = [contents.captions.get(name, []) for name in self._names]
            if missing := self._captions.count([]):
                log.warning("%d of %d images in %s have no caption", missing, len(self), self._root)
        self.drawn = self._view.drawn or any(len(texts) > 1 for texts in self._captions or ())

    def __len__(self) -> int:
        return len(self._names)

    def read(self, indices, rngs: Rngs = None) -> dict[str, np.ndarray]:
        """The examples at `indices`: see `source.Source`."""
        indices = [int(i) for i in indices]
        rngs = rngs if rngs is not None else [None] * len(indices)
        if self._pixels is None:
            pictures, indices = zip(*in_threads(self._from_file, indices, rngs), strict=True)
        else:
            pictures = [self._pixels[i] for i in indices]
            if self._view.drawn:
                pictures = in_threads(self._view, [to_image(x) for x in pictures], rngs)
        batch = {"image": np.stack(pictures)}
        if self._labels is not None:
            batch["class_label"] = self._labels[list(indices)]
        if self._captions is not None:
            texts = [one_text(self._captions[i], rng) for i, rng in zip(indices, rngs, strict=True)]
            batch["caption"] = np.array(texts, object)
        return batch

    def _from_file(self, index: int, rng: np.random.Generator | None) -> tuple[np.ndarray, int]:
        """The view of image `index`, or of the next that can be read, and its index."""
        for i in (*range(index, len(self)), *range(index)):
            if self._names[i] not in self.unreadable:
                picture = self._try(self._names[i], lambda file: self._view.read(file, rng))
                if picture is not None:
                    return picture, i
        raise UserError(f"none of the images in {self._root} can be read any more")

    def _read_all(
        self, read: Callable[[IO], T], names: list[str], progress: str | None = None
    ) -> dict[str, T]:
        """What `read` makes of each file that it can make something of."""
        results = in_threads(lambda name: self._try(name, read), names, progress=progress)
        return {n: x for n, x in zip(names, results, strict=True) if x is not None}

    def _try(self, name: str, read: Callable[[IO], T]) -> T | None:
        try:
            with (self._root / name).open("rb") as file:
                return read(file)
        except Exception as error:  # a damaged file can make the decoders raise anything
            self.unreadable[name] = str(error)
            log.warning("cannot read the image %s: %s", self._root / name, error)
            return None


def _header(file: IO) -> tuple[int, int, int]:
    """Width, height, channels of an image, without decoding it."""
    image = Image.open(file)
    return (*image.size, natural_channels(image))


@dataclass(frozen=True)
class _Contents:
    """The images of a folder, and what it says about them. Names are relative to it, with '/'."""

    names: list[str]
    divided: bool  # into folders for training and validation; `names` holds those of one split
    classes: tuple[str, ...]  # () for none
    class_of: dict[str, str]
    captions: dict[str, list[str]]  # {} for none


def _contents(root: epath.Path, split: str) -> _Contents:
    if not root.is_dir():
        raise UserError(f"the image folder {root} does not exist")
    files = _visible_files(root)
    images = [name for name in sorted(files) if posixpath.splitext(name)[1].lower() in EXTENSIONS]
    if not images:
        raise UserError(f"no image in {root}; looked for {' '.join(EXTENSIONS)}, also in folders")
    folders = {name.partition("/")[0] for name in images if "/" in name}
    held = next((name for name in ("validation", "val", "test") if name in folders), "")
    divided = "train" in folders and held != ""
    tops = {"train": "train/", "validation": f"{held}/"} if divided else {split: ""}
    names = [name for name in images if name.startswith(tops[split])]

    if captions := _listed_captions(root, tops[split], files):
        return _Contents(names, divided, (), {}, captions)
    # Classes are those of both splits, so that both number them alike.
    class_of = {
        name: name.removeprefix(top).rpartition("/")[0].partition("/")[0]
        for top in tops.values()
        for name in images
        if name.startswith(top)
    }
    classes = tuple(sorted(set(class_of.values()) - {""}))
    if flat := [name for name in names if not class_of[name]]:
        if len(flat) < len(names):
            raise UserError(
                f"{root / tops[split]} holds both images and folders of images ({classes[0]}): "
                f"one of the two has to go elsewhere, or a {CAPTIONS} has to name them"
            )
        classes = ()
    return _Contents(names, divided, classes, class_of, _captions_beside(root, names, files))


def _visible_files(root: epath.Path) -> set[str]:
    """The names of all files below `root`, hidden ones and those in hidden folders left out."""
    names = set()
    local = "://" not in str(root)  # where folders may be links, which epath does not follow
    for folder, _, files in os.walk(root, followlinks=True) if local else root.walk():
        inner = epath.Path(folder).relative_to(root).as_posix()
        names |= {posixpath.normpath(f"{inner}/{file}") for file in files}
    return {n for n in names if not any(part.startswith(".") for part in n.split("/"))}


def _listed_captions(root: epath.Path, top: str, files: set[str]) -> dict[str, list[str]]:
    """Captions by image from `captions.jsonl` in `root` and in its folder `top`."""
    captions: dict[str, list[str]] = {}
    for folder in sorted({"", top}):
        if folder + CAPTIONS not in files:
            continue
        path = root / folder / CAPTIONS
        for number, line in enumerate(_text(path).splitlines(), 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                name = entry.get("file") or entry["file_name"]
                text = entry["caption"] if "caption" in entry else entry["text"]
                captions.setdefault(posixpath.normpath(folder + name), []).append(str(text))
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise UserError(
                    f'{path}, line {number}: expected {{"file": "NAME", "caption": "TEXT"}}, '
                    f"got {line[:80]}"
                ) from error
        if not captions.keys() & files:
            raise UserError(f"{path} names none of the files in {root} but {[*captions][:1]}")
    return captions


def _captions_beside(root: epath.Path, names: list[str], files: set[str]) -> dict[str, list[str]]:
    """Captions by image from the text files of the same name: all words, on one line."""
    beside = {name: f"{posixpath.splitext(name)[0]}.txt" for name in names}
    with_text = [name for name in names if beside[name] in files]
    texts = in_threads(lambda name: _text(root / beside[name]), with_text)
    return {name: [" ".join(text.split())] for name, text in zip(with_text, texts, strict=True)}


def _text(path: epath.Path) -> str:
    return path.read_bytes().decode("utf-8-sig", "replace")
