"""Captions are read back into objects and relations, and relations are judged by boxes."""

import pytest

from ldm_jax.data.scenes import CLASS_NAMES, ScenesSource
from ldm_jax.data.scenes.captions import class_label, true_relations
from ldm_jax.errors import UserError
from ldm_jax.evaluation.scene_captions import (
    RELATIONS,
    AskedObject,
    Relation,
    parse_caption,
    relation_holds,
    shows_relation,
)
from ldm_jax.evaluation.scene_objects import SeenObject


def seen(name, box):
    return SeenObject(CLASS_NAMES.index(name), box, 100, 0.9, "small", "matte")


def asked(name, size=None, material=None):
    return AskedObject(CLASS_NAMES.index(name), size, material)


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


def test_every_caption_of_the_scenes_is_read_as_it_was_meant():
    source = ScenesSource(8, "full", 300, seed=5)
    names = set()
    for i in range(300):
        world = source.scene(i)
        scene = parse_caption(source.read([i])["caption"][0])
        # The caption names every object once, in an order of its own.
        things = sorted((class_label(thing), thing.size) for thing in world.objects)
        assert things == sorted((thing.label, thing.size) for thing in scene.objects)
        if len(things) == len(set(things)):  # then each word can be traced to its object
            meant = {(class_label(thing), thing.size): thing for thing in world.objects}
            for thing in scene.objects:
                own = meant[thing.label, thing.size]
                assert thing.material in (None, own.material)
            for name, *pair in scene.relations:
                first, second = (meant[scene.objects[k].label, scene.objects[k].size] for k in pair)
                true = [(word, id(a), id(b)) for word, a, b in true_relations(first, second)]
                assert (name, id(first), id(second)) in true or (
                    name == "next to" and name in [word for word, *_ in true]
                )
        names |= {relation.name for relation in scene.relations}
    assert names == set(RELATIONS)


def test_relations_are_judged_by_boxes():
    left, right = seen("red ball", (0.1, 0.4, 0.3, 0.6)), seen("blue ball", (0.35, 0.4, 0.55, 0.6))
    far = seen("pink ball", (0.8, 0.2, 0.9, 0.3))
    assert relation_holds("left of", left, right) and not relation_holds("left of", right, left)
    assert relation_holds("in front of", left, far) and not relation_holds("in front of", far, left)
    assert not relation_holds("in front of", left, right)
    assert relation_holds("next to", left, right) and relation_holds("next to", right, left)
    assert not relation_holds("next to", left, far)
    with pytest.raises(UserError, match="choose one of"):
        relation_holds("above", left, right)


def test_a_relation_needs_two_objects_of_the_asked_classes():
    left, right = seen("red ball", (0.1, 0.4, 0.3, 0.6)), seen("red ball", (0.5, 0.4, 0.7, 0.6))
    twins = (asked("red ball"), asked("red ball"))
    assert shows_relation(Relation("left of", 0, 1), twins, [right, left])
    assert not shows_relation(Relation("left of", 0, 1), twins, [left])
    assert not shows_relation(
        Relation("left of", 0, 1), (asked("red ball"), asked("red cube")), [left, right]
    )


def test_a_caption_without_an_object_is_refused():
    for text in ("a wooden floor at night", "a red and large ball", ""):
        with pytest.raises(UserError, match="names no object"):
            parse_caption(text)
