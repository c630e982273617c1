"""PSNR against its definition."""

import numpy as np

from ldm_jax.evaluation.distortion import psnr


def test_psnr_of_a_constant_error_is_known_in_closed_form():
    x = np.full((2, 4, 4, 3), 100, np.uint8)
    y = x + np.array([1, 16], np.uint8)[:, None, None, None]
    np.testing.assert_allclose(psnr(x, y), [48.1308, 24.0484], atol=1e-4)


def test_psnr_does_not_wrap_around_in_bytes():
    black, white = np.zeros((1, 2, 2, 1), np.uint8), np.full((1, 2, 2, 1), 255, np.uint8)
    assert psnr(black, white) == psnr(white, black) == 0.0


def test_psnr_of_equal_pictures_is_infinite():
    x = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    assert np.all(np.isinf(psnr(x, x)))
