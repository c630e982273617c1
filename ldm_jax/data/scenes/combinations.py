"""Combinations of words, such as 'cyan cone at night', that training images can be kept free of."""

from ldm_jax.data.scenes.world import COLOURS, FLOORS, MATERIALS, SHAPES, SIZES, SKIES
from ldm_jax.errors import UserError

OBJECT_WORDS = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "material": MATERIALS}
SCENE_WORDS = {"floor": FLOORS, "sky": SKIES}
# Words of captions that say nothing by themselves.
_FILLING = {"a", "an", "the", "on", "floor", "by", "at", "under", "sky"}


def parse_combination(text: str) -> dict[str, str]:
    """'cyan cone at night' -> {'colour': 'cyan', 'shape': 'cone', 'sky': 'night'}.

    Words of one object, of the floor and of the sky, in any order.

    Raises:
      UserError: for an unknown word, two words of one kind, fewer than two words that say
        something.
    """
    known = {word: kind for kind, own in (OBJECT_WORDS | SCENE_WORDS).items() for word in own}
    found: dict[str, str] = {}
    for word in text.lower().split():
        if word in _FILLING:
            continue
        if word not in known:
            raise UserError(f"{text!r}: unknown word {word!r}; scenes have {', '.join(known)}")
        if known[word] in found:
            raise UserError(f"{text!r} names two of one kind: a combination is of one object")
        found[known[word]] = word
    if len(found) < 2:
        raise UserError(f"{text!r} is no combination: at least two words of scenes are needed")
    return found


def has_combination(asked, combination: dict[str, str]) -> bool:
    """Whether a scene, or what a caption says of one, has the words, those of objects in one."""
    of_scene = [(k, word) for k, word in combination.items() if k in SCENE_WORDS]
    of_object = [(k, word) for k, word in combination.items() if k in OBJECT_WORDS]
    return all(getattr(asked, k) == word for k, word in of_scene) and any(
        all(getattr(solid, k) == word for k, word in of_object) for solid in asked.objects
    )
