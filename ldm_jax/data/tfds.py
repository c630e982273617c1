"""Any TFDS data set that is prepared as array_record, read without TensorFlow and without network.

A prepared set is opened from its folder alone, so sets whose code TFDS does not have work too.
"""

import dataclasses
import io
import re
from collections.abc import Collection, Iterator

import numpy as np
from etils import epath
from PIL import Image
from tqdm import tqdm

from ldm_jax.data.boxes import rows as box_rows
from ldm_jax.data.images import Crop, Fit, Shown, View, in_threads, upright_size
from ldm_jax.data.maps import check_classes, check_size, decode_map, index_type
from ldm_jax.data.source import Rngs, one_text
from ldm_jax.data.tfds_features import box_features, features_by_kind, texts, value
from ldm_jax.errors import UserError


def prepare_command(name: str, dir: str) -> str:
    """The command that downloads a set of TFDS' catalogue and prepares it for this module."""
    return (
        'pip install "ldm_jax[prepare]" && python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='{dir}', file_format='array_record')"
        '.download_and_prepare()"'
    )


def find(name: str, dir: str) -> epath.Path:
    """The folder dir/NAME[/CONFIG]/VERSION of a prepared set; the newest version if none is named.

    name: 'mnist', 'mnist:3.0.1', 'imagenet_resized/64x64'. UserError where it is missing or where
    several configurations are there to choose from.
    """
    base, _, version = name.partition(":")
    root = epath.Path(dir).expanduser()
    if not base:
        raise UserError("the name of the data set is empty; give one such as 'mnist'")
    found = [
        info.parent
        for depth in ("*/dataset_info.json", "*/*/dataset_info.json")
        for info in (root / base).glob(depth)
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)
    ]
    if not found:
        there = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
        raise UserError(
            f"no prepared data set {base!r} in {root} (there: {', '.join(there) or 'nothing'}); "
            f"to prepare it: {prepare_command(name, dir)}"
        )
    configs = sorted({str(p.parent.relative_to(root)) for p in found})
    if len(configs) > 1:
        raise UserError(
            f"{base!r} in {root} has several configurations; name one of: {', '.join(configs)}"
        )
    versions = {p.name: p for p in found}
    if version and version not in versions:
        raise UserError(
            f"{base!r} in {root} has no version {version!r}; there: {', '.join(sorted(versions))}"
        )
    newest = max(versions, key=lambda v: [int(part) for part in v.split(".")])
    return versions[version or newest]


def split_names(name: str, dir: str) -> tuple[str, ...]:
    """The splits of a prepared set, such as ('test', 'train'); `name`, `dir` as in `find`."""
    return tuple(sorted(_open(find(name, dir)).info.splits))


def _open(folder: epath.Path):
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # TFDS raises many kinds for a folder it did not finish
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{folder} cannot be opened as a TFDS data set: {reason}") from error


class TfdsSource:
    """Images of a prepared TFDS set, with labels, captions, boxes, maps where it has them."""

    def __init__(
        self,
        name: str,
        split: str,
        dir: str,
        size: int,
        channels: int = 0,
        fit: Fit = "crop",
        crop: Crop = "centre",
        min_crop: float = 0.8,
        max_crop: float = 1.0,
        image_key: str = "image",
        label_key: str = "label",
        caption_key: str = "caption",
        boxes_key: str = "auto",
        map_key: str = "",
    ) -> None:
        """name, dir: see `find`. split: TFDS' own words, slices too: 'train', 'train[:90%]'.

        size, channels, fit, crop, min_crop, max_crop: see `images.View`; channels 0 takes what the
        data has.
        image_key, label_key, caption_key: features; 'captions/text' is a feature in a sequence. The
        default label and caption may be missing, '' means none, any other must exist.
        boxes_key: a feature of boxes such as 'objects/bbox', whose labels are a sibling of it (all
        are 'object' where there is none); 'auto' takes the only one there is, '' none.
        map_key: an image of class indices such as 'segmentation_mask'; '' for none. Its classes
        are named by the feature, or else are the numbers up to the highest in any split of the set.
        UserError for whatever is missing, with what there is instead.
        """
        import tensorflow_datasets as tfds

        view = View(size, channels, fit, crop, min_crop, max_crop)
        folder = find(name, dir)
        builder = _open(folder)
        info = builder.info
        self.name = info.full_name
        images, labels, captions = features_by_kind(info.features)
        self._image_key = self._choose(image_key, "image", images)
        self._label = self._choose(label_key, "label", labels, default="label")
        self._caption = self._choose(caption_key, "caption", captions, default="caption")
        boxes = box_features(info.features)
        if boxes_key == "auto":
            boxes_key = next(iter(boxes)) if len(boxes) == 1 else ""
        self._boxes = boxes[self._choose(boxes_key, "boxes", boxes)] if boxes_key else None
        self.box_names = self._boxes and self._boxes.names
        maps = {k: f for k, f in images.items() if f.shape[-1] == 1 and k != self._image_key}
        self._map = self._choose(map_key, "map", maps)

        if channels == 0:  # images with alpha, or without a fixed number of channels: colour
            channels = 1 if images[image_key].shape[-1] == 1 else 3
        self._view = dataclasses.replace(view, channels=channels)
        self.channels = channels
        self.class_names = tuple(labels[self._label].names) if self._label else None
        # One of several captions is drawn anew at each reading, as a random crop is.
        self.drawn = view.drawn or captions.get(self._caption, False)
        self.semantic_names = None
        # Images come encoded: Pillow decodes them in threads, and only those that are read.
        skip = {key: tfds.decode.SkipDecoding() for key in images}
        try:
            self._data = builder.as_data_source(split, decoders=skip)
        except NotImplementedError as error:
            raise UserError(
                f"{folder} was prepared as {info.file_format.value}, which only TensorFlow reads; "
                f"remove it and prepare it as array_record: {prepare_command(name, dir)}"
            ) from error
        except ValueError as error:
            there = ", ".join(f"{key} ({s.num_examples})" for key, s in info.splits.items())
            raise UserError(
                f"{self.name} has no split {split!r} with examples; it has: {there}; "
                "slices such as 'train[:90%]' work too"
            ) from error
        if self._map:
            names = getattr(maps[self._map], "names", None)
            self.semantic_names = tuple(names or self._numbers(builder, skip))

    def _choose(self, key: str, kind: str, there: Collection[str], default: str = "") -> str:
        if key in there:
            return key
        if kind != "image" and key in ("", default):
            return ""
        raise UserError(
            f"{self.name} has no {kind} feature {key!r}; it has: "
            f"{', '.join(sorted(there)) or 'none'}"
        )

    def _numbers(self, builder, decoders: dict) -> Iterator[str]:
        """A name for each class index up to the highest in the set's maps."""
        highest = 0
        for split, info in builder.info.splits.items():
            if not info.num_examples:
                continue
            data = builder.as_data_source(split, decoders=decoders)
            rows = np.array_split(np.arange(len(data)), -(-len(data) // 64))
            for chunk in tqdm(rows, f"reading the maps of {split}", delay=1):
                maps = in_threads(self._decode_map, data.__getitems__(chunk.tolist()))
                highest = max(highest, *(int(one.max()) for one in maps))
        return map(str, range(highest + 1))

    def __len__(self) -> int:
        return len(self._data)

    def read(self, indices, rngs: Rngs = None) -> dict[str, np.ndarray]:
        """The examples at `indices`: see `source.Source`.

        UserError for an image that cannot be decoded, and for examples without a label (TFDS
        writes -1) in a set that has labels.
        """
        examples = self._data.__getitems__([int(i) for i in indices])
        rngs = rngs if rngs is not None else [None] * len(examples)
        shown = in_threads(self._view_of, examples, rngs)
        batch = {"image": np.stack([one.image for one in shown])}
        if self._label:
            labels = np.array([value(example, self._label) for example in examples], np.int32)
            if (labels < 0).any():
                raise UserError(f"{self.name}: this split has no labels; give label_key ''")
            batch["class_label"] = labels
        if self._caption:
            several = [texts(value(example, self._caption)) for example in examples]
            batch["caption"] = np.array(list(map(one_text, several, rngs)), object)
        if self._boxes:
            truth = [self._boxes.read(example) for example in examples]
            batch |= box_rows(truth, [one.crop for one in shown])
        if self._map:
            dtype = index_type(self.semantic_names)
            batch["semantic"] = np.stack([one.semantic for one in shown]).astype(dtype, copy=False)
        return batch

    def _view_of(self, example: dict, rng: np.random.Generator | None) -> Shown:
        file = io.BytesIO(example[self._image_key])
        semantic = self._decode_map(example) if self._map else None
        try:
            shown = self._view.read(file, rng, semantic)
            size = upright_size(Image.open(file)) if self._map else (0, 0)
        except Exception as error:  # a damaged file can make the decoders raise anything
            raise UserError(f"{self.name}: an image cannot be read: {error}") from error
        if semantic is not None:
            check_size(semantic.shape[::-1], size, f"{self.name}: a map")
            check_classes(int(semantic.max()), self.semantic_names, f"{self.name}: a map")
        return shown

    def _decode_map(self, example: dict) -> np.ndarray:
        try:
            return decode_map(io.BytesIO(example[self._map]))
        except Exception as error:
            raise UserError(f"{self.name}: a map cannot be read: {error}") from error
