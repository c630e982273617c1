"""Masks for in-painting: what is drawn, how much it covers, and the images made with it."""

import numpy as np
import pytest

from ldm_jax.data.masks import (
    _add_piece,
    coverage,
    masked_image,
    mean_fill,
    random_mask,
    thinnest,
)
from ldm_jax.errors import UserError

KINDS = ("narrow", "medium", "wide", "box", "mixed")


def drawn(kind: str, side: int, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([random_mask(kind, side, side, rng) for _ in range(count)])


def eroded(masks: np.ndarray, reach: int) -> np.ndarray:
    """Where the square of 2 reach + 1 pixels around a pixel lies in a mask or off the image."""
    height, width = masks.shape[1:]
    padded = np.pad(masks, ((0, 0), (reach, reach), (reach, reach)), constant_values=True)
    steps = range(2 * reach + 1)
    rows = np.all([padded[:, k : k + height] for k in steps], axis=0)
    return np.all([rows[:, :, k : k + width] for k in steps], axis=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(8, 8), (64, 64), (40, 96), (96, 40)])
def test_a_mask_is_neither_empty_nor_more_than_half(kind, shape):
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = random_mask(kind, *shape, rng)
        assert mask.shape == shape and mask.dtype == bool
        assert mask.any() and mask.mean() <= 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_alone_decides(kind):
    np.testing.assert_array_equal(drawn(kind, 32, 10, seed=1), drawn(kind, 32, 10, seed=1))
    assert np.any(drawn(kind, 32, 10, seed=1) != drawn(kind, 32, 10, seed=2))


# Means over 4000 masks of LaMa's recipe drawn by OpenCV 5.0.0, 256x256 pixels, those above one half
# left out. The standard deviation of one mask is about 0.12, of a mean of 400 0.006.
LAMA = {"narrow": 0.284, "medium": 0.222, "wide": 0.265, "box": 0.210}


@pytest.mark.slow
@pytest.mark.parametrize("side", [64, 256])
@pytest.mark.parametrize("kind", LAMA)
def test_as_much_is_covered_as_by_lama_at_every_size(kind, side):
    assert np.mean(drawn(kind, side, 400)) == pytest.approx(LAMA[kind], abs=0.018)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("side", "f"), [(64, 4), (32, 4), (16, 2), (256, 4)])
def test_every_fth_pixel_shows_the_mask(kind, side, f):
    masks = drawn(kind, side, 60)
    assert thinnest(kind, side) >= f
    cells = masks[:, ::f, ::f]
    assert cells.any(axis=(1, 2)).mean() >= 0.95  # the edge leaves little of some strokes
    assert cells.mean() == pytest.approx(masks.mean(), abs=0.03)
    # Hardly a pixel that is filled is farther than f from all filled ones that are seen.
    seen = np.zeros_like(masks)
    seen[:, ::f, ::f] = cells
    assert (masks & eroded(~seen, f)).sum() < 0.03 * masks.sum()


def test_the_thinnest_strokes():
    assert thinnest("mixed", 64) == thinnest("narrow", 32) == 4
    assert thinnest("mixed", 16) == 2
    assert thinnest("mixed", 256) == 6 and thinnest("box", 256) == 30
    assert thinnest("box", 64) == 8 and thinnest("narrow", 512) == 12


def test_mixed_draws_all_three():
    masks = drawn("mixed", 192, 400)
    thirds = np.mean([LAMA[kind] for kind in ("narrow", "medium", "wide")])
    assert np.mean(masks) == pytest.approx(thirds, abs=0.018)
    # Fragments that a narrow mask alone has: nearly nothing of it is left, much was there.
    left = eroded(masks, 6).mean(axis=(1, 2)) / masks.mean(axis=(1, 2))
    assert 0.2 < np.mean(left < 0.3) < 0.45


def test_narrow_strokes_vanish_under_erosion_and_wide_ones_stay():
    # At 128 pixels narrow strokes are up to 7.5 pixels wide; nine in ten wide ones are wider.
    narrow, wide = (
        eroded(m, 4).sum() / m.sum()
        for m in (drawn("narrow", 128, 50, 3), drawn("wide", 128, 50, 3))
    )
    assert narrow < 0.1 and wide > 0.6


def test_a_mask_scales_with_the_image():
    # The same draws at twice the size: alike but for pixels at the edges of strokes.
    for kind, alike in (("narrow", 0.9), ("wide", 0.97)):
        small, large = (drawn(kind, side, 1, seed=5)[0] for side in (256, 512))
        agree = np.mean(small.repeat(2, 0).repeat(2, 1) == large)
        assert agree > alike


def test_boxes_are_rectangles_that_keep_their_distance_from_the_edge():
    masks = drawn("box", 256, 200)
    inner = masks[:, 10:-10, 10:-10]
    assert inner.sum() == masks.sum()
    assert np.any(masks[:, 10]) and np.any(masks[:, -11])  # right up to the margin
    alone = 0
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        if mask.sum() == height * width:
            alone += 1
            assert min(height, width) >= 30
    assert 0.25 < alone / len(masks) < 0.45  # one in three masks is one box, few have them nested


def test_a_stroke_has_the_width_it_was_given_and_round_ends():
    mask = np.zeros((40, 60), bool)
    _add_piece(mask, 20.0, 10.0, 20.0, 50.0, 6.0)
    np.testing.assert_array_equal(mask[:, 30], np.abs(np.arange(40) + 0.5 - 20) <= 6)
    assert mask.sum() == pytest.approx(40 * 12 + np.pi * 36, rel=0.02)
    assert mask[20, 5] and not mask[15, 5]


def test_an_unknown_kind_and_a_tiny_image_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match="narrow, medium, wide, box, mixed, got 'thick'"):
        random_mask("thick", 64, 64, rng)
    with pytest.raises(UserError, match="at least 8 pixels a side, got 64x4"):
        random_mask("wide", 4, 64, rng)


def test_coverage_is_the_share_to_be_painted():
    mask = np.zeros((4, 5), bool)
    mask[1, :2] = True
    assert coverage(mask) == pytest.approx(0.1)


def test_the_masked_image_is_what_the_published_model_was_given():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (16, 24, 3)).astype(np.uint8)
    mask = random_mask("box", 16, 24, rng)
    # scripts/inpaint.py: (1 - mask) * image in [0, 1], then twice that less one.
    published = (1 - mask[..., None].astype(np.float32)) * (image / np.float32(255)) * 2 - 1
    ours = masked_image(image, mask)
    assert ours.dtype == np.uint8
    np.testing.assert_allclose(ours / 127.5 - 1, published, atol=1e-6)
    assert np.all(published[mask] == -1)
    batch = masked_image(np.stack([image, image]), np.stack([mask, ~mask]))
    np.testing.assert_array_equal(batch[0] + batch[1], image)


def test_mean_fill_paints_the_mean_of_what_is_known():
    image = np.array([[[10, 0], [20, 1]], [[31, 2], [255, 255]]], np.uint8)
    mask = np.array([[False, False], [False, True]])
    filled = mean_fill(image, mask)
    assert filled.dtype == np.uint8
    np.testing.assert_array_equal(filled[1, 1], [20, 1])  # of 61/3 and 3/3
    np.testing.assert_array_equal(filled[~mask], image[~mask])
    with pytest.raises(UserError, match="covers all"):
        mean_fill(image, np.ones((2, 2), bool))
