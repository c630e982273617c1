"""What a caption of a scene says, and whether the objects found in an image agree with it."""

import re
from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

from ldm_jax.data.scenes import COLOURS, FLOORS, MATERIALS, SHAPES, SIZES
from ldm_jax.data.scenes.captions import IN_FRONT, RELATIONS, SKY_PHRASES
from ldm_jax.errors import UserError
from ldm_jax.evaluation.scene_objects import DetectedObject


class CaptionObject(NamedTuple):
    """An object that a caption names; None for what it does not say of it."""

    shape: str
    colour: str | None = None
    size: str | None = None
    material: str | None = None


class Relation(NamedTuple):
    """A relation between two objects of a caption, given by their index in it."""

    name: str  # one of RELATIONS
    first: int
    second: int


class CaptionScene(NamedTuple):
    """All that a caption says; None for what it does not mention."""

    objects: tuple[CaptionObject, ...]
    relations: tuple[Relation, ...]
    floor: str | None = None
    sky: str | None = None


_INVERSE = {"behind": "in front of", "right of": "left of"}  # not in our captions, but people's

# What a relation may be short of, in units of the world: the reader's error of two places.
TOLERANCE = 0.3
_MOST = 6  # objects of an image that are compared with a caption: its largest

_ANY = "|".join
_OBJECT = re.compile(
    rf"(?:\b({_ANY(SIZES)}) )?(?:\b({_ANY(MATERIALS)}) )?(?:\b({_ANY(COLOURS)}) )?"
    rf"\b({_ANY(SHAPES)})\b"
)
_FLOOR = re.compile(rf"\b({_ANY(FLOORS)}) floor\b")


def parse_caption(text: str) -> CaptionScene:
    """Reads 'a large shiny red cone in front of a small blue cube on a plain floor at night'.

    Every caption of `data/scenes/captions.py`, parts of them ('a ball', 'at night'), and 'right of'
    and 'behind' besides. Objects joined by 'and' have no relation.

    Raises:
      UserError: if it names no object, no floor and no sky.
    """
    words = " ".join(text.lower().split())
    named = list(_OBJECT.finditer(words))
    objects = tuple(
        CaptionObject(shape, colour, size, material)
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
    floor = _FLOOR.search(words)
    sky = next((name for name, phrase in SKY_PHRASES.items() if phrase in words), None)
    if not (objects or floor or sky):
        raise UserError(
            f"caption {text!r} says nothing of a scene: name an object ({', '.join(SHAPES)}), "
            f"a floor ({', '.join(FLOORS)}) or a sky ({', '.join(SKY_PHRASES.values())})"
        )
    return CaptionScene(objects, tuple(relations), floor and floor.group(1), sky)


def relation_holds(name: str, one: DetectedObject, two: DetectedObject) -> bool:
    """Whether the relation `name` holds between two objects, by their places in the world.

    The rules are those of the captions (`true_relations`), less TOLERANCE.
    """
    across, away = two.x - one.x, two.y - one.y
    touching = one.footprint + two.footprint
    if name == "left of":
        return across > touching - TOLERANCE
    if name == "in front of":
        return away >= IN_FRONT - TOLERANCE
    if name == "next to":
        return across**2 + away**2 < (touching + 1.0 + TOLERANCE) ** 2
    raise UserError(f"unknown relation {name!r}: choose one of {', '.join(RELATIONS)}")


def right_words(asked: CaptionObject, found: DetectedObject | None) -> dict[str, bool]:
    """Of each word that a caption says of an object, whether the one found agrees.

    A shape is right only if the object is sound, with the edges and the light of a true one.
    """
    said = {name: word for name, word in asked._asdict().items() if word is not None}
    if found is None:
        return dict.fromkeys(said, False)
    right = {name: getattr(found, name) == word for name, word in said.items()}
    return right | {"shape": right["shape"] and found.is_sound}


def looks_like(asked: CaptionObject, found: DetectedObject | None) -> bool:
    """Whether shape and colour are as asked, sound or not."""
    return found is not None and found.shape == asked.shape and asked.colour in (None, found.colour)


def match_objects(
    asked: CaptionScene, found: Sequence[DetectedObject]
) -> list[DetectedObject | None]:
    """The object found for each that is asked for, so that most words and relations are right.

    None where there are too few.
    """
    candidates = [*found[:_MOST], *[None] * len(asked.objects)]
    right = [[sum(right_words(one, two).values()) for two in candidates] for one in asked.objects]
    best, chosen = -1, ()
    for places in permutations(range(len(candidates)), len(asked.objects)):
        objects = [candidates[k] for k in places]
        score = sum(right[i][k] for i, k in enumerate(places))
        score += sum(right_relations(asked, objects))
        if score > best:
            best, chosen = score, objects
    return list(chosen)


def right_relations(asked: CaptionScene, objects: Sequence[DetectedObject | None]) -> list[bool]:
    """Of each relation of a caption, whether it holds between the objects found for it."""
    pairs = [(r.name, objects[r.first], objects[r.second]) for r in asked.relations]
    return [None not in pair and relation_holds(name, *pair) for name, *pair in pairs]
