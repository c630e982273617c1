"""Captions are read back into words and relations, and compared with what is found."""

import pytest

from ldm_jax.data.scenes import ScenesConfig, ScenesSource
from ldm_jax.data.scenes.captions import true_relations
from ldm_jax.errors import UserError
from ldm_jax.evaluation.scene_captions import (
    RELATIONS,
    CaptionObject,
    CaptionScene,
    Relation,
    match_objects,
    parse_caption,
    relation_holds,
    right_relations,
    right_words,
)
from ldm_jax.evaluation.scene_objects import DetectedObject


def found(name, x=0.0, y=5.0, *, size="small", material="matte", sound=5.0):
    colour, shape = name.split()
    box = (0.2, 0.2, 0.4, 0.4)
    return DetectedObject(shape, colour, size, material, box, 100, 0.9, sound, x, y, 0.5, 0.8)


def asked(name, size=None, material=None):
    colour, shape = name.split()
    return CaptionObject(shape, colour, size, material)


def test_a_caption_is_read_whole():
    scene = parse_caption(
        "a large shiny red cone in front of a small blue cube and a small white ball "
        "next to a large matte red cone on a checkered floor under an overcast sky"
    )
    assert scene.objects == (
        asked("red cone", "large", "shiny"),
        asked("blue cube", "small"),
        asked("white ball", "small"),
        asked("red cone", "large", "matte"),
    )
    assert scene.relations == (Relation("in front of", 0, 1), Relation("next to", 2, 3))
    assert (scene.floor, scene.sky) == ("checkered", "overcast")


@pytest.mark.parametrize(
    ("text", "relations"),
    [
        ("a red cone and a blue cube at night", ()),
        ("a red cone", ()),
        ("a red cone left of a blue cube", (Relation("left of", 0, 1),)),
        ("a red cone to the right of a blue cube", (Relation("left of", 1, 0),)),
        ("A red  cone behind a blue cube", (Relation("in front of", 1, 0),)),
        ("a red cone floating over a blue cube", ()),
    ],
)
def test_relations_people_write(text, relations):
    scene = parse_caption(text)
    assert scene.relations == relations
    assert scene.objects[0] == asked("red cone")


@pytest.mark.parametrize(
    ("text", "scene"),
    [
        ("a ball", CaptionScene((CaptionObject("ball"),), ())),
        ("a large cube", CaptionScene((CaptionObject("cube", size="large"),), ())),
        ("at night", CaptionScene((), (), sky="night")),
        ("a wooden floor", CaptionScene((), (), floor="wooden")),
        ("red ball", CaptionScene((asked("red ball"),), ())),
    ],
)
def test_a_part_of_a_caption_is_read_too(text, scene):
    assert parse_caption(text) == scene


def test_every_caption_of_the_scenes_is_read_as_it_was_meant():
    source = ScenesSource(ScenesConfig(8, "full", 150), "train", 5)
    names = set()
    for i in range(150):
        world = source.scene(i)
        scene = parse_caption(source.texts([i])[0][0])
        assert (scene.floor, scene.sky) == (world.floor, world.sky)

        # The caption names every object once, in an order of its own.
        def words(thing):
            return thing.shape, thing.colour, thing.size

        things = sorted(map(words, world.objects))
        assert things == sorted(map(words, scene.objects))
        if len(things) == len(set(things)):  # then each word can be traced to its object
            meant = {words(thing): thing for thing in world.objects}
            for thing in scene.objects:
                assert thing.material in (None, meant[words(thing)].material)
            for name, *pair in scene.relations:
                first, second = (meant[words(scene.objects[k])] for k in pair)
                true = [(word, id(a), id(b)) for word, a, b in true_relations(first, second)]
                assert (name, id(first), id(second)) in true or (
                    name == "next to" and name in [word for word, *_ in true]
                )
        names |= {relation.name for relation in scene.relations}
    assert names == set(RELATIONS)


def test_relations_are_judged_by_places_in_the_world():
    left, right = found("red ball", -1.0), found("blue ball", 0.5)
    far = found("pink ball", 2.0, 7.0)
    assert relation_holds("left of", left, right) and not relation_holds("left of", right, left)
    assert relation_holds("in front of", left, far) and not relation_holds("in front of", far, left)
    assert not relation_holds("in front of", left, right)
    assert relation_holds("next to", left, right) and relation_holds("next to", right, left)
    assert not relation_holds("next to", left, far)
    with pytest.raises(UserError, match="choose one of"):
        relation_holds("above", left, right)


def test_what_is_true_of_a_scene_holds_when_it_is_read_exactly():
    source = ScenesSource(ScenesConfig(8, "full", 80), "train", 6)
    for i in range(80):
        things = [
            DetectedObject(
                s.shape, s.colour, s.size, s.material, (0, 0, 1, 1), 9, 1.0, 5.0,
                s.x, s.y, s.radius, s.turn,
            )
            for s in source.scene(i).objects
        ]  # fmt: skip
        scene = parse_caption(source.texts([i])[0][0])
        objects = match_objects(scene, things)
        assert all(
            all(right_words(a, b).values()) for a, b in zip(scene.objects, objects, strict=True)
        )
        assert all(right_relations(scene, objects))


def test_each_word_of_an_object_is_judged():
    want = asked("red ball", "large", "shiny")
    assert right_words(want, found("red cube", size="large")) == {
        "shape": False, "colour": True, "size": True, "material": False,
    }  # fmt: skip
    assert right_words(asked("red ball"), found("red ball")) == {"shape": True, "colour": True}
    # A ball that does not look like one is none; its colour is right all the same.
    damaged = found("red ball", sound=-6.0)
    assert right_words(asked("red ball"), damaged) == {"shape": False, "colour": True}
    assert right_words(CaptionObject("ball"), None) == {"shape": False}


def test_objects_are_matched_so_that_most_is_right():
    scene = parse_caption("a red ball left of a red ball")
    left, right = found("red ball", -1.0), found("red ball", 1.0)
    assert match_objects(scene, [right, left]) == [left, right]
    assert right_relations(scene, [left, right]) == [True]
    # Two of a kind must be two.
    assert match_objects(scene, [left]).count(None) == 1
    assert right_relations(scene, match_objects(scene, [left])) == [False]
    cube = found("red cube", 1.0)
    assert match_objects(parse_caption("a ball"), [cube, left]) == [left]
    assert match_objects(parse_caption("at night"), [cube]) == []


def test_a_caption_that_says_nothing_of_a_scene_is_refused():
    for text in ("a photograph of a horse", "red and large", ""):
        with pytest.raises(UserError, match="says nothing of a scene"):
            parse_caption(text)
