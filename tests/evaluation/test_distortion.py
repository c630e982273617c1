"""PSNR and SSIM against their definitions."""

import numpy as np
import pytest

from ldm_jax.errors import UserError
from ldm_jax.evaluation.distortion import psnr, ssim


def test_psnr_of_a_constant_error_is_known_in_closed_form():
    x = np.full((2, 4, 4, 3), 100, np.uint8)
    y = x + np.array([1, 16], np.uint8)[:, None, None, None]
    np.testing.assert_allclose(psnr(x, y), [48.1308, 24.0484], atol=1e-4)


def test_psnr_does_not_wrap_around_in_bytes():
    black, white = np.zeros((1, 2, 2, 1), np.uint8), np.full((1, 2, 2, 1), 255, np.uint8)
    assert psnr(black, white) == psnr(white, black) == 0.0


def test_psnr_of_equal_images_is_infinite():
    x = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    assert np.all(np.isinf(psnr(x, x)))


def waves() -> tuple[np.ndarray, np.ndarray]:
    """An image [24, 20, 3] made without chance, and a paler, striped one like it."""
    i, j = np.mgrid[:24, :20]
    x = (7 * i[..., None] + 5 * j[..., None] + 40 * np.arange(3)) % 256
    y = np.clip(x * 3 // 4 + 20 + 11 * ((i + 2 * j)[..., None] % 3), 0, 255)
    return x.astype(np.uint8), y.astype(np.uint8)


def ssim_by_its_definition(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004, Eqs. (13) to (17), one place and one channel after the other."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    weights = weights / weights.sum()
    values = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            for channel in range(x.shape[2]):
                a = x[top : top + 11, left : left + 11, channel].astype(float)
                b = y[top : top + 11, left : left + 11, channel].astype(float)
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                variance_a = (weights * (a - mean_a) ** 2).sum()
                variance_b = (weights * (b - mean_b) ** 2).sum()
                covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
                luminance = (2 * mean_a * mean_b + 6.5025) / (mean_a**2 + mean_b**2 + 6.5025)
                structure = (2 * covariance + 58.5225) / (variance_a + variance_b + 58.5225)
                values.append(luminance * structure)
    return float(np.mean(values))


def test_ssim_agrees_with_its_definition():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (2, 13, 16, 3)).astype(np.uint8)
    y = np.clip(x + rng.normal(0, [[[[20]]], [[[80]]]], x.shape), 0, 255).astype(np.uint8)
    expected = [ssim_by_its_definition(*pair) for pair in zip(x, y, strict=True)]
    np.testing.assert_allclose(ssim(x, y), expected, rtol=0, atol=1e-12)


def test_ssim_agrees_with_scikit_image():
    # scikit-image 0.26.0: structural_similarity(x, y, gaussian_weights=True, sigma=1.5,
    # use_sample_covariance=False, data_range=255, channel_axis=-1), which pads the image and
    # then averages over the same places as ours.
    x, y = waves()
    np.testing.assert_allclose(ssim(x[None], y[None]), [0.791925102267867], rtol=0, atol=1e-12)


def test_ssim_is_one_for_equal_images_symmetric_and_negative_for_opposites():
    x, y = waves()
    pair, other = np.stack([x, y]), np.stack([y, x])
    assert np.all(ssim(pair, pair) == 1)
    assert ssim(pair, other)[0] == pytest.approx(ssim(pair, other)[1], abs=1e-15)
    board = np.indices((16, 16)).sum(0)[None, :, :, None] % 2 * 255
    assert ssim(board.astype(np.uint8), (255 - board).astype(np.uint8))[0] < -0.9


def test_ssim_of_two_constants_is_the_luminance_term_alone():
    black, white = np.zeros((1, 11, 11, 1), np.uint8), np.full((1, 11, 11, 1), 255, np.uint8)
    assert ssim(black, white)[0] == pytest.approx(0.01**2 / (1 + 0.01**2), rel=1e-9)


def test_ssim_refuses_what_its_window_does_not_fit_and_unlike_shapes():
    with pytest.raises(UserError, match="at least 11x11 pixels, got 10x12"):
        ssim(np.zeros((1, 12, 10, 3), np.uint8), np.zeros((1, 12, 10, 3), np.uint8))
    with pytest.raises(UserError, match="one shape"):
        ssim(np.zeros((1, 12, 12, 3), np.uint8), np.zeros((1, 12, 12, 1), np.uint8))
