"""Overlapping windows: the reference's weights, exact where the function is local, no seam."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.errors import UserError
from ldm_jax.sampling.tiling import Tiles, apply_in_tiles, tile_starts, tile_weights


def reference(name):
    with np.load(Path(__file__).with_name("tiles.npz")) as file:
        return file[name]


def test_weights_equal_the_reference():
    expected = reference("weighting_8x8")
    np.testing.assert_allclose(tile_weights(8, 8), expected, rtol=1e-6)


def test_the_sum_of_the_weights_equals_the_reference():
    """16 positions in windows of 8, every 4: the sum that divides."""
    expected, total = reference("normalization_16"), np.zeros((16, 16))
    for y in tile_starts(16, 8, 4):
        for x in tile_starts(16, 8, 4):
            total[y : y + 8, x : x + 8] += tile_weights(8, 8)
    np.testing.assert_allclose(total, expected, rtol=1e-6)


@pytest.mark.parametrize("length", range(5, 40))
def test_windows_cover_every_position_and_stay_inside(length):
    for window in range(1, length + 1):
        for stride in {1, window // 2 or 1, window}:
            starts = tile_starts(length, window, stride)
            covered = np.zeros(length, int)
            for start in starts:
                covered[start : start + window] += 1
            assert covered.min() >= 1 and starts.min() == 0 and starts.max() + window == length
            assert (np.diff(starts) <= stride).all()


@pytest.mark.parametrize("length, window, stride", [(8, 9, 4), (8, 4, 5), (8, 4, 0)])
def test_windows_that_cannot_cover_are_refused(length, window, stride):
    with pytest.raises(UserError, match="do not cover"):
        tile_starts(length, window, stride)


def test_a_function_of_each_position_alone_is_exact():
    z = np.random.default_rng(0).normal(size=(2, 11, 13, 3)).astype(np.float32)
    out = jax.jit(lambda z: apply_in_tiles(lambda y: y**2, z, Tiles((4, 6), (2, 5))))(z)
    np.testing.assert_allclose(out, z**2, rtol=1e-5, atol=1e-6)


def test_a_decoder_enlarges():
    z = np.random.default_rng(0).normal(size=(1, 6, 9, 2)).astype(np.float32)

    def enlarge(y):
        return jnp.repeat(jnp.repeat(y[..., :1], 4, axis=1), 4, axis=2)

    out = apply_in_tiles(enlarge, z, Tiles.square(4), scale=4)
    assert out.shape == (1, 24, 36, 1)
    np.testing.assert_allclose(out, enlarge(z), rtol=1e-5, atol=1e-6)


def test_what_differs_from_window_to_window_is_blended_without_a_step():
    """Each window becomes its own mean; at its borders it has next to no weight."""
    z = np.zeros((1, 32, 64, 1), np.float32)
    ramp = np.broadcast_to(np.linspace(0, 1, 64, dtype=np.float32)[None, None, :, None], z.shape)

    def mean(y):
        return jnp.broadcast_to(jnp.mean(y), y.shape)

    own = apply_in_tiles(mean, ramp, Tiles.square(16))
    steps = np.abs(np.diff(np.asarray(own)[0, 16, :, 0]))
    hard = apply_in_tiles(mean, ramp, Tiles.square(16, overlap=0))
    jumps = np.abs(np.diff(np.asarray(hard)[0, 16, :, 0]))
    assert jumps.max() > 0.2 and steps.max() < 0.06


def test_windows_larger_than_the_whole_are_the_whole():
    z = np.random.default_rng(0).normal(size=(1, 3, 9, 1)).astype(np.float32)
    seen = []

    def watched(y):
        seen.append(y.shape)
        return y

    np.testing.assert_allclose(apply_in_tiles(watched, z, Tiles.square(5)), z, rtol=1e-5)
    assert set(seen) == {(1, 3, 5, 1)}
