"""Captions that say less: a model that learns from them understands 'a red cone' and 'at night'."""

import re
import zlib
from collections.abc import Mapping
from random import Random

from ldm_jax.data.scenes.captions import RELATIONS
from ldm_jax.data.scenes.world import COLOURS, MATERIALS, SIZES
from ldm_jax.errors import UserError

# How often a shorter caption names no object; and only one, of several.
_NO_OBJECT, _ONE_OBJECT = 0.25, 0.125
_CAPTION = re.compile(r"(.+) (on a \w+ floor) (.+)")
_BETWEEN = re.compile(rf" ({'|'.join((*RELATIONS, 'and'))}) ")


def shortened(caption: str, count: int) -> list[str]:
    """`count` captions that say less of the same scene; a pure function of the caption.

    Each leaves out some of: the floor, the sky, all objects, all objects but one and with them
    their relations, and of each object its size, material and colour. What is left is a caption of
    the same grammar, true of the same images, and not empty: 'a cone left of a blue ball at night'.

    Args:
      caption: a whole one, as `captions.caption` writes it.
    Raises:
      UserError: for any other text.
    """
    parts = _CAPTION.fullmatch(caption)
    if parts is None:
        raise UserError(f"{caption!r} is no whole caption of a scene: objects, floor and sky")
    # Objects and what stands between them, in turns.
    words, surroundings = _BETWEEN.split(parts[1]), parts.groups()[1:]
    rng = Random(zlib.crc32(caption.encode()))  # NumPy's draws single numbers far more slowly
    found: list[str] = []
    while len(found) < count:
        clauses = [*_objects(words, rng), *(one for one in surroundings if rng.random() < 0.5)]
        text = " ".join(clauses)
        if text not in ("", caption):
            found.append(text)
    return found


def _objects(words: list[str], rng: Random) -> list[str]:
    """What is said of the objects: nothing, or of one, or of all with their relations."""
    draw = rng.random()
    if draw < _NO_OBJECT:
        return []
    if draw < _NO_OBJECT + _ONE_OBJECT:
        words = [rng.choice(words[::2])]
    rates = {}  # What a caption says of one object, it mostly says of the others.
    for kind in (SIZES, MATERIALS, COLOURS):
        rates |= dict.fromkeys(kind, rng.choice((0.0, 0.5, 1.0)))
    return [_fewer_words(part, rates, rng) for part in words]


def _fewer_words(text: str, rates: Mapping[str, float], rng: Random) -> str:
    return " ".join(word for word in text.split() if rng.random() < rates.get(word, 1.0))
