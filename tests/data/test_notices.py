"""What is said of images before they train."""

import pytest

from ldm_jax.data.images import ImageConfig
from ldm_jax.data.notices import cut_off, only_8_bits, some, unused_bits


def test_some_are_evenly_spaced():
    assert some(0) == [] and some(3) == [0, 1, 2] and some(101, 3) == [0, 50, 100]


def test_nothing_is_said_where_nothing_is_cut():
    assert cut_off([(8, 8), (500, 498)], ImageConfig()) == []
    assert cut_off([(8, 80)], ImageConfig(fit="pad")) == []
    assert cut_off([(8, 8)], ImageConfig(crop="random", min_crop=1.0)) == []


def test_random_crops_of_oblong_images_cut_twice():
    said = cut_off([(10, 40), (10, 10)], ImageConfig(crop="random", min_crop=0.5))
    assert "50% of the images are not square" in said[0] and "75% of each" in said[0]
    assert "50% to 100% of the short side" in said[1]


@pytest.mark.parametrize(
    "highest, white",
    [([4000, 17], 4095), ([255], 255), ([256], 1023), ([16383], 16383), ([20000], None)],
)
def test_bits_that_are_not_in_use_are_said(highest, white):
    said = unused_bits([*highest, None], ImageConfig())
    assert bool(said) == (white is not None)
    assert white is None or f"--data.value-range 0 {white} " in said
    assert unused_bits(highest, ImageConfig(value_range=(0, 100))) == ""


def test_images_of_8_bits_have_no_bits_to_spare():
    assert unused_bits([None, None], ImageConfig()) == unused_bits([], ImageConfig()) == ""


def test_colour_of_which_half_the_bits_are_read_is_said():
    assert only_8_bits(0, 9) == ""
    assert only_8_bits(2, 9).startswith("2 of 9 images are in colour with 16 bits")
