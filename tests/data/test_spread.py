"""Which examples stand for all."""

import numpy as np

from ldm_jax.data.scenes import ScenesConfig, ScenesSource
from ldm_jax.data.source import ArraySource, Subset
from ldm_jax.data.spread import spread, turns


def source(labels=None, n=None, names="abcdefghij"):
    arrays = {"image": np.arange(len(labels) if n is None else n)}
    if labels is not None:
        arrays["class_label"] = np.asarray(labels)
    return ArraySource(arrays, names if labels is not None else None)


def test_none_is_there_twice_and_there_may_be_fewer():
    for data in (source(n=5), source([0, 0, 1, 1, 1])):
        assert sorted(spread(data, 16)) == list(range(5))
        assert len(set(spread(data, 3))) == 3


def test_the_choice_is_fixed_and_from_all_of_the_source():
    rows = spread(source(n=1000), 16)
    np.testing.assert_array_equal(rows, spread(source(n=1000), 16))
    assert rows.min() < 200 and rows.max() > 800


def test_classes_take_turns_whatever_their_order_and_size():
    labels = np.repeat(np.arange(10), [500, 3, 50, 40, 50, 50, 50, 50, 50, 50])
    chosen = labels[spread(source(labels), 64)]
    assert set(chosen[:10]) == set(range(10)) and set(chosen[10:20]) == set(range(10))
    assert np.bincount(chosen)[1] == 3 and np.bincount(chosen)[[0, 2, 9]].max() <= 7


def test_more_classes_than_examples():
    labels = np.repeat(np.arange(1000), 3)
    chosen = labels[spread(source(labels, names=map(str, range(1000))), 16)]
    assert len(set(chosen)) == 16 and chosen.max() > 500


def test_turns():
    assert turns(np.array([7, 7, 2, 7, 2])).tolist() == [0, 1, 0, 2, 1]


def test_labels_are_those_that_are_read():
    scenes = ScenesSource(ScenesConfig(32, count=6))
    for data in (scenes, Subset(scenes, [4, 1, 5]), source([3, 1, 2])):
        rows = [2, 0]
        np.testing.assert_array_equal(data.labels(rows), data.read(rows)["class_label"])
