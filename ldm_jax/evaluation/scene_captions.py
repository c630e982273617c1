"""Parses captions of scenes into objects and relations, and checks them against detections."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from ldm_jax.data.scenes import CLASS_NAMES, COLOURS, MATERIALS, SHAPES, SIZES
from ldm_jax.errors import UserError
from ldm_jax.evaluation.scene_objects import DetectedObject


class CaptionObject(NamedTuple):
    """An object that a caption names; None for attributes that it does not mention."""

    label: int  # index in CLASS_NAMES
    size: str | None
    material: str | None


class Relation(NamedTuple):
    """A relation between two objects of a caption, given by their index in it."""

    name: str  # one of RELATIONS
    first: int
    second: int


class CaptionScene(NamedTuple):
    """The objects of a caption and their relations."""

    objects: tuple[CaptionObject, ...]
    relations: tuple[Relation, ...]


RELATIONS = ("in front of", "left of", "next to")
_INVERSE = {"behind": "in front of", "right of": "left of"}  # not in our captions, but people's

_ANY = "|".join
_OBJECT = re.compile(
    rf"(?:\b({_ANY(SIZES)}) )?(?:\b({_ANY(MATERIALS)}) )?\b({_ANY(COLOURS)}) ({_ANY(SHAPES)})\b"
)

# Limits of 'next to' in the image, which most pairs satisfy whose captions say so: the gap, in mean
# widths of the boxes, and the distance between their lower edges, in sides of the image.
_NEAR = 0.9
_LEVEL = 0.16


def parse_caption(text: str) -> CaptionScene:
    """Objects and relations of 'a large shiny red cone in front of a small blue cube on a ...'.

    Reads every caption of `data/scenes/captions.py`, and 'right of' and 'behind' besides. Objects
    joined by 'and' have no relation.

    Raises:
      UserError: if no object is named by colour and shape.
    """
    words = " ".join(text.lower().split())
    named = list(_OBJECT.finditer(words))
    if not named:
        raise UserError(
            f"caption {text!r} names no object: a colour ({', '.join(COLOURS)}) and "
            f"a shape ({', '.join(SHAPES)}) are needed"
        )
    objects = tuple(
        CaptionObject(CLASS_NAMES.index(f"{colour} {shape}"), size, material)
        for size, material, colour, shape in (match.groups() for match in named)
    )
    relations = []
    for i, (one, two) in enumerate(zip(named, named[1:], strict=False)):
        between = words[one.end() : two.start()]
        if re.search(r"\band\b", between):
            continue
        for phrase in (*RELATIONS, *_INVERSE):
            if re.search(rf"\b{phrase}\b", between):
                pair = (i, i + 1) if phrase in RELATIONS else (i + 1, i)
                relations.append(Relation(_INVERSE.get(phrase, phrase), *pair))
    return CaptionScene(objects, tuple(relations))


def relation_holds(name: str, one: DetectedObject, two: DetectedObject) -> bool:
    """Whether the relation `name` holds between two objects of an image, by their boxes.

    Left is the centre of the box, in front the lower edge, as all stand on one floor.
    """
    (left, _, right, bottom), (left2, _, right2, bottom2) = one.box, two.box
    if name == "left of":
        return left + right < left2 + right2
    if name == "in front of":
        return bottom > bottom2
    if name == "next to":
        gap = max(left, left2) - min(right, right2)
        width = (right - left + right2 - left2) / 2
        return gap < _NEAR * width and abs(bottom - bottom2) < _LEVEL
    raise UserError(f"unknown relation {name!r}: choose one of {', '.join(RELATIONS)}")


def relation_found(
    relation: Relation, asked: Sequence[CaptionObject], found: Sequence[DetectedObject]
) -> bool:
    """Whether two different objects of the asked classes were found that have the relation."""
    first, second = asked[relation.first].label, asked[relation.second].label
    return any(
        one is not two
        and (one.label, two.label) == (first, second)
        and relation_holds(relation.name, one, two)
        for one in found
        for two in found
    )
