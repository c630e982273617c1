"""Layouts: named bounding boxes as a row of tokens for tau_theta (Sec. 4.3.1, App. E.2.1).

A box is three tokens, (class, top left corner, bottom right corner); a corner is a point of a
`sections` x `sections` grid over the image. After the boxes come two tokens for the visible part
of the image (the crop); the boxes are relative to the whole image, not to the crop. Classes and
corners both use the token numbers from 0 on: the position of a token tells them apart.
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

WHOLE_IMAGE = (0.0, 0.0, 1.0, 1.0)  # as a crop
_PUBLISHED_VOCABULARY = {90: 8192}  # sections -> tokens: 90 = floor(sqrt(8192))
_EXAMPLE = '{"objects": [{"label": "NAME", "box": [left, top, right, bottom]}, ...]}'


@dataclass(frozen=True)
class LayoutTokens:
    """Encodes layouts as int32 rows of `length` tokens; by default 92 of 8192, as in Table 17.

    Boxes and crops are (left, top, right, bottom), relative to the whole image, in [0, 1].

    Raises:
      UserError: when made, if the names do not fit into the vocabulary, or a number is too small.
    """

    names: tuple[str, ...]
    objects: int = 30
    """Maximum number of objects in a layout."""
    sections: int = 90
    """Grid points along each side of the image, the edges included."""

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
        """Number of tokens: one for each corner, and the last for "no object".

        For 90 sections it is 8192 as published; some of these tokens are unused.
        """
        return _PUBLISHED_VOCABULARY.get(self.sections, self.sections**2 + 1)

    @property
    def length(self) -> int:
        """Tokens of a layout: three for each object, two for the crop."""
        return 3 * self.objects + 2

    @property
    def none(self) -> int:
        """The token for "no object"."""
        return self.vocabulary - 1

    @property
    def null(self) -> np.ndarray:
        """The null condition, without objects and crop: int32 `[length]`."""
        return np.full(self.length, self.none, np.int32)

    def encode(
        self,
        boxes: np.ndarray,
        labels: np.ndarray,
        crop: np.ndarray | None = None,
        rngs: Sequence[np.random.Generator] | None = None,
    ) -> np.ndarray:
        """Boxes `[n, M, 4]` and labels int `[n, M]` (-1: none) -> int32 `[n, length]`.

        Objects outside the crop are dropped. If more than `objects` remain, the largest are kept,
        and of equal ones the earlier (the original keeps the first `objects`). The row holds them
        in the given order, then "no object" tokens, then the crop.

        Args:
          crop: `[n, 4]`, the visible part of the whole image; None: all of it.
          rngs: one generator per row, which shuffles the objects of the row, as in the original.

        Raises:
          UserError: a label has no name.
        """
        boxes = np.clip(np.asarray(boxes, np.float64), 0, 1)
        labels = np.asarray(labels, int)
        crop = (
            np.tile(WHOLE_IMAGE, (len(labels), 1)) if crop is None else np.asarray(crop, np.float64)
        )
        crop = np.clip(crop, 0, 1)
        if labels.size and labels.max() >= len(self.names):
            raise UserError(
                f"label {labels.max()} has no name; the labels are 0 to {len(self.names) - 1}"
            )
        tokens = np.tile(self.null, (len(labels), 1))
        for i, row in enumerate(tokens):
            visible = _area(_overlap(boxes[i], crop[i])) > 0
            kept = np.flatnonzero((labels[i] >= 0) & visible)
            largest = np.argsort(-_area(boxes[i, kept]), kind="stable")[: self.objects]
            kept = kept[np.sort(largest)]
            if rngs is not None:
                kept = rngs[i].permutation(kept)
            triples = np.column_stack([labels[i, kept], self._corners(boxes[i, kept])])
            row[: triples.size] = triples.reshape(-1)
        tokens[:, -2:] = self._corners(crop)
        return tokens

    def decode(self, tokens: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """int32 `[n, length]` -> (boxes float32 `[k, 4]`, labels int32 `[k]`, crop `[4]`) of each.

        Boxes and crop are rounded to the grid. The crop of `null` is the whole image.
        """
        layouts = []
        for row in np.asarray(tokens):
            triples = row[:-2].reshape(-1, 3)
            triples = triples[triples[:, 0] != self.none]
            crop = np.float32(WHOLE_IMAGE) if self.none in row[-2:] else self._box(row[-2:])
            layouts.append((self._box(triples[:, 1:]), triples[:, 0].astype(np.int32), crop))
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

        Without "crop" the whole image is visible.

        Returns:
          boxes float64 `[n, objects, 4]`, labels int32 `[n, objects]`, crop `[n, 4]`.

        Raises:
          UserError: a mistake in the JSON, with the number of the layout and of the object.
        """
        try:
            layouts = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UserError(f"the layout is not JSON ({error}); write {_EXAMPLE}") from None
        several = isinstance(layouts, list)
        layouts = layouts if several else [layouts]
        if not layouts:
            raise UserError(f"the list of layouts is empty; write [{_EXAMPLE}, ...]")
        boxes = np.zeros((len(layouts), self.objects, 4))
        labels = np.full((len(layouts), self.objects), -1, np.int32)
        crops = np.zeros((len(layouts), 4))
        for i, layout in enumerate(layouts):
            title = f"layout {i + 1}" if several else "the layout"
            objects = _fields(layout, title, {"objects"}, {"crop"})["objects"]
            if not isinstance(objects, list) or not objects:
                raise UserError(f"{title} has no objects; write {_EXAMPLE}")
            if len(objects) > self.objects:
                raise UserError(
                    f"{title} has {len(objects)} objects; this model takes {self.objects} at most"
                )
            crops[i] = _parsed_box(layout.get("crop", WHOLE_IMAGE), f"the crop of {title}")
            for j, fields in enumerate(objects):
                object_title = f"object {j + 1} of {title}"
                fields = _fields(fields, object_title, {"label", "box"})
                labels[i, j] = self._label(fields["label"], object_title)
                boxes[i, j] = _parsed_box(fields["box"], f"the box of {object_title}")
                if not _area(_overlap(boxes[i, j], crops[i])) > 0:
                    raise UserError(
                        f"the box of {object_title} lies outside the crop {crops[i].tolist()}; "
                        "both are relative to the whole image"
                    )
        return boxes, labels, crops

    def _corners(self, boxes: np.ndarray) -> np.ndarray:
        """`[k, 4]` -> tokens `[k, 2]`: grid points, row by row; halves are rounded to even."""
        x, y = np.moveaxis(np.rint(boxes.reshape(-1, 2, 2) * (self.sections - 1)), -1, 0)
        return (y * self.sections + x).astype(np.int32)

    def _box(self, corners: np.ndarray) -> np.ndarray:
        """Tokens `[..., 2]` -> float32 `[..., 4]`."""
        y, x = np.divmod(corners, self.sections)
        points = np.stack([x, y], -1) / (self.sections - 1)
        return points.reshape(*corners.shape[:-1], 4).astype(np.float32)

    def _label(self, name: object, title: str) -> int:
        if name in self.names:
            return self.names.index(name)
        similar = difflib.get_close_matches(str(name), self.names, n=1)
        shown = ", ".join(self.names[:40]) + (", ..." if len(self.names) > 40 else "")
        raise UserError(
            f"{title} has the unknown label {name!r}; "
            + (f"perhaps you meant {similar[0]!r}; " if similar else "")
            + f"this model knows: {shown}"
        )


def _overlap(boxes: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """Boxes `[..., 4]` clipped to a crop; those outside become empty, with right <= left."""
    cut = np.clip(boxes.reshape(*boxes.shape[:-1], 2, 2), crop[:2], crop[2:])
    return cut.reshape(boxes.shape)


def within(boxes: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """Boxes `[k, 4]` as parts of a crop `[4]` rather than of the whole image, and clipped to it."""
    corners = _overlap(boxes, crop).reshape(-1, 2, 2)
    size = np.maximum(crop[2:] - crop[:2], 1e-6)
    return np.clip((corners - crop[:2]) / size, 0, 1).reshape(boxes.shape)


def _area(boxes: np.ndarray) -> np.ndarray:
    """`[..., 4]` -> `[...]`; 0 for an empty box (right <= left or bottom <= top)."""
    return np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1)


def _fields(
    value: object, title: str, needed: set[str], possible: set[str] = frozenset()
) -> Mapping[str, object]:
    """The value itself, if it is a JSON object with these fields."""
    if not isinstance(value, dict):
        raise UserError(f"{title} is {reprlib.repr(value)}; write {_EXAMPLE}")
    for name in sorted(needed - value.keys()):
        raise UserError(f"{title} has no {name!r}; write {_EXAMPLE}")
    for name in sorted(value.keys() - needed - possible):
        known = ", ".join(sorted(needed | possible))
        raise UserError(f"{title} has the unknown field {name!r}; the fields are {known}")
    return value


def _parsed_box(box: object, title: str) -> Sequence[float]:
    problem = f"{title} is {reprlib.repr(box)}; "
    four = isinstance(box, list | tuple) and len(box) == 4
    if not four or not all(
        type(edge) in (int, float) for edge in box
    ):  # a bool is not a number here
        raise UserError(problem + "it must be four numbers [left, top, right, bottom]")
    if not all(0 <= edge <= 1 for edge in box):
        raise UserError(problem + "its edges must be in [0, 1], relative to the image")
    left, top, right, bottom = box
    if not (left < right and top < bottom):
        raise UserError(problem + "right must be greater than left, and bottom greater than top")
    return box
