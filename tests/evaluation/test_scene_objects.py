"""From pixels to objects: components, separation, and detections."""

import numpy as np
import pytest

from ldm_jax.data.scenes import CLASS_NAMES, ScenesConfig, ScenesSource
from ldm_jax.evaluation import scene_objects
from ldm_jax.evaluation.scene_objects import components, detect_objects, objects_in
from ldm_jax.evaluation.scene_reader import Reading


def image(*rows):
    """Letters to classes: '.' is nothing."""
    return np.array([[-1 if c == "." else ord(c) - ord("a") for c in row] for row in rows])


def pieces_by_flooding(classes):
    """Sets of pixels, found by walking from each to its neighbours."""
    left = {tuple(at) for at in np.argwhere(classes >= 0)}
    pieces = set()
    while left:
        start = left.pop()
        piece, todo = {start}, [start]
        while todo:
            i, j = todo.pop()
            for at in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                if at in left and classes[at] == classes[start]:
                    left.remove(at)
                    piece.add(at)
                    todo.append(at)
        pieces.add(frozenset(piece))
    return pieces


def pieces_of(labels):
    return {
        frozenset(map(tuple, np.argwhere(labels == number)))
        for number in np.unique(labels[labels >= 0])
    }


def test_pieces_touch_at_a_side_and_are_of_one_class():
    classes = image("aa.b", "a.ab", "..bb", "c..b")
    labels = components(classes[None])[0]
    assert labels[0, 0] == labels[0, 1] == labels[1, 0]
    assert labels[1, 2] not in (labels[0, 0], labels[1, 3])  # a corner, and another class
    assert labels[2, 2] == labels[0, 3] == labels[3, 3]
    assert len(np.unique(labels[labels >= 0])) == 4
    assert (labels[classes < 0] == -1).all()


def test_pieces_of_any_shape_agree_with_flooding():
    rng = np.random.default_rng(0)
    noise = rng.integers(-1, 2, (3, 24, 24))
    spiral = np.full((24, 24), -1)
    for k in range(0, 12, 2):
        spiral[k, k : 24 - k] = spiral[23 - k, k : 24 - k] = 0
        spiral[k : 24 - k, 23 - k] = 0
        spiral[k + 2 : 24 - k, k] = 0
        if k:
            spiral[k, k - 1] = spiral[k, k - 2] = 0
    batch = np.concatenate([noise, spiral[None]])
    labels = components(batch)
    for one, classes in zip(labels, batch, strict=True):
        assert pieces_of(one) == pieces_by_flooding(classes)
    used = [set(np.unique(one)) - {-1} for one in labels]
    assert not used[0] & used[1]  # numbers are unique in the whole batch


def test_nothing_has_no_pieces():
    assert (components(np.full((2, 3, 4), -1)) == -1).all()
    assert components(np.zeros((0, 4, 4), int)).shape == (0, 4, 4)
    assert detect_objects(np.zeros((0, 32, 32, 3), np.uint8)) == []


def reading(shape, colour, centre=None):
    """A reading of one image by hand; `shape` is -1 where there is floor."""
    shape = np.asarray(shape)
    n, side = 1, shape.shape[0]
    ticks = (np.arange(side) + 0.5) / side
    place = np.stack(np.meshgrid(ticks, ticks), axis=-1) * 0 + 0.5

    def everywhere(value, *more):
        return np.broadcast_to(np.float32(value), (n, side, side, *more))

    return Reading(
        semantic=np.where(shape < 0, 1, shape + 2).astype(np.uint8)[None],
        certainty=everywhere(0.75),
        shapes=np.eye(4, dtype=np.float32)[np.maximum(shape, 0)][None] * 0.6 + 0.1,
        colour=np.broadcast_to(np.uint8(colour), (n, side, side)),
        large=everywhere(2.0),
        shiny=everywhere(-1.0),
        centre=(place if centre is None else centre)[None],
        sound=everywhere(3.0),
        pose=everywhere((0.5, 5.0, 0.9, 0.7), 4),
        floor=np.zeros(n, np.uint8),
        sky=np.zeros(n, np.uint8),
        view=np.zeros((n, 7), np.float32),
    )


def test_an_object_is_summed_up():
    shape = np.full((64, 64), -1)
    shape[8:24, 16:32] = 1
    shape[50, 50] = 3  # a speck
    ((thing,),) = objects_in(reading(shape, colour=4))
    assert thing.name == "blue cube" and thing.label == CLASS_NAMES.index("blue cube")
    assert thing.box == (0.25, 0.125, 0.5, 0.375)
    assert thing.pixels == 256 and thing.certainty == pytest.approx(0.75 * 0.7, rel=1e-4)
    assert (thing.shape, thing.colour) == ("cube", "blue")
    assert (thing.size, thing.material) == ("large", "matte")
    assert thing.sound == 3 and thing.is_sound
    assert (thing.x, thing.y, thing.radius, thing.turn) == pytest.approx((0.5, 5.0, 0.9, 0.7))
    assert thing.footprint == pytest.approx(0.8 * 0.9 * 2**0.5)


def test_touching_objects_of_one_class_are_parted_by_where_they_think_their_middle_is():
    shape = np.full((64, 64), -1)
    shape[20:40, 10:50] = 0
    centre = np.full((64, 64, 2), 0.5)
    centre[:, :30] = (20 / 64, 30 / 64)
    centre[:, 30:] = (40 / 64, 30 / 64)
    centre += np.random.default_rng(0).normal(0, 0.01, centre.shape)
    (things,) = objects_in(reading(shape, 0, centre))
    assert sorted(thing.box for thing in things) == [
        (10 / 64, 20 / 64, 30 / 64, 40 / 64),
        (30 / 64, 20 / 64, 50 / 64, 40 / 64),
    ]
    # One object whose pixels are of slightly different opinions stays one.
    smeared = np.full((64, 64, 2), 0.5) + np.linspace(-0.06, 0.06, 64)[None, :, None]
    (things,) = objects_in(reading(shape, 0, smeared))
    assert len(things) == 1


def test_three_of_a_kind_in_a_row_are_parted_too():
    shape = np.full((64, 64), -1)
    shape[20:30, 5:59] = 2
    centre = np.full((64, 64, 2), 0.4)
    for k in range(3):
        centre[:, 5 + 18 * k : 23 + 18 * k, 0] = (14 + 18 * k) / 64
    centre += np.random.default_rng(0).normal(0, 0.01, centre.shape)
    (things,) = objects_in(reading(shape, 0, centre))
    assert sorted(thing.box[0] * 64 for thing in things) == [5, 23, 41]


def test_an_object_has_the_shape_that_most_of_it_seems_to_have():
    shape = np.full((64, 64), -1)
    shape[20:40, 20:40] = 1
    shape[20:25, 20:40] = 2  # its upper edge looks like a cylinder's
    ((thing,),) = objects_in(reading(shape, 0))
    assert thing.name == "red cube" and thing.pixels == 400


def test_a_patch_of_another_colour_that_means_the_same_object_is_part_of_it():
    shape = np.full((64, 64), -1)
    shape[20:40, 20:40] = 0
    colour = np.zeros((64, 64), np.uint8)
    colour[22:28, 22:28] = 7  # a highlight
    ((thing,),) = objects_in(reading(shape, colour))
    assert thing.name == "red ball" and thing.pixels == 400
    # A thing of its own means a centre of its own.
    centre = np.full((64, 64, 2), 0.5)
    centre[22:28, 22:28] = 25 / 64
    (things,) = objects_in(reading(shape, colour, centre))
    assert [thing.name for thing in things] == ["red ball", "white ball"]


def test_small_specks_are_no_objects_at_either_size():
    assert scene_objects.min_pixels(64) == 12
    assert scene_objects.min_pixels(32) == 3


@pytest.mark.parametrize("size", [32, 64])
def test_objects_of_fresh_renders_are_found(size):
    config = ScenesConfig(size, "full", validation_count=40)
    source = ScenesSource(config, "validation", 77)
    truths = [source.truth(i) for i in range(40)]
    found = detect_objects(np.stack([truth.image for truth in truths]))
    right = [
        sorted(thing.label for thing in things) == sorted(o.class_label for o in truth.objects)
        for things, truth in zip(found, truths, strict=True)
    ]
    assert np.mean(right) >= 0.6
    assert all(
        a.pixels >= b.pixels for things in found for a, b in zip(things, things[1:], strict=False)
    )
