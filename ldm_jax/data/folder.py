"""A folder of images: flat, with captions, boxes, maps, or one sub-folder per class."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import IO, TypeVar

import numpy as np
from PIL import Image

from ldm_jax.data import boxes as box_files
from ldm_jax.data.folder_index import given_path, index_folder
from ldm_jax.data.images import (
    Crop,
    Fit,
    Shown,
    View,
    in_threads,
    natural_channels,
    nearest,
    to_image,
    upright_size,
)
from ldm_jax.data.maps import Maps, check_size, index_type, open_maps
from ldm_jax.data.source import Rngs, held_out, one_text
from ldm_jax.errors import UserError

T = TypeVar("T")
log = logging.getLogger(__name__)


class FolderSource:
    """The readable images in a folder, and what the folder says about them.

    Classes: the sub-folders, in order of their names, unless there is a list of captions.
    Captions: the file `captions` (see `annotations.read_captions`), otherwise `captions.jsonl` in
    the folder, or a `.txt` beside each image. An image without one gets ''.
    Boxes: the file or folder `boxes` (see `boxes.read_boxes`), in the frame of the upright image.
    Maps: the folder `maps` (see `maps.open_maps`). An image without one is left out.
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
        captions: str = "",
        boxes: str = "",
        maps: str = "",
    ) -> None:
        """split: 'train' or 'validation'. validation: the fraction held out, 0 for none.

        size, channels, fit, crop, min_crop, max_crop: see `images.View`; channels 0 is 1 where
        every image is grey, otherwise 3. progress: the title of a tqdm bar for long reading, None
        shows none.
        captions, boxes, maps: paths of what belongs to the images, see above; '' for none.
        UserError for a folder without a readable image, and for captions, boxes or maps that make
        no sense or belong to other images.
        """
        if split not in ("train", "validation"):
            raise UserError(f"the split of a folder is 'train' or 'validation', got {split!r}")
        self._view = View(size, channels, fit, crop, min_crop, max_crop)
        self._root = given_path(path)
        self.unreadable: dict[str, str] = {}
        contents = index_folder(self._root, split, captions, boxes, maps)
        names = contents.names
        truth, self.box_names = {}, None
        if boxes:
            truth, self.box_names = box_files.read_boxes(given_path(boxes), contents.images)
        self._maps: Maps | None = None
        if maps:
            self._maps = open_maps(given_path(maps), contents.images, progress and "reading maps")
            names = self._with_map(self._maps, names)
        self.semantic_names = self._maps and self._maps.names

        headers = self._read_all(_header, names)
        names = list(headers)
        if not names:
            name, reason = next(iter(self.unreadable.items()))
            raise UserError(f"no image in {self._root} can be read; {name}: {reason}")
        if self._maps:
            for name, (w, h, _) in headers.items():
                check_size(self._maps.sizes[name], (w, h), f"the map {self._maps.files[name]}")
        self.channels = channels or max(channels for _, _, channels in headers.values())
        self._view = replace(self._view, channels=self.channels)
        taken = slice(0, len(names))
        if not contents.divided:
            order, held = held_out(len(names), validation, seed)
            names = [names[i] for i in order]
            taken = slice(0, held) if split == "validation" else slice(held, len(names))
        self._kept: list[Shown] | None = None
        map_bytes = np.dtype(index_type(self._maps.names)).itemsize if self._maps else 0
        needed = sum(self._view.kept_bytes(w, h, map_bytes) for w, h, _ in headers.values())
        if needed <= memory_bytes:
            # Validation is the first readable images of the order, for whichever split this is:
            # a damaged one moves no image from one split to the other.
            kept = self._read_all(self._keep, names[: taken.stop], progress)
            for name in names[taken.stop :]:
                if len(kept) == taken.stop:
                    break
                kept |= self._read_all(self._keep, [name])
            names, self._kept = list(kept), list(kept.values())[taken]
        self._names = names[taken]
        if self.unreadable:
            bad, of = len(self.unreadable), len(contents.names)
            log.warning("%d of %d images in %s left out: they cannot be read", bad, of, self._root)
        if not self._names:
            raise UserError(f"no image for {split} in {self._root} (held out: {validation} of all)")

        self.class_names = contents.classes or None
        self._labels = self._captions = self._boxes = None
        if contents.classes:
            number = {name: i for i, name in enumerate(contents.classes)}
            self._labels = np.array([number[contents.class_of[n]] for n in self._names], np.int32)
        if contents.captions:
            self._captions = [contents.captions.get(name, []) for name in self._names]
            self._count_missing(self._captions.count([]), "caption")
        if boxes:
            empty = box_files.of_image([], [])
            self._boxes = [truth.get(name, empty) for name in self._names]
            self._count_missing(sum(not len(one.labels) for one in self._boxes), "box")
        self.drawn = self._view.drawn or any(len(texts) > 1 for texts in self._captions or ())

    def _with_map(self, maps: Maps, names: list[str]) -> list[str]:
        """The images that have a readable map."""
        for name in names:
            if reason := maps.unreadable.get(name):
                self.unreadable[name] = reason
                log.warning("cannot read the image %s: %s", self._root / name, reason)
        there = [name for name in names if name in maps.files or name in maps.unreadable]
        if missing := len(names) - len(there):
            log.warning(
                "%d of %d images in %s left out: no map in %s",
                *(missing, len(names), self._root, maps.folder),
            )
        if not (good := [name for name in there if name in maps.files]):
            raise UserError(f"none of the images in {self._root} has a map in {maps.folder}")
        return good

    def _count_missing(self, missing: int, what: str) -> None:
        if missing:
            log.warning("%d of %d images in %s have no %s", missing, len(self), self._root, what)

    def __len__(self) -> int:
        return len(self._names)

    def read(self, indices, rngs: Rngs = None) -> dict[str, np.ndarray]:
        """The examples at `indices`: see `source.Source`."""
        indices = [int(i) for i in indices]
        rngs = rngs if rngs is not None else [None] * len(indices)
        if self._kept is None:
            shown, indices = zip(*in_threads(self._from_file, indices, rngs), strict=True)
        else:
            shown = [self._kept[i] for i in indices]
            if self._view.drawn:
                shown = in_threads(self._from_memory, shown, rngs)
        batch = {"image": np.stack([one.image for one in shown])}
        if self._maps:
            dtype = index_type(self._maps.names)
            batch["semantic"] = np.stack([one.semantic for one in shown]).astype(dtype, copy=False)
        if self._boxes is not None:
            truth = [self._boxes[i] for i in indices]
            batch |= box_files.rows(truth, [one.crop for one in shown])
        if self._labels is not None:
            batch["class_label"] = self._labels[list(indices)]
        if self._captions is not None:
            texts = [one_text(self._captions[i], rng) for i, rng in zip(indices, rngs, strict=True)]
            batch["caption"] = np.array(texts, object)
        return batch

    def _from_file(self, index: int, rng: np.random.Generator | None) -> tuple[Shown, int]:
        """The view of image `index`, or of the next that can be read, and its index."""
        for i in (*range(index, len(self)), *range(index)):
            name = self._names[i]
            if name not in self.unreadable:
                shown = self._try(lambda n, f: self._view.read(f, rng, self._map(n)), name)
                if shown is not None:
                    return shown, i
        raise UserError(f"none of the images in {self._root} can be read any more")

    def _from_memory(self, kept: Shown, rng: np.random.Generator | None) -> Shown:
        return self._view.show(to_image(kept.image), rng, kept.semantic)

    def _keep(self, name: str, file: IO) -> Shown:
        """What to hold in memory of an image and its map: their view, or both for random crops."""
        semantic = self._map(name)
        if semantic is not None:
            semantic = semantic.astype(index_type(self._maps.names), copy=False)
        if not self._view.drawn:
            return self._view.read(file, semantic=semantic)
        image = self._view.keep(file)
        if semantic is not None:
            semantic = nearest(semantic, image.shape[1], image.shape[0])
        return Shown(image, semantic=semantic)

    def _map(self, name: str) -> np.ndarray | None:
        return self._maps.read(name) if self._maps else None

    def _read_all(
        self, read: Callable[[str, IO], T], names: list[str], progress: str | None = None
    ) -> dict[str, T]:
        """What `read` makes of each name and its file, where it can make something of them."""
        results = in_threads(lambda name: self._try(read, name), names, progress=progress)
        return {n: x for n, x in zip(names, results, strict=True) if x is not None}

    def _try(self, read: Callable[[str, IO], T], name: str) -> T | None:
        try:
            with (self._root / name).open("rb") as file:
                return read(name, file)
        except Exception as error:  # a damaged file can make the decoders raise anything
            self.unreadable[name] = str(error)
            log.warning("cannot read the image %s: %s", self._root / name, error)
            return None


def _header(name: str, file: IO) -> tuple[int, int, int]:
    """Width, height, channels of an image, without decoding it."""
    image = Image.open(file)
    return (*upright_size(image), natural_channels(image))
