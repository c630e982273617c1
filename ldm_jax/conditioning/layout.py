"""Layouts: named bounding boxes as a row of tokens for tau_theta (Sec. 4.3.1, App. E.2.1).

A box is three tokens, (class, top left corner, bottom right corner); a corner is one of
`sections` x `sections` places on a grid over the image. After the boxes come two tokens for the
part of the image that is seen (the crop); the boxes themselves stay in the frame of the whole
image. Classes and corners share the numbers from 0 on: what a token means lies in its position.
"""

from __future__ import annotations

import difflib
import json
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ldm_jax.errors import UserError

WHOLE = (0.0, 0.0, 1.0, 1.0)  # the crop that shows everything
# Attributes of an object in OpenImages, each with its bit of the class token.
ATTRIBUTES = {"group": 1, "occluded": 2, "depiction": 4, "inside": 8}
_PUBLISHED = {90: 8192}  # sections -> vocabulary of the published model: 90 = floor(sqrt(8192))
_FORM = '{"objects": [{"label": "NAME", "box": [left, top, right, bottom]}, ...]}'


@dataclass(frozen=True)
class LayoutTokens:
    """Layouts as int32 rows of `length` tokens; 92 of 8192 as in Table 17 where not told otherwise.

    Boxes and crops are (left, top, right, bottom) as shares of the whole image, in [0, 1].

    UserError where the names do not fit into the vocabulary, or a number is too small.
    """

    names: tuple[str, ...]
    objects: int = 30
    """Most objects of one layout."""
    sections: int = 90
    """Places along a side that a corner can have; the outermost lie on the image's edges."""

    def __post_init__(self) -> None:
        if self.objects < 1 or self.sections < 2:
            raise UserError(
                "a layout needs objects >= 1 and sections >= 2, "
                f"not objects {self.objects}, sections {self.sections}"
            )
        if not 0 < len(self.names) < self.vocabulary:
            raise UserError(
                f"{len(self.names)} class names do not fit: a layout of {self.sections} sections "
                f"has tokens for 1 to {self.vocabulary - 1}"
            )

    @property
    def vocabulary(self) -> int:
        """Number of different tokens: every corner and "none", 8192 for 90 sections as published.

        The last is "none"; between the corners and it, 8192 leaves some that mean nothing.
        """
        return _PUBLISHED.get(self.sections, self.sections**2 + 1)

    @property
    def length(self) -> int:
        """Tokens of a layout: three for each object, two for the crop."""
        return 3 * self.objects + 2

    @property
    def none(self) -> int:
        """The token of an object that is not there."""
        return self.vocabulary - 1

    @property
    def null(self) -> np.ndarray:
        """The condition that asks for nothing, not even a crop: int32 `[length]`."""
        return np.full(self.length, self.none, np.int32)

    def encode(
        self,
        boxes: np.ndarray,
        labels: np.ndarray,
        crop: np.ndarray | None = None,
        rngs: Sequence[np.random.Generator] | None = None,
        *,
        attributes: np.ndarray | None = None,
    ) -> np.ndarray:
        """Boxes `[n, M, 4]` and labels int `[n, M]` (-1: none) -> int32 `[n, length]`.

        An object of which the crop shows nothing is left out. Of more than `objects`, the largest
        are kept, the earlier of two equal ones (the original keeps the first). They come in the
        order given, then "none" for those missing, then the crop.

        Args:
          crop: `[n, 4]`, the part of the whole image that is seen; None: all of it.
          rngs: one generator a row, which shuffles the row's objects, as the original does.
          attributes: int `[n, M]`, sums of `ATTRIBUTES`; the token of a class is then its number
            + the number of classes * attributes, as in the model published for OpenImages.
        Raises:
          UserError: a label without a name, or attributes that the vocabulary has no tokens for.
        """
        boxes = np.clip(np.asarray(boxes, np.float64), 0, 1)
        labels = np.asarray(labels, int)
        crop = np.tile(WHOLE, (len(labels), 1)) if crop is None else np.asarray(crop, np.float64)
        crop = np.clip(crop, 0, 1)
        classes = self._class_tokens(labels, attributes)
        tokens = np.tile(self.null, (len(labels), 1))
        for i, row in enumerate(tokens):
            shown = _area(_overlap(boxes[i], crop[i])) > 0
            here = np.flatnonzero((labels[i] >= 0) & shown)
            largest = np.argsort(-_area(boxes[i, here]), kind="stable")[: self.objects]
            here = here[np.sort(largest)]
            if rngs is not None:
                here = rngs[i].permutation(here)
            triples = np.column_stack([classes[i, here], self._corners(boxes[i, here])])
            row[: triples.size] = triples.reshape(-1)
        tokens[:, -2:] = self._corners(crop)
        return tokens

    def decode(self, tokens: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """int32 `[n, length]` -> (boxes float32 `[k, 4]`, labels int32 `[k]`, crop `[4]`) of each.

        Boxes and crop lie on the grid, so up to half a section beside those encoded; attributes
        are dropped. The crop of `null` is the whole image.
        """
        layouts = []
        for row in np.asarray(tokens):
            triples = row[:-2].reshape(-1, 3)
            triples = triples[triples[:, 0] != self.none]
            crop = np.float32(WHOLE) if self.none in row[-2:] else self._box(row[-2:])
            labels = (triples[:, 0] % len(self.names)).astype(np.int32)
            layouts.append((self._box(triples[:, 1:]), labels, crop))
        return layouts

    def describe(self, tokens: np.ndarray) -> list[str]:
        """int32 `[n, length]` -> the names in each: 'red ball, blue cube (2)'."""
        texts = []
        for _, labels, _ in self.decode(tokens):
            counts = Counter(self.names[label] for label in labels)
            words = [f"{name} ({n})" if n > 1 else name for name, n in counts.items()]
            texts.append(", ".join(words) or "(any layout)")
        return texts

    def parse(self, content: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The JSON of one layout, or of a list of them -> what `encode` takes.

            {"objects": [{"label": "red ball", "box": [0.1, 0.2, 0.5, 0.9]}], "crop": [0, 0, 1, 1]}

        The crop may be left out: the whole image.

        Returns: boxes float64 `[n, objects, 4]`, labels int32 `[n, objects]`, crop `[n, 4]`.
        UserError: one line for whatever is wrong, with the number of the layout and the object.
        """
        try:
            layouts = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UserError(f"the layout is not JSON ({error}); write {_FORM}") from None
        several = isinstance(layouts, list)
        layouts = layouts if several else [layouts]
        if not layouts:
            raise UserError(f"the list of layouts is empty; write [{_FORM}, ...]")
        boxes = np.zeros((len(layouts), self.objects, 4))
        labels = np.full((len(layouts), self.objects), -1, np.int32)
        crops = np.zeros((len(layouts), 4))
        for i, layout in enumerate(layouts):
            where = f"layout {i + 1}" if several else "the layout"
            objects = _fields(layout, where, {"objects"}, {"crop"})["objects"]
            if not isinstance(objects, list) or not objects:
                raise UserError(f"{where} has no objects; write {_FORM}")
            if len(objects) > self.objects:
                raise UserError(
                    f"{where} has {len(objects)} objects; this model takes {self.objects} at most"
                )
            crops[i] = _parsed_box(layout.get("crop", WHOLE), f"the crop of {where}")
            for j, one in enumerate(objects):
                place = f"object {j + 1} of {where}"
                one = _fields(one, place, {"label", "box"})
                labels[i, j] = self._label(one["label"], place)
                boxes[i, j] = _parsed_box(one["box"], f"the box of {place}")
                if not _area(_overlap(boxes[i, j], crops[i])) > 0:
                    raise UserError(
                        f"the box of {place} lies outside the crop {crops[i].tolist()}; "
                        "both are in the frame of the whole image"
                    )
        return boxes, labels, crops

    def _class_tokens(self, labels: np.ndarray, attributes: np.ndarray | None) -> np.ndarray:
        classes = len(self.names)
        if labels.size and labels.max() >= classes:
            raise UserError(f"label {labels.max()} has no name; the labels are 0 to {classes - 1}")
        if attributes is None:
            return labels
        kinds = 1 + sum(ATTRIBUTES.values())
        attributes = np.asarray(attributes, int)
        if attributes.size and not 0 <= attributes.min() <= attributes.max() < kinds:
            raise UserError(f"attributes are sums of {ATTRIBUTES}: 0 to {kinds - 1}")
        if kinds * classes > self.none:
            raise UserError(
                f"{classes} classes with {kinds} combinations of attributes do not fit into "
                f"{self.none} tokens; use more sections than {self.sections}"
            )
        return labels + classes * attributes

    def _corners(self, boxes: np.ndarray) -> np.ndarray:
        """`[k, 4]` -> tokens `[k, 2]`, row by row over the grid; halves go to the even place."""
        x, y = np.moveaxis(np.rint(boxes.reshape(-1, 2, 2) * (self.sections - 1)), -1, 0)
        return (y * self.sections + x).astype(np.int32)

    def _box(self, corners: np.ndarray) -> np.ndarray:
        """Tokens `[..., 2]` -> float32 `[..., 4]`."""
        y, x = np.divmod(corners, self.sections)
        points = np.stack([x, y], -1) / (self.sections - 1)
        return points.reshape(*corners.shape[:-1], 4).astype(np.float32)

    def _label(self, name: object, place: str) -> int:
        if name in self.names:
            return self.names.index(name)
        meant = difflib.get_close_matches(str(name), self.names, n=1)
        shown = ", ".join(self.names[:40]) + (", ..." if len(self.names) > 40 else "")
        raise UserError(
            f"{place} has the unknown label {name!r}; "
            + (f"perhaps you meant {meant[0]!r}; " if meant else "")
            + f"this model knows: {shown}"
        )


def in_crop(boxes: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """Boxes `[k, 4]` of the whole image -> the same as shares of a crop `[4]`, cut at its edge.

    For drawing them on what a model made, which shows the crop.
    """
    corner, side = crop[:2], np.maximum(crop[2:] - crop[:2], 1e-6)
    return ((_overlap(boxes, crop).reshape(-1, 2, 2) - corner) / side).reshape(-1, 4)


def _overlap(boxes: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """The parts `[..., 4]` of boxes in a crop; those outside become empty, with right <= left."""
    cut = np.clip(boxes.reshape(*boxes.shape[:-1], 2, 2), crop[:2], crop[2:])
    return cut.reshape(boxes.shape)


def _area(boxes: np.ndarray) -> np.ndarray:
    """`[..., 4]` -> `[...]`; 0 for one whose right edge is left of its left edge, and so on."""
    return np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1)


def _fields(
    entry: object, place: str, needed: set[str], possible: set[str] = frozenset()
) -> Mapping[str, object]:
    """The entry itself, where it is a JSON object with these fields."""
    if not isinstance(entry, dict):
        raise UserError(f"{place} is {reprlib.repr(entry)}; write {_FORM}")
    for name in sorted(needed - entry.keys()):
        raise UserError(f"{place} has no {name!r}; write {_FORM}")
    for name in sorted(entry.keys() - needed - possible):
        known = ", ".join(sorted(needed | possible))
        raise UserError(f"{place} has the unknown field {name!r}; the fields are {known}")
    return entry


def _parsed_box(box: object, place: str) -> Sequence[float]:
    said = f"{place} is {reprlib.repr(box)}; "
    four = isinstance(box, list | tuple) and len(box) == 4
    if not four or not all(type(edge) in (int, float) for edge in box):  # true is no number
        raise UserError(said + "it must be four numbers [left, top, right, bottom]")
    if not all(0 <= edge <= 1 for edge in box):
        raise UserError(said + "its edges must be in [0, 1], shares of the image's width, height")
    left, top, right, bottom = box
    if not (left < right and top < bottom):
        raise UserError(said + "right must be greater than left, and bottom greater than top")
    return box
