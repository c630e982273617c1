"""Saturation is that of HSV, and does not depend on brightness."""

import colorsys

import numpy as np

from ldm_jax.evaluation.saturation import saturation


def test_it_is_that_of_hsv():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), np.uint8)
    pixels[0, 0] = 0
    expected = [
        np.mean([colorsys.rgb_to_hsv(*(p / 255))[1] for p in image.reshape(-1, 3)])
        for image in pixels
    ]
    np.testing.assert_allclose(saturation(pixels), expected)


def test_brightness_does_not_matter_and_grey_has_none():
    colour = np.broadcast_to(np.uint8([200, 100, 40]), (1, 2, 2, 3))
    assert saturation(colour) == saturation(colour // 2) == 0.8
    assert saturation(np.full((1, 2, 2, 3), 70, np.uint8)) == 0
