"""Which held-out images are shown and judged: spread over classes first, then at random."""

import numpy as np

from ldm_jax.commands.train.held_out import HeldOut
from ldm_jax.data.source import ArraySource


class Classes(ArraySource):
    """30 images of class 0 and 10 of class 1; each is its own number."""

    class_names = ("many", "few")

    def __init__(self):
        images = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones(
            (1, 8, 8, 3), np.uint8
        )
        super().__init__({"image": images})

    def labels(self, indices):
        return (np.asarray(indices) >= 30).astype(np.int32)


def numbers(images):
    return images[:, 0, 0, 0].tolist()


def test_the_first_take_turns_and_the_others_are_as_all():
    source = Classes()
    chosen = numbers(HeldOut.read(source, None, 20, 4).truth["image"])
    assert len(set(chosen)) == 20
    assert sorted(number >= 30 for number in chosen[:4]) == [False, False, True, True]
    assert sum(number >= 30 for number in chosen[4:]) <= 7  # a quarter of 16, but for chance
    assert chosen[:4] == numbers(HeldOut.read(source, None, 4).truth["image"])


def test_the_others_are_all_that_is_left():
    source = Classes()
    chosen = numbers(HeldOut.read(source, None, 20, 4).truth["image"])
    others = numbers(HeldOut.others(source, 20, 4))
    assert sorted(chosen + others) == list(range(40))
    assert len(HeldOut.others(source, 20, 4, most=5)) == 5
    assert HeldOut.others(source, 40, 4).shape == (0, 8, 8, 3)
