"""The encoder and decoder: every f and channel, sizes; numbers: `pretrained/test_golden`."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldm_jax.autoencoder.kl import split_moments
from ldm_jax.autoencoder.network import Autoencoder, AutoencoderConfig
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.layers import Downsample
from ldm_jax.parameters import abstract_module
from ldm_jax.training.cost import largest_array

TINY = AutoencoderConfig(channels=8, channel_mult=(1, 2), num_res_blocks=1, z_channels=2, groups=4)


def shapes(config, channels=3, dtype=jnp.float32):
    """The model with shapes in place of arrays."""
    return abstract_module(lambda rngs: Autoencoder(config, channels, dtype=dtype, rngs=rngs))


def count(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model)))


def forward(model, x, rngs=None):
    """(moments, reconstruction from the mean)."""
    moments = model.encode(x, rngs)
    return moments, model.decode(split_moments(moments)[0], rngs)


def image(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.fixture(scope="module")
def tiny(drawn):
    """(parameters, jitted forward in float32, the same in bfloat16) of the smallest autoencoder."""
    params, runs = None, []
    for dtype in (jnp.float32, jnp.bfloat16):
        graph, params = drawn(Autoencoder, TINY, 3, dtype=dtype)
        runs.append(jax.jit(lambda params, x, graph=graph: forward(nnx.merge(graph, params), x)))
    return params, *runs


def test_the_published_network_has_its_number_of_parameters():
    """That of kl-f8; all the others: tests/experiments/test_published.py."""
    config = AutoencoderConfig(channel_mult=(1, 2, 4, 4), z_channels=4)
    assert config.f == 8 and count(shapes(config)) == 83_653_863


@pytest.mark.parametrize("levels, channels", list(enumerate([1, 4, 3, 2, 4, 1])))
def test_every_f_and_any_channels_give_the_right_shapes(levels, channels):
    config = AutoencoderConfig(
        channels=4, channel_mult=(1,) * (levels + 1), num_res_blocks=1, z_channels=5, groups=2
    )
    f = 2**levels
    assert config.f == f
    x = jax.ShapeDtypeStruct((2, 64, 96, channels), jnp.float32)  # not square
    moments, x_hat = nnx.eval_shape(forward, shapes(config, channels), x)
    assert moments.shape == (2, 64 // f, 96 // f, 10)
    assert x_hat.shape == x.shape


def test_downsampling_pads_below_and_right_only(drawn):
    """The UNet pads on all sides: `test_unet`."""
    model = nnx.merge(*drawn(Autoencoder, TINY, 3))
    (down,) = (layer for layer in model.encoder.down if isinstance(layer, Downsample))
    down.conv.kernel[...] = jnp.zeros((3, 3, 8, 8)).at[0, 0].set(jnp.eye(8))
    down.conv.bias[...] = jnp.zeros(8)
    x = image(1, 4, 6, 8)
    np.testing.assert_array_equal(down(x), x[:, ::2, ::2])


def test_every_norm_has_epsilon_1e_6():
    """The UNet's ResBlocks have 1e-5: `test_unet`."""
    norms = [m for _, m in nnx.iter_modules(shapes(TINY)) if isinstance(m, nnx.GroupNorm)]
    res_blocks = (2 + 2) + (4 + 2)  # encoder and decoder, the two of the middle included
    assert len(norms) == 2 * res_blocks + 2 + 2  # attention in the middle, norm_out
    assert {norm.epsilon for norm in norms} == {1e-6}


def test_bfloat16_computes_float32_images_and_moments(tiny):
    params, f32, bf16 = tiny
    x = image(2, 8, 12, 3)
    for exact, rounded in zip(f32(params, x), bf16(params, x), strict=True):
        assert exact.dtype == rounded.dtype == jnp.float32
        error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
        assert 0 < error < 0.05


def test_an_image_does_not_depend_on_its_batch(tiny):
    params, run, _ = tiny
    x = image(3, 8, 8, 3)
    for batch, single in zip(run(params, x), run(params, x[1:2]), strict=True):
        np.testing.assert_allclose(batch[1:2], single, atol=1e-5)


def test_dropout_acts_in_both_halves_and_only_with_rngs(drawn):
    config = AutoencoderConfig(
        channels=4,
        channel_mult=(1,),
        num_res_blocks=1,
        mid_attention=False,
        z_channels=1,
        groups=2,
        dropout=0.5,
    )
    graph, params = drawn(Autoencoder, config, 1)

    @jax.jit
    def run(key):
        model, x = nnx.merge(graph, params), jnp.ones((1, 4, 4, 1))
        rngs = nnx.Rngs(dropout=key)
        return (model.encode(x), model.decode(x)), (model.encode(x, rngs), model.decode(x, rngs))

    (without, masked), (again, other) = run(jax.random.key(0)), run(jax.random.key(1))
    for half in (0, 1):
        np.testing.assert_array_equal(without[half], again[half])
        assert not np.allclose(without[half], masked[half])
        assert not np.allclose(other[half], masked[half])


@pytest.mark.parametrize("name", ["kl-f2", "vq-f4", "kl-f8", "vq-f8-n256", "scenes", "smoke"])
@pytest.mark.parametrize("size", [(64, 64), (128, 256)])
def test_the_largest_array_is_known_without_the_network(name, size):
    """That of its jaxpr, apart from distances to the codes."""
    config = replace(EXPERIMENTS[name]().autoencoder.network, bottleneck="kl")
    graph, params = nnx.split(shapes(config))
    x = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    program = jax.make_jaxpr(lambda params, x: forward(nnx.merge(graph, params), x))(params, x)
    array = largest_array(program)
    assert config.largest_array(*size) == array.size, array
