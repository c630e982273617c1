"""The words about a scene: class names, captions, and parsing a caption.

A caption uses lower-case words of a small closed vocabulary, and everything it says is true.
"""

from itertools import permutations

from ldm_jax.data.scenes.world import (
    COLOURS,
    FLOORS,
    MATERIALS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
)
from ldm_jax.errors import UserError

CLASS_NAMES = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
IN_FRONT = 1.2  # least difference in depth for the relation 'in front of'

SKY_PHRASES = {
    "day": "by day",
    "sunset": "at sunset",
    "overcast": "under an overcast sky",
    "night": "at night",
}
RELATIONS = ("in front of", "left of", "next to")

VOCABULARY = tuple(
    sorted(
        {"a", "an", "and", "on", "floor", *SHAPES, *COLOURS, *SIZES, *MATERIALS, *FLOORS}
        | {word for phrase in (*SKY_PHRASES.values(), *RELATIONS) for word in phrase.split()}
    )
)


def class_label(solid: SceneObject) -> int:
    """The class of an object: its index in `CLASS_NAMES`."""
    return SHAPES.index(solid.shape) * len(COLOURS) + COLOURS.index(solid.colour)


def caption(scene: Scene) -> str:
    """One sentence about the whole scene, a pure function of it.

    'a large shiny red cone in front of a small blue cube on a checkered floor at night'
    """
    choice = scene.wording
    order = list(permutations(range(len(scene.objects))))
    objects = [scene.objects[i] for i in order[(choice >> 4) % len(order)]]
    words = []
    while objects:
        pair, objects = objects[:2], objects[2:]
        if words:
            words.append("and")
        if len(pair) == 2:
            relations = true_relations(*pair)
            relation, *pair = relations[(choice >> 9) % len(relations)]
            words += [_describe(scene, pair[0]), relation]
        words.append(_describe(scene, pair[-1]))
    return " ".join([*words, "on a", scene.floor, "floor", SKY_PHRASES[scene.sky]])


def _describe(scene, solid) -> str:
    # The material is mentioned half of the time, as real captions are incomplete.
    mention = scene.wording >> scene.objects.index(solid) & 1
    words = (solid.size, *([solid.material] if mention else []), solid.colour, solid.shape)
    return " ".join(("a", *words))


def true_relations(
    one: SceneObject, two: SceneObject
) -> list[tuple[str, SceneObject, SceneObject]]:
    """All (relation, first, second) that hold between two objects; 'and' when none does."""
    near, far = sorted((one, two), key=lambda solid: solid.y)
    if far.y - near.y >= IN_FRONT:
        return [("in front of", near, far)]
    left, right = sorted((one, two), key=lambda solid: solid.x)
    across, touching = right.x - left.x, one.footprint + two.footprint
    relations = []
    if across > touching:
        relations.append(("left of", left, right))
    if across**2 + (far.y - near.y) ** 2 < (touching + 1.0) ** 2:
        relations.append(("next to", one, two))
    return relations or [("and", one, two)]


def read_caption(text: str) -> tuple[int, int]:
    """(shape, colour) of the object named first, as indices in `SHAPES` and `COLOURS`."""
    words = text.split()
    shape = next((SHAPES.index(word) for word in words if word in SHAPES), None)
    colour = next((COLOURS.index(word) for word in words if word in COLOURS), None)
    if shape is None or colour is None:
        raise UserError(
            f"caption {text!r} names no object: a shape ({', '.join(SHAPES)}) and "
            f"a colour ({', '.join(COLOURS)}) are needed"
        )
    return shape, colour
