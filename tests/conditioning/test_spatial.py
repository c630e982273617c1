"""The rescaler of semantic maps: the reference's numbers, and bilinear interpolation in NumPy.

`spatial.npz` is computed by CompVis/latent-diffusion, as `golden.npz` is: `in_x`, `out_y`, NCHW.
"""

from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from ldm_jax.conditioning.spatial import SpatialRescaler
from ldm_jax.errors import UserError


def bilinear_half(x, axis):
    """x between its pixels, at the new centres: new pixel i is centred at 2 (i + 1/2) - 1/2."""
    n = x.shape[axis]
    at = 2 * (np.arange(n // 2) + 0.5) - 0.5
    return np.apply_along_axis(lambda line: np.interp(at, np.arange(n), line), axis, x)


def call(graph, params, x):
    return jax.jit(lambda params, x: nnx.merge(graph, params)(x))(params, x)


def test_a_map_equals_the_reference(drawn, fill):
    with np.load(Path(__file__).with_name("spatial.npz")) as file:
        x, expected = (file[name].transpose(0, 2, 3, 1) for name in ("in_x", "out_y"))
    graph, params = drawn(SpatialRescaler, 2, 5, 3)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 5 * 3  # no bias
    y = call(graph, fill(params, [("^conv$", "channel_mapper")]), x)
    assert np.linalg.norm(y - expected) < 1e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize("stages", [0, 1, 3])
def test_it_is_bilinear_interpolation_and_a_matrix_for_every_pixel(stages, drawn):
    graph, params = drawn(SpatialRescaler, stages, 4, 6)
    x = np.random.default_rng(0).normal(size=(2, 8, 16, 4)).astype(np.float32)
    expected = x
    for _ in range(stages):
        expected = bilinear_half(bilinear_half(expected, 1), 2)
    expected = expected @ params["conv"]["kernel"][0, 0]
    assert expected.shape == (2, 8 // 2**stages, 16 // 2**stages, 6)
    np.testing.assert_allclose(call(graph, params, x), expected, atol=1e-5)


@pytest.mark.parametrize("height, width", [(8, 6), (7, 8), (2, 4)])
def test_a_size_that_would_lose_rows_is_refused(height, width, drawn):
    model = nnx.merge(*drawn(SpatialRescaler, 2, 1, 1))
    with pytest.raises(UserError, match=f"must be multiples of 4, got {height} x {width}$"):
        model(np.zeros((1, height, width, 1), np.float32))
