"""Captions of scenes that lose clauses are grammatical and true."""

import re

import pytest

from ldm_jax.data.scenes import COLOURS, MATERIALS, SHAPES, SIZES, ScenesConfig, ScenesSource
from ldm_jax.data.scenes import captions as whole_captions
from ldm_jax.data.scenes.clauses import shortened
from ldm_jax.errors import UserError

_OBJECT = rf"a(?: (?:{'|'.join((*SIZES, *MATERIALS, *COLOURS))}))* (?:{'|'.join(SHAPES)})"
_BETWEEN = "|".join((*whole_captions.RELATIONS, "and"))
_SKIES = "|".join(whole_captions.SKY_PHRASES.values())
GRAMMAR = re.compile(
    rf"(?:(?P<objects>{_OBJECT}(?: (?:{_BETWEEN}) {_OBJECT})*)(?: |$))?"
    rf"(?:on a (?P<floor>\w+) floor(?: |$))?(?P<sky>{_SKIES})?"
)


@pytest.fixture(scope="module")
def scenes():
    """The scenes of two levels, with their captions."""
    sources = [ScenesSource(ScenesConfig(32, level, 60)) for level in ("pair", "full")]
    return [(one.scene(i), one.texts([i])[0][0]) for one in sources for i in range(60)]


def is_true(words, solid):
    return set(words[1:]) <= {solid.size, solid.material, solid.colour, solid.shape}


def holds(between, one, two):
    """Whether 'ONE between TWO' is true of two solids."""
    return between == "and" or (between, one, two) in whole_captions.true_relations(one, two)


def could_be(objects, between, solids, last=None):
    """Whether all objects and relations can be given a solid each, so that all is true."""
    if not objects:
        return True
    return any(
        is_true(objects[0], solid)
        and (last is None or holds(between[0], last, solid))
        and could_be(
            objects[1:],
            between[1:] if last is not None else between,
            [one for one in solids if one is not solid],
            solid,
        )
        for solid in solids
    )


def test_what_is_left_is_grammatical_true_and_less(scenes):
    for scene, caption in scenes:
        for text in shortened(caption, 24):
            found = GRAMMAR.fullmatch(text)
            assert found and text and not text.endswith(" "), text
            assert len(text) < len(caption)
            assert found["floor"] in (None, scene.floor)
            assert found["sky"] in (None, whole_captions.SKY_PHRASES[scene.sky])
            parts = re.split(f" ({_BETWEEN}) ", found["objects"] or "")
            objects = [part.split() for part in parts[::2] if part]
            assert could_be(objects, parts[1::2], scene.objects), (text, caption)


def test_every_clause_is_lost_by_itself_and_with_others():
    caption = "a large shiny red cone left of a small blue cube on a wooden floor at night"
    texts = set(shortened(caption, 6000))
    assert texts > {
        "at night",
        "on a wooden floor",
        "on a wooden floor at night",
        "a red cone",
        "a cube",
        "a small blue cube at night",
        "a cone left of a cube",
        "a red cone left of a blue cube",
        "a large cone left of a blue cube on a wooden floor",
        "a large shiny red cone left of a small blue cube at night",
    }
    assert not {"", caption} & texts


def test_the_captions_depend_on_the_caption_alone():
    one, two = (f"a small {colour} ball on a plain floor by day" for colour in ("red", "blue"))
    assert shortened(one, 20) == shortened(one, 30)[:20]
    assert [text.replace("red", "blue") for text in shortened(one, 20)] != shortened(two, 20)


@pytest.mark.parametrize("text", ["", "a red cone", "on a plain floor at night"])
def test_a_text_that_is_no_whole_caption_is_refused(text):
    with pytest.raises(UserError, match="no whole caption"):
        shortened(text, 1)
