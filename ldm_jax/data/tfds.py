"""Any TFDS data set that is prepared as array_record, read without TensorFlow and without network.

A prepared set is opened from its folder alone, so sets whose code TFDS does not have work too.
"""

import io
import logging
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
from etils import epath
from PIL import Image
from tqdm import tqdm

from ldm_jax.data import boxes as box_files
from ldm_jax.data.annotations import LeftOut
from ldm_jax.data.decode import highest_value, is_deep, natural_channels, upright_size
from ldm_jax.data.images import ImageConfig, Preprocessed, Preprocessor, in_threads
from ldm_jax.data.maps import check_class_names, check_map_size, decode_map, index_dtype
from ldm_jax.data.notices import cut_off, only_8_bits, some, unused_bits
from ldm_jax.data.source import HeldOutFraction, Rngs, choose_caption, digest
from ldm_jax.data.tfds_features import box_features, captions_of, feature_value, features_by_kind
from ldm_jax.errors import UserError
from ldm_jax.paths import user_path
from ldm_jax.resuming import Place

BOXES_LOOKED_AT = 1000  # examples whose boxes are looked at before training, at most
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TfdsConfig(ImageConfig):
    """A TFDS data set that is prepared as array_record."""

    name: str = "mnist"
    """Name, with configuration or version if need be: imagenet_resized/64x64, mnist:3.0.1."""
    dir: Place = "~/tensorflow_datasets"
    """TFDS's data directory."""
    validation: HeldOutFraction = 0.05
    """Fraction to hold out where the set has neither a test nor a validation split; above 0, as
    both stages are judged by held-out images."""
    image_key: str = "image"
    """The feature with the images."""
    label_key: str = "label"
    """The feature with the class labels, if there is one; '' leaves labels out."""
    caption_key: str = "caption"
    """The feature with the captions, if there is one; captions/text is one in a sequence."""
    boxes_key: str = "auto"
    """The feature with the boxes, such as objects/bbox; auto: the only one, if there is one."""
    map_key: str = ""
    """The feature with the semantic maps, such as segmentation_mask; '': none."""


def prepare_command(name: str, dir: str) -> str:
    """The command that downloads a set of TFDS's catalogue and prepares it as array_record."""
    return (
        'pip install "ldm_jax[prepare]" && python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='{dir}', file_format='array_record')"
        '.download_and_prepare()"'
    )


def find_prepared(name: str, dir: str) -> epath.Path:
    """The folder dir/NAME[/CONFIG]/VERSION of a prepared set; the newest version by default.

    name: 'mnist', 'mnist:3.0.1', 'imagenet_resized/64x64'. UserError where it is missing or where
    several configurations exist and none is named.
    """
    base, _, version = name.partition(":")
    root = user_path(dir)
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
    """The splits of a prepared set, such as ('test', 'train'); see `find_prepared`."""
    return tuple(sorted(_open(find_prepared(name, dir)).info.splits))


def _open(folder: epath.Path):
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # TFDS raises many kinds for a folder it did not finish
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{folder} cannot be opened as a TFDS data set: {reason}") from error


class TfdsSource:
    """Images of a prepared TFDS set, with labels, captions, boxes, maps where it has them."""

    def __init__(self, config: TfdsConfig, split: str = "train") -> None:
        """split: TFDS' own syntax, slices too: 'train', 'train[:90%]'.

        Images have 1 or 3 channels, as in the data. The default label and caption may be missing,
        '' means none, any other must exist. Labels of boxes are the feature 'label' beside the
        boxes; all are 'object' where there is none. The classes of maps are named by the feature,
        or else are the numbers up to the highest in any split of the set.
        UserError for whatever is missing, with what there is instead.
        """
        import tensorflow_datasets as tfds

        preprocessor = Preprocessor.of(config)
        name, dir = config.name, config.dir
        folder = find_prepared(name, dir)
        builder = _open(folder)
        info = builder.info
        self.name = info.full_name
        splits = sorted(info.splits.items())
        sizes = [(split, one.num_examples, one.num_bytes) for split, one in splits]
        self.files_digest = digest([self.name, *sizes])
        images, labels, captions = features_by_kind(info.features)
        self._image_key = self._choose(config.image_key, "image", images)
        self._label = self._choose(config.label_key, "label", labels, default="label")
        self._caption = self._choose(config.caption_key, "caption", captions, default="caption")
        boxes = box_features(info.features)
        boxes_key = config.boxes_key
        if boxes_key == "auto":
            boxes_key = next(iter(boxes)) if len(boxes) == 1 else ""
        self._boxes = boxes[self._choose(boxes_key, "boxes", boxes)] if boxes_key else None
        self.box_names = self._boxes and self._boxes.names
        maps = {k: f for k, f in images.items() if f.shape[-1] == 1 and k != self._image_key}
        self._map = self._choose(config.map_key, "map", maps)

        # Images with alpha, or without a fixed number of channels, are read in colour.
        self.channels = 1 if images[self._image_key].shape[-1] == 1 else 3
        self._preprocessor = replace(preprocessor, channels=self.channels)
        self.class_names = tuple(labels[self._label].names) if self._label else None
        # One of several captions is chosen at random at each reading, as a random crop is.
        self.is_random = preprocessor.is_random or captions.get(self._caption, False)
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
        if split == "train":
            self._say_what_is_lost(config)
            self._say_which_boxes_are_lost()
        if self._map:
            names = getattr(maps[self._map], "names", None)
            self.semantic_names = tuple(names or self._map_numbers(builder, skip))

    def _say_what_is_lost(self, config: TfdsConfig) -> None:
        examples = self._data.__getitems__(some(len(self._data)))
        try:
            files = [Image.open(io.BytesIO(example[self._image_key])) for example in examples]
            colour = sum(is_deep(file) and natural_channels(file) == 3 for file in files)
            sizes, highest = [file.size for file in files], [highest_value(file) for file in files]
        except Exception:  # of a damaged image, which is an error when it is read
            return
        for text in cut_off(sizes, config):
            log.info("%s: %s", self.name, text)
        for text in filter(None, (unused_bits(highest, config), only_8_bits(colour, len(files)))):
            log.warning("%s: %s", self.name, text)

    def _say_which_boxes_are_lost(self) -> None:
        if not self._boxes:
            return
        left_out, total, rows = LeftOut(), 0, some(len(self._data), BOXES_LOOKED_AT)
        for chunk in np.array_split(rows, -(-len(rows) // 64)):
            chunk = chunk.tolist()
            for i, example in zip(chunk, self._data.__getitems__(chunk), strict=True):
                faults = self._boxes.faults(example)
                total += len(faults)
                for number, fault in enumerate(faults):
                    if fault:
                        left_out.add(f"box {number} of example {i}", fault)
        where = f"boxes of {len(rows)} examples" if len(rows) < len(self._data) else "boxes"
        if text := left_out.summary(total, where):
            log.warning("%s: %s", self.name, text)

    def _choose(self, key: str, kind: str, there: Collection[str], default: str = "") -> str:
        """`key` if the set has it; '' if it may be missing; UserError otherwise."""
        if key in there:
            return key
        if kind != "image" and key in ("", default):
            return ""
        raise UserError(
            f"{self.name} has no {kind} feature {key!r}; it has: "
            f"{', '.join(sorted(there)) or 'none'}"
        )

    def _map_numbers(self, builder, decoders: dict) -> Iterator[str]:
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
        images = in_threads(self._preprocess, examples, rngs)
        batch = {"image": np.stack([one.image for one in images])}
        if self._label:
            batch["class_label"] = self._labels_of(examples)
        if self._caption:
            captions = [captions_of(feature_value(example, self._caption)) for example in examples]
            batch["caption"] = np.array(list(map(choose_caption, captions, rngs)), object)
        if self._boxes:
            boxes = [self._boxes.read(example) for example in examples]
            batch |= box_files.to_batch(boxes, [one.crop for one in images])
        if self._map:
            semantic = np.stack([one.semantic for one in images])
            batch["semantic"] = semantic.astype(index_dtype(self.semantic_names), copy=False)
        return batch

    def texts(self, indices) -> list[list[str]]:
        """All captions of the examples at `indices`: see `source.Source`."""
        examples = self._data.__getitems__([int(i) for i in indices])
        return [captions_of(feature_value(example, self._caption)) for example in examples]

    def labels(self, indices) -> np.ndarray:
        """The classes of the examples at `indices`: see `source.Source`."""
        return self._labels_of(self._data.__getitems__([int(i) for i in indices]))

    def _labels_of(self, examples: list[dict]) -> np.ndarray:
        labels = np.array([feature_value(example, self._label) for example in examples], np.int32)
        if (labels < 0).any():
            raise UserError(f"{self.name}: this split has no labels; give label_key ''")
        return labels

    def _preprocess(self, example: dict, rng: np.random.Generator | None) -> Preprocessed:
        file = io.BytesIO(example[self._image_key])
        semantic = self._decode_map(example) if self._map else None
        try:
            image = self._preprocessor.read(file, rng, semantic)
            size = upright_size(Image.open(file)) if self._map else (0, 0)
        except Exception as error:  # a damaged file can make the decoders raise anything
            raise UserError(f"{self.name}: an image cannot be read: {error}") from error
        if semantic is not None:
            check_map_size(semantic.shape[::-1], size, f"{self.name}: a map")
            check_class_names(int(semantic.max()), self.semantic_names, f"{self.name}: a map")
        return image

    def _decode_map(self, example: dict) -> np.ndarray:
        try:
            return decode_map(io.BytesIO(example[self._map]))
        except Exception as error:
            raise UserError(f"{self.name}: a map cannot be read: {error}") from error
