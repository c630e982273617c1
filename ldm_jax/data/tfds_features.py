"""The features of a TFDS set: which are images, labels, captions, boxes, and their values."""

from dataclasses import dataclass

import numpy as np

from ldm_jax.data.boxes import Boxes, clipped_boxes


def features_by_kind(features) -> tuple[dict, dict, dict[str, bool]]:
    """Features by name: images, labels, and of captions whether an example has several."""
    import tensorflow_datasets as tfds

    of = tfds.features
    images = {k: f for k, f in features.items() if isinstance(f, of.Image)}
    labels = {k: f for k, f in features.items() if isinstance(f, of.ClassLabel)}
    captions = {k: False for k, f in features.items() if isinstance(f, of.Text)}
    for key, sequence in features.items():
        inner = sequence.feature if isinstance(sequence, of.Sequence) else None
        if isinstance(inner, of.Text):
            captions[key] = True
        elif isinstance(inner, of.FeaturesDict):
            captions |= {f"{key}/{k}": True for k, f in inner.items() if isinstance(f, of.Text)}
    return images, labels, captions


@dataclass(frozen=True)
class BoxFeature:
    """A feature of boxes, with the keys of their labels."""

    key: str
    label: str  # '' for none
    crowd: str  # the key of whether a box surrounds several objects; '' for none
    names: tuple[str, ...]

    def read(self, example: dict) -> Boxes:
        """The boxes of an example, without those that `faults` names."""
        return clipped_boxes(*self._all(example))

    def faults(self, example: dict) -> list[str]:
        """Why each box of an example is left out; '' where it is not."""
        corners, labels = self._all(example)
        finite = np.isfinite(corners).all(axis=1)
        inside = np.clip(corners, 0, 1)
        said = np.where((inside[:, 2:] > inside[:, :2]).all(axis=1), "", "no area in the image")
        said = np.where(labels < 0, "no class, or a crowd", said)
        return np.where(finite, said, "not finite").tolist()

    def _all(self, example: dict) -> tuple[np.ndarray, np.ndarray]:
        """(corners [k, 4] as left, top, right, bottom; labels [k], -1 for a crowd)."""
        corners = np.array(feature_value(example, self.key), np.float32).reshape(-1, 4)
        corners = corners[:, [1, 0, 3, 2]]
        labels = np.zeros(len(corners), np.int32)
        if self.label:
            labels = np.array(feature_value(example, self.label), np.int32).reshape(-1)
        if self.crowd:
            labels = np.where(np.reshape(feature_value(example, self.crowd), -1), -1, labels)
        return corners, labels


def box_features(features) -> dict[str, BoxFeature]:
    """The features of boxes as TFDS defines them, (top, left, bottom, right) in [0, 1], by name."""
    import tensorflow_datasets as tfds

    of = tfds.features
    found = {}

    def one(feature):
        return feature.feature if isinstance(feature, of.Sequence) else feature

    def look(siblings: dict, prefix: str = "") -> None:
        for key, feature in siblings.items():
            if isinstance(one(feature), of.FeaturesDict) and not prefix:
                look(dict(one(feature).items()), f"{key}/")
            # Newer releases of TFDS know other forms, which a set has to name.
            form = getattr(getattr(one(feature), "bbox_format", None), "name", "REL_YXYX")
            if not isinstance(one(feature), of.BBoxFeature) or form != "REL_YXYX":
                continue
            label = siblings.get("label")
            each = isinstance(label, of.Sequence) == isinstance(feature, of.Sequence)
            named = each and isinstance(one(label), of.ClassLabel)
            found[prefix + key] = BoxFeature(
                prefix + key,
                label=f"{prefix}label" if named else "",
                crowd=f"{prefix}is_crowd" if prefix and "is_crowd" in siblings else "",
                names=tuple(one(label).names) if named else ("object",),
            )

    look(dict(features.items()))
    return found


def feature_value(example: dict, key: str):
    """The value of a feature, such as 'label', or 'objects/label' within a sequence or group."""
    if key in example:
        return example[key]
    sequence, _, inner = key.rpartition("/")
    return example[sequence][inner]


def captions_of(value) -> list[str]:
    """The captions in the value of a feature: one text or several, which TFDS returns as bytes."""
    texts = [value] if isinstance(value, bytes) else value
    return [text.decode("utf-8", "replace").strip() for text in texts]
