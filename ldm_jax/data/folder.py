"""A folder of images: flat, with captions, boxes, maps, or one sub-folder per class."""

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from threading import Lock
from typing import IO, NamedTuple, TypeVar, get_args

import numpy as np
from PIL import Image, UnidentifiedImageError

from ldm_jax.data.annotations import plain_name
from ldm_jax.data.box_files import read_boxes
from ldm_jax.data.boxes import Boxes, clipped_boxes, to_batch
from ldm_jax.data.decode import (
    WHOLE_RANGE,
    highest_value,
    is_deep,
    natural_channels,
    to_image,
    upright_size,
)
from ldm_jax.data.embeddings import check_embeddings, read_embedding, read_embeddings
from ldm_jax.data.folder_index import FolderIndex, index_folder
from ldm_jax.data.images import (
    ImageConfig,
    Preprocessed,
    Preprocessor,
    in_threads,
    resize_map,
)
from ldm_jax.data.maps import Maps, check_map_size, index_dtype, open_maps
from ldm_jax.data.notices import cut_off, only_8_bits, some, unused_bits
from ldm_jax.data.source import (
    HeldOutFraction,
    Rngs,
    Split,
    choose_caption,
    digest,
    hash_positions,
    held_out_below,
)
from ldm_jax.errors import UserError
from ldm_jax.paths import user_path
from ldm_jax.resuming import Place

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderConfig(ImageConfig):
    """A folder of images: flat, one sub-folder a class, or with captions."""

    path: Place = ""
    """The folder."""
    validation: HeldOutFraction = 0.05
    """Fraction of the images to hold out; above 0, as both stages are judged by held-out images."""
    captions: Place = ""
    """Their captions, if not in the folder itself: a .jsonl, a table (.csv, .tsv), COCO's
    captions_*.json, a .json {file: caption}, or a folder of .txt files."""
    boxes: Place = ""
    """Their boxes: COCO's instances_*.json, or a folder of YOLO's .txt files."""
    maps: Place = ""
    """Their semantic maps: a folder of .png files whose pixels are class numbers, names.txt beside
    them."""


class FolderSource:
    """The readable images in a folder, with their classes, captions, boxes and maps.

    Classes: the sub-folders, in order of their names, unless there is a list of captions.
    Captions: the file or folder `captions`, otherwise lists such as `captions.jsonl` in the folder,
    or a `.txt` beside each image (see `captions.find_captions`). An image without one gets ''.
    Boxes: the file or folder `boxes` (see `box_files.read_boxes`), relative to the upright image.
    Maps: the folder `maps` (see `maps.open_maps`). An image without one is left out.
    Embeddings: a `.npy` beside each image, where they are asked for (see `embeddings`).
    Validation: folders like `train` and `val` (or `test`) are the split where they exist (see
    `splits.layout_of`); otherwise the name of an image and the seed decide whether it is held out.

    If all images, reduced to the size that is needed, fit into `memory_bytes`, they are decoded
    when the source is opened: damaged ones are reported and left out. In a larger set only the
    headers are checked, and an image that turns out damaged when read is reported and replaced by
    the next. `unreadable` holds the reason for each damaged image, and `files` the size in bytes of
    each image, by its path in the folder `root`.
    """

    def __init__(
        self,
        config: FolderConfig,
        split: Split = "train",
        seed: int = 0,
        memory_bytes: float = 2e9,
        progress: bool = True,
        unreadable: dict[str, str] | None = None,
        embeddings: bool = False,
    ) -> None:
        """seed: with its name, decides whether an image is held out.

        Images have one channel where every one is grey, otherwise 3. progress: whether to show
        progress bars. unreadable: that of the other split, so that no image is reported twice.
        embeddings: whether to read them; an image without one is left out.
        UserError for a folder without a readable image, and for captions, boxes or maps that are
        malformed or belong to other images.
        """
        if split not in get_args(Split):
            raise UserError(f"the split of a folder is 'train' or 'validation', got {split!r}")
        if not config.path:
            raise UserError("the folder of images is missing: --data.path FOLDER")
        self._preprocessor = Preprocessor.of(config)
        self.root = user_path(config.path)
        self.unreadable = {} if unreadable is None else unreadable
        self._lock, reported = Lock(), len(self.unreadable)
        of = config.captions, config.boxes, config.maps
        contents = index_folder(self.root, split, *of, embeddings)
        names, self._embeddings = contents.names, contents.embeddings
        if embeddings:
            check_embeddings(self.root, self._embeddings)
            names = [name for name in names if name in self._embeddings]
            if (missing := len(contents.names) - len(names)) and split == "train":
                text = "%d of %d images in %s left out: no embedding beside them"
                log.warning(text, missing, len(contents.names), self.root)
        truth, self.box_names = {}, None
        if config.boxes:
            truth, self.box_names, remarks = read_boxes(user_path(config.boxes), contents.images)
            if split == "train":
                for remark in remarks:
                    log.warning("%s", remark)
        self._maps: Maps | None = None
        if config.maps:
            self._maps = open_maps(user_path(config.maps), contents.images, progress)
            names = self._with_map(self._maps, names, contents.has_splits or split == "train")
            if split == "train":
                for remark in self._maps.remarks:
                    log.warning("%s", remark)
        self.semantic_names = self._maps and self._maps.names

        headers = self._read_files(_Header.read, names)
        names = list(headers)
        if not names:
            name, reason = next(iter(self.unreadable.items()))
            raise UserError(f"no image in {self.root} can be read; {name}: {reason}")
        if self._maps:
            for name, header in headers.items():
                what = f"the map {self._maps.files[name]}"
                check_map_size(self._maps.sizes[name], header.size, what)
        self.channels = max(header.channels for header in headers.values())
        if split == "train":
            self._say_what_is_lost(headers, config)
        self._preprocessor = replace(self._preprocessor, channels=self.channels)
        self.held_out_below = 0.0
        if not contents.has_splits:
            names = self._side(names, split, config.validation, seed)
        self._cache: list[Preprocessed] | None = None
        if self._bytes_to_cache(headers.values()) <= memory_bytes:
            cache = self._read_files(self._to_cache, names, progress)
            names, self._cache = list(cache), list(cache.values())
        self._names = names
        self.files = {name: headers[name].bytes for name in names}
        if bad := len(self.unreadable) - reported:
            n = len(contents.names)
            log.warning("%d of %d images in %s left out: they cannot be read", bad, n, self.root)
        if not self._names:
            raise UserError(
                f"no image for {split} in {self.root} (fraction held out: {config.validation})"
            )

        self.class_names = contents.classes or None
        self._labels = self._captions = self._boxes = None
        if contents.classes:
            number = {name: i for i, name in enumerate(contents.classes)}
            self._labels = np.array([number[contents.class_of[n]] for n in self._names], np.int32)
            if split == "train":
                more = ", ..." if len(number) > 40 else ""
                log.info("%d classes: %s%s", len(number), ", ".join([*number][:40]), more)
        if contents.captions:
            self._captions = [contents.captions.get(name, []) for name in self._names]
            self._count_missing(self._captions.count([]), "caption")
        if config.boxes:
            empty = clipped_boxes([], [])
            self._boxes = [truth.get(name, empty) for name in self._names]
            self._count_missing(sum(not len(one.labels) for one in self._boxes), "box")
        several = any(len(texts) > 1 for texts in self._captions or ())
        self.is_random = self._preprocessor.is_random or several
        spelled = {plain_name(name): name for name in headers}
        self.files_digest = digest((one, headers[spelled[one]].bytes) for one in sorted(spelled))
        labels = ((one, self._known_of(spelled[one], contents, truth)) for one in sorted(spelled))
        self.labels_digest = digest((one, known) for one, known in labels if any(known))

    def _known_of(self, name: str, contents: FolderIndex, truth: dict[str, Boxes]) -> tuple:
        """What the files around an image say of it."""
        boxes = [rows.tolist() for rows in truth.get(name, ())]
        known = contents.captions.get(name), boxes, self._maps and self._maps.checksums[name]
        if not self._embeddings:
            return known
        return (*known, digest(read_embedding(self.root / self._embeddings[name]).tolist()))

    def _say_what_is_lost(self, headers: dict[str, "_Header"], config: FolderConfig) -> None:
        for text in cut_off([header.size for header in headers.values()], config):
            log.info("%s: %s", self.root, text)
        deep = [name for name, header in headers.items() if header.deep]
        colour = sum(headers[name].channels == 3 for name in deep)
        if text := only_8_bits(colour, len(headers)):
            log.warning("%s: %s", self.root, text)
        if not deep and config.value_range != WHOLE_RANGE:
            text = "--data.value-range is for images of more than 8 bits; there is none of them"
            log.warning("%s: %s", self.root, text)
        deep = [deep[i] for i in some(len(deep))]
        highest = self._read_files(lambda _, file: highest_value(Image.open(file)), deep)
        if text := unused_bits(list(highest.values()), config):
            log.warning("%s: %s", self.root, text)

    def _with_map(self, maps: Maps, names: list[str], said: bool) -> list[str]:
        """The images that have a readable map; says how many have none."""
        for name in names:
            if reason := maps.unreadable.get(name):
                self._report(name, reason)
        with_map = [name for name in names if name in maps.files or name in maps.unreadable]
        if (missing := len(names) - len(with_map)) and said:
            log.warning(
                "%d of %d images in %s left out: no map in %s",
                *(missing, len(names), self.root, maps.folder),
            )
        if not (good := [name for name in with_map if name in maps.files]):
            raise UserError(f"none of the images in {self.root} has a map in {maps.folder}")
        return good

    def _side(self, names: list[str], split: Split, fraction: float, seed: int) -> list[str]:
        """The images of one side of the split, in the order of their `hash_positions`."""
        position = dict(zip(names, hash_positions(map(plain_name, names), seed), strict=True))
        names = sorted(names, key=position.get)
        # Both sides look at the first image: it may be the only one that is held out
        while fraction and names and not self._read_files(self._to_cache, names[:1]):
            names = names[1:]
        if not names:
            name, reason = next(iter(self.unreadable.items()))
            raise UserError(f"no image in {self.root} can be read; {name}: {reason}")
        positions = np.array([position[name] for name in names])
        self.held_out_below = held_out_below(positions, fraction)
        held_out = positions < self.held_out_below
        return [name for name, h in zip(names, held_out, strict=True) if h == (split != "train")]

    def _bytes_to_cache(self, headers: Iterable["_Header"]) -> int:
        map_bytes = np.dtype(index_dtype(self._maps.names)).itemsize if self._maps else 0
        return sum(self._preprocessor.cached_bytes(*one.size, map_bytes) for one in headers)

    def _count_missing(self, missing: int, what: str) -> None:
        if missing:
            log.warning("%d of %d images in %s have no %s", missing, len(self), self.root, what)

    def __len__(self) -> int:
        return len(self._names)

    def read(self, indices, rngs: Rngs = None) -> dict[str, np.ndarray]:
        """The examples at `indices`: see `source.Source`."""
        indices = [int(i) for i in indices]
        rngs = rngs if rngs is not None else [None] * len(indices)
        if self._cache is None:
            examples, indices = zip(*in_threads(self._from_file, indices, rngs), strict=True)
        else:
            examples = [self._cache[i] for i in indices]
            if self._preprocessor.is_random:
                examples = in_threads(self._from_cache, examples, rngs)
        batch = {"image": np.stack([example.image for example in examples])}
        if self._maps:
            semantic = np.stack([example.semantic for example in examples])
            batch["semantic"] = semantic.astype(index_dtype(self._maps.names), copy=False)
        if self._boxes is not None:
            boxes = [self._boxes[i] for i in indices]
            batch |= to_batch(boxes, [example.crop for example in examples])
        if self._embeddings:
            files = [self.root / self._embeddings[self._names[i]] for i in indices]
            batch["embedding"] = read_embeddings(files)
        if self._labels is not None:
            batch["class_label"] = self._labels[list(indices)]
        if self._captions is not None:
            captions = [self._captions[i] for i in indices]
            batch["caption"] = np.array(list(map(choose_caption, captions, rngs)), object)
        return batch

    def texts(self, indices) -> list[list[str]]:
        """All captions of the examples at `indices`: see `source.Source`."""
        return [self._captions[int(i)] for i in indices]

    def labels(self, indices) -> np.ndarray:
        """The classes of the examples at `indices`: see `source.Source`."""
        return self._labels[np.asarray(indices, int)]

    def _from_file(self, index: int, rng: np.random.Generator | None) -> tuple[Preprocessed, int]:
        """Reads image `index`, or the next one that can be read; returns its index too."""
        for i in (*range(index, len(self)), *range(index)):
            name = self._names[i]
            if name not in self.unreadable:
                example = self._try(
                    lambda n, f: self._preprocessor.read(f, rng, self._read_map(n)), name
                )
                if example is not None:
                    return example, i
        raise UserError(f"none of the images in {self.root} can be read any more")

    def _from_cache(self, cached: Preprocessed, rng: np.random.Generator | None) -> Preprocessed:
        return self._preprocessor(to_image(cached.image), rng, cached.semantic)

    def _to_cache(self, name: str, file: IO) -> Preprocessed:
        """An image and its map to keep in memory: preprocessed, or whole for random crops."""
        semantic = self._read_map(name)
        if semantic is not None:
            semantic = semantic.astype(index_dtype(self._maps.names), copy=False)
        if not self._preprocessor.is_random:
            return self._preprocessor.read(file, semantic=semantic)
        image = self._preprocessor.to_cache(file)
        if semantic is not None:
            semantic = resize_map(semantic, image.shape[1], image.shape[0])
        return Preprocessed(image, semantic=semantic)

    def _read_map(self, name: str) -> np.ndarray | None:
        return self._maps.read(name) if self._maps else None

    def _read_files(
        self, read: Callable[[str, IO], T], names: list[str], progress: bool = False
    ) -> dict[str, T]:
        """`read(name, file)` of each image, by its name; images that cannot be read are missing."""
        title = "reading images" if progress else None
        results = in_threads(lambda name: self._try(read, name), names, progress=title)
        return {n: x for n, x in zip(names, results, strict=True) if x is not None}

    def _try(self, read: Callable[[str, IO], T], name: str) -> T | None:
        """`read(name, file)`; None, and a warning, for an image that cannot be read."""
        try:
            with (self.root / name).open("rb") as file:
                return read(name, file)
        except UnidentifiedImageError:  # whose text names the file again
            self._report(name, "it is no image, or damaged from its first bytes on")
            return None
        except Exception as error:  # a damaged file can make the decoders raise anything
            self._report(name, str(error))
            return None

    def _report(self, name: str, reason: str) -> None:
        """Warns of an image that cannot be read, once, from whatever thread."""
        with self._lock:
            known = name in self.unreadable
            self.unreadable[name] = reason
        if not known:
            log.warning("cannot read the image %s: %s", self.root / name, reason)


class _Header(NamedTuple):
    """What is known of an image without decoding it."""

    size: tuple[int, int]  # width, height
    channels: int
    deep: bool  # more than 8 bits a channel
    bytes: int  # of the file

    @classmethod
    def read(cls, name: str, file: IO) -> "_Header":
        image = Image.open(file)
        facts = upright_size(image), natural_channels(image), is_deep(image)
        return cls(*facts, file.seek(0, os.SEEK_END))
