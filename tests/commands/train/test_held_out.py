"""Held-out examples of previews, the last figure and what is judged."""

import numpy as np

from ldm_jax.commands.train.held_out import HeldOut
from ldm_jax.conditioning.class_label import ClassLabels
from ldm_jax.data.source import ArraySource
from ldm_jax.model.conditions import ClassCondition, InpaintingCondition

NAMES = [f"class {i}" for i in range(10)]


def by_class(each):
    """A split folder by class: all images of the first class, then those of the second, ..."""
    labels = np.repeat(np.arange(10, dtype=np.int32), each)
    images = np.broadcast_to(labels[:, None, None, None].astype(np.uint8), (len(labels), 8, 8, 3))
    return ArraySource({"image": images, "class_label": labels}, NAMES)


def test_a_folder_by_class_shows_all_of_its_classes():
    held_out = HeldOut.read(by_class(50), ClassCondition(ClassLabels(NAMES)), 16)
    assert set(held_out.conditions["condition"]) == set(range(10)) and held_out.n == 16
    np.testing.assert_array_equal(
        held_out.truth["image"][:, 0, 0, 0], held_out.truth["class_label"]
    )
    figure = held_out.figure(held_out.truth["image"])
    assert set(np.unique(figure)) >= set(range(10))


def test_there_are_fewer_images_rather_than_the_same_ones_again():
    held_out = HeldOut.read(by_class(1), ClassCondition(ClassLabels(NAMES)), 256)
    assert held_out.n == 10 and len(set(held_out.truth["class_label"])) == 10
    one = HeldOut.read(by_class(1), InpaintingCondition(2, "box", None), 256)
    assert one.n == 10 and one.conditions["mask"].shape == (10, 8, 8)


def test_without_a_condition_samples_need_no_held_out_images():
    held_out = HeldOut.read(by_class(1), None, 16)
    assert held_out.n == 16 and len(held_out.truth["image"]) == 10


def unequal():
    """30 images of class 0 and 10 of class 1; the pixels of each are its number."""
    images = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    labels = np.repeat(np.array([0, 1], np.int32), [30, 10])
    return ArraySource({"image": images, "class_label": labels}, ["many", "few"])


def numbers(images):
    return images[:, 0, 0, 0].tolist()


def test_the_first_take_turns_and_the_others_are_drawn_from_all_that_is_left():
    source = unequal()
    chosen = numbers(HeldOut.read(source, None, 20, 4).truth["image"])
    assert len(set(chosen)) == 20
    assert sorted(number >= 30 for number in chosen[:4]) == [False, False, True, True]
    assert sum(number >= 30 for number in chosen[4:]) <= 7  # a quarter of 16, but for chance
    assert chosen[:4] == numbers(HeldOut.read(source, None, 4).truth["image"])


def test_the_other_images_are_those_that_were_left_out():
    source = unequal()
    chosen = numbers(HeldOut.read(source, None, 20, 4).truth["image"])
    assert sorted(chosen + numbers(HeldOut.others(source, 20, 4))) == list(range(40))
    assert len(HeldOut.others(source, 20, 4, most=5)) == 5
    assert HeldOut.others(source, 40, 4).shape == (0, 8, 8, 3)
