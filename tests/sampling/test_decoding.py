"""Decoding a few at a time: the same images, and never more of them at once than that."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.sampling.decoding import AT_ONCE, decode, decode_all
from ldm_jax.sampling.tiling import Tiles


def watched(seen):
    def image(z):
        seen.append(z.shape[0])
        return jnp.tanh(jnp.repeat(jnp.repeat(z, 2, 1), 2, 2))

    return image


@pytest.mark.parametrize(
    "rows, num_shards, at_once",
    [(8, 1, 8), (16, 1, 8), (24, 2, 12), (24, 1, 8), (14, 1, 7), (11, 1, 1)],
)
def test_rows_are_decoded_a_few_at_a_time_in_their_order(rows, num_shards, at_once):
    z = np.random.default_rng(0).normal(size=(rows, 3, 4, 3)).astype(np.float32)
    seen = []
    images = jax.jit(lambda z: decode(watched(seen), z, num_shards)[0])(z)
    assert set(seen) == {at_once} and at_once <= AT_ONCE * num_shards
    expected = np.rint(127.5 * (np.tanh(z.repeat(2, 1).repeat(2, 2)) + 1))
    np.testing.assert_allclose(np.int32(images), expected, atol=1)
    assert images.dtype == jnp.uint8


def test_rows_of_a_device_stay_on_it():
    devices = jax.devices()[:4]
    mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,), devices=devices)
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    z = np.random.default_rng(0).normal(size=(64, 3, 4, 3)).astype(np.float32)
    program = jax.jit(lambda z: decode(watched([]), z, 4)[0], in_shardings=split)
    np.testing.assert_array_equal(program(z), decode(watched([]), z)[0])
    said = program.lower(z).compile().as_text()
    assert not any(word in said for word in ("all-gather(", "all-to-all(", "collective-permute("))


def test_tiles_of_a_local_decoder_make_the_whole_image():
    z = np.random.default_rng(0).normal(size=(2, 9, 12, 3)).astype(np.float32)
    whole, _ = decode(watched([]), z)
    np.testing.assert_allclose(
        np.int32(decode(watched([]), z, tiles=Tiles.square(5, 0.25))[0]), np.int32(whole), atol=1
    )


def test_every_estimate_is_decoded():
    z = np.random.default_rng(0).normal(size=(4, 2, 3, 4, 3)).astype(np.float32)
    images, finite = decode_all(watched([]), z)
    assert images.shape == (2, 4, 6, 8, 3)
    np.testing.assert_array_equal(images[1, 3], decode(watched([]), z[3])[0][1])


@pytest.mark.parametrize("rows", [4, 24])
def test_rows_that_are_no_numbers_are_told(rows):
    z = np.zeros((rows, 3, 4, 3), np.float32)
    z[1, 2, 3, 0], z[3, 0, 0, 1] = np.nan, np.inf
    finite = decode(lambda z: z, z)[1]
    assert np.flatnonzero(~np.asarray(finite)).tolist() == [1, 3]
    estimates = np.stack([np.zeros_like(z), z])
    np.testing.assert_array_equal(decode_all(lambda z: z, estimates)[1][:, 1], finite)
