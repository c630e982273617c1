"""Parses captions of scenes into objects and their spatial relations."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from ldm_jax.data.scenes import CLASS_NAMES, COLOURS, MATERIALS, SHAPES, SIZES
from ldm_jax.errors import UserError
from ldm_jax.evaluation.scene_objects import SeenObject


class AskedObject(NamedTuple):
    """An object of a caption; None: the caption does not specify it."""

    label: int  # index in CLASS_NAMES
    size: str | None
    material: str | None


class Relation(NamedTuple):
    """A spatial relation of two objects of a caption, given by their indices."""

    name: str  # one of RELATIONS
    first: int
    second: int


class AskedScene(NamedTuple):
    """The objects of a caption and their relations."""

    objects: tuple[AskedObject, ...]
    relations: tuple[Relation, ...]


RELATIONS = ("in front of", "left of", "next to")
_INVERSE = {
    "behind": "in front of",
    "right of": "left of",
}  # not in captions of `data/scenes`, but users write them

_ANY = "|".join
_OBJECT = re.compile(
    rf"(?:\b({_ANY(SIZES)}) )?(?:\b({_ANY(MATERIALS)}) )?\b({_ANY(COLOURS)}) ({_ANY(SHAPES)})\b"
)

# "Next to" in the image, fitted to the true renders of captions that say it.
_NEXT_GAP = 0.9  # maximum gap, in mean widths of the two boxes
_NEXT_HEIGHT = 0.16  # maximum difference of the lower edges, in sides of the image


def parse_caption(text: str) -> AskedScene:
    """Objects and relations of 'a large shiny red cone in front of a small blue cube on a ...'.

    Accepts every caption of `data/scenes/captions.py`, and also 'right of' and 'behind'. Objects
    joined by 'and' have no relation.

    Raises:
      UserError: no object is named by colour and shape.
    """
    words = " ".join(text.lower().split())
    named = list(_OBJECT.finditer(words))
    if not named:
        raise UserError(
            f"caption {text!r} names no object: a colour ({', '.join(COLOURS)}) and "
            f"a shape ({', '.join(SHAPES)}) are needed"
        )
    objects = tuple(
        AskedObject(CLASS_NAMES.index(f"{colour} {shape}"), size, material)
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
    return AskedScene(objects, tuple(relations))


def relation_holds(name: str, one: SeenObject, two: SeenObject) -> bool:
    """Whether the relation `name` holds between two objects of an image, by their boxes.

    "Left of" compares the centres of the boxes; "in front of" compares the lower edges, since all
    objects stand on one floor.
    """
    (left, _, right, bottom), (left2, _, right2, bottom2) = one.box, two.box
    if name == "left of":
        return left + right < left2 + right2
    if name == "in front of":
        return bottom > bottom2
    if name == "next to":
        gap = max(left, left2) - min(right, right2)
        width = (right - left + right2 - left2) / 2
        return gap < _NEXT_GAP * width and abs(bottom - bottom2) < _NEXT_HEIGHT
    raise UserError(f"unknown relation {name!r}: choose one of {', '.join(RELATIONS)}")


def shows_relation(
    relation: Relation, asked: Sequence[AskedObject], found: Sequence[SeenObject]
) -> bool:
    """Whether two different objects of the requested classes satisfy the relation."""
    first, second = asked[relation.first].label, asked[relation.second].label
    return any(
        one is not two
        and (one.label, two.label) == (first, second)
        and relation_holds(relation.name, one, two)
        for one in found
        for two in found
    )
