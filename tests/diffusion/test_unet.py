"""The UNet: published sizes, conventions. The reference's numbers: `pretrained/test_golden`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldm_jax.diffusion.transformer import SpatialTransformer
from ldm_jax.diffusion.unet import UNet, UNetConfig, timestep_embedding
from ldm_jax.layers import Downsample, SpatialSelfAttention
from ldm_jax.parameters import Keys, abstract_module

TINY = UNetConfig(
    channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_factors=(2,),
    head_channels=4,
    groups=4,
)


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def shapes(*args, **kwargs):
    """The model with shapes in place of arrays."""
    return abstract_module(lambda rngs: UNet(*args, **kwargs, rngs=rngs))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def compiled(graph):
    return jax.jit(lambda params, *args: nnx.merge(graph, params)(*args))


@pytest.fixture(scope="module")
def tiny(drawn):
    """(its parameters, jitted UNet with cross-attention) of the smallest one."""
    graph, params = drawn(UNet, TINY, 3, 3, 5)
    return params, compiled(graph)


T = np.array([3, 700])
Z_T, CONTEXT = normal(2, 2, 4, 3), normal(2, 4, 5, seed=1)


def test_the_published_unet_has_its_number_of_parameters():
    """That of celeba256; all the others: tests/experiments/test_published.py."""
    config = UNetConfig(channels=224, channel_mult=(1, 2, 3, 4))
    assert count(nnx.state(shapes(config, 3, 3))) == 274_056_163


@pytest.mark.parametrize("dim", [32, 33])
def test_timestep_embedding_equals_the_reference(dim, golden):
    embedding = timestep_embedding(golden["timestep_embedding/t"], dim)
    expected = golden[f"timestep_embedding/dim{dim}"]
    assert np.linalg.norm(embedding - expected) < 1e-4 * np.linalg.norm(expected)
    np.testing.assert_allclose(embedding, expected, atol=2e-4)  # 999 rad in float32


def test_timestep_embedding_tells_the_last_steps_apart():
    embedding = np.asarray(timestep_embedding(jnp.array([998, 999]), 16))
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding[:, 0], np.cos([998.0, 999.0]), atol=1e-4)


def test_output_and_every_residual_branch_are_zero_at_the_start(tiny):
    @jax.jit
    def fresh(key):
        model = UNet(TINY, 3, 3, 5, rngs=Keys(key))
        branches = [model.down[0].res.conv2, model.mid[1].conv2, model.up[0].attention.proj_out]
        parts = [model.conv_out, *branches]
        return [nnx.to_pure_dict(nnx.state(part)) for part in parts]

    start = fresh(jax.random.key(0))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(start))
    params, run = tiny
    out = run(params | {"conv_out": start[0]}, Z_T, T, CONTEXT)
    np.testing.assert_array_equal(out, np.zeros_like(Z_T))


def test_the_condition_the_time_and_the_latent_matter(tiny):
    params, run = tiny
    out = run(params, Z_T, T, CONTEXT)
    assert out.shape == Z_T.shape
    for other in ((Z_T + 1, T, CONTEXT), (Z_T, T + 1, CONTEXT), (Z_T, T, 2 * CONTEXT)):
        assert np.abs(run(params, *other) - out).max() > 1e-3


def test_examples_do_not_see_each_other(tiny):
    params, run = tiny
    out = run(params, Z_T, T, CONTEXT)
    swapped = run(params, Z_T[::-1], T[::-1], CONTEXT[::-1])
    np.testing.assert_allclose(swapped, out[::-1], atol=1e-5)


def test_bfloat16_computes_a_float32_output(tiny, drawn):
    params, run = tiny
    exact = run(params, Z_T, T, CONTEXT)
    graph, _ = drawn(UNet, TINY, 3, 3, 5, dtype=jnp.bfloat16)
    rounded = compiled(graph)(params, Z_T, T, CONTEXT)
    assert rounded.dtype == exact.dtype == jnp.float32
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 0 < error < 0.05


@pytest.mark.parametrize(
    "channel_mult, channels",
    [((1,), (1, 1)), ((1, 2), (7, 3)), ((1, 1, 2, 2), (4, 4))],  # (7, 3): z_t and a condition
)
def test_latents_of_any_shape_and_channels_work(channel_mult, channels):
    config = UNetConfig(
        channels=8, channel_mult=channel_mult, num_res_blocks=1, head_channels=8, groups=4
    )
    assert config.factor == 2 ** (len(channel_mult) - 1)
    z_t = jax.ShapeDtypeStruct((2, 8, 24, channels[0]), jnp.float32)  # not square
    out = nnx.eval_shape(lambda model, z_t: model(z_t, T), shapes(config, *channels), z_t)
    assert out.shape == (2, 8, 24, channels[1])


def test_downsampling_pads_on_all_sides(drawn):
    """The autoencoder pads below and right only: `test_network`."""
    model = nnx.merge(*drawn(UNet, TINY, 3, 3))
    (down,) = (layer for layer in model.down if isinstance(layer, Downsample))
    down.conv.kernel[...] = jnp.zeros((3, 3, 8, 8)).at[0, 0].set(jnp.eye(8))
    down.conv.bias[...] = jnp.zeros(8)
    x = normal(1, 4, 6, 8)
    expected = np.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)))[:, :4:2, :6:2]
    np.testing.assert_array_equal(down(x), expected)


@pytest.mark.parametrize("context_dim, transformers", [(0, set()), (5, {1e-6})])
def test_norms_have_epsilon_1e_5_and_those_of_the_transformers_1e_6(context_dim, transformers):
    found = {True: set(), False: set()}
    for path, module in nnx.iter_modules(shapes(TINY, 3, 3, context_dim)):
        if isinstance(module, nnx.GroupNorm):
            found["attention" in path and context_dim > 0].add(module.epsilon)
    assert found == {True: transformers, False: {1e-5}}


@pytest.mark.parametrize("kind, args", [(SpatialSelfAttention, ()), (SpatialTransformer, (5,))])
def test_attention_is_at_the_factors_asked_for_and_always_in_the_middle(kind, args):
    config = UNetConfig(
        channels=8,
        channel_mult=(1, 1, 2),
        num_res_blocks=1,
        attention_factors=(4, 16),
        head_channels=4,
        groups=4,
    )
    attending = [
        path[:2] for path, module in nnx.iter_modules(shapes(config, 3, 3, *args))
        if isinstance(module, kind)
    ]  # fmt: skip
    at_factor_4 = [("down", 4), ("up", 0), ("up", 1)]
    assert sorted(attending) == sorted([*at_factor_4, ("mid", 0)])


@pytest.mark.slow
def test_a_head_has_head_channels_or_every_level_has_as_many_heads():
    def heads(**kwargs):
        config = UNetConfig(
            channels=8, channel_mult=(1, 2), attention_factors=(1, 2), groups=4, **kwargs
        )
        model = shapes(config, 3, 3)
        return [model.down[0].attention.attention.heads, model.mid[0].attention.attention.heads]

    assert heads(head_channels=4) == [2, 4]
    assert heads(heads=1) == [1, 1]
    assert heads(heads=2, head_channels=4) == [2, 2]


def test_dropout_acts_only_with_rngs(drawn):
    config = UNetConfig(
        channels=4, channel_mult=(1,), num_res_blocks=1, attention_factors=(), heads=1, groups=2,
        dropout=0.5,
    )  # fmt: skip
    graph, params = drawn(UNet, config, 3, 3)

    @jax.jit
    def run(key):
        model = nnx.merge(graph, params)
        return model(Z_T, T), model(Z_T, T, rngs=nnx.Rngs(dropout=key))

    (without, masked), (again, other) = run(jax.random.key(0)), run(jax.random.key(1))
    np.testing.assert_array_equal(without, again)
    assert not np.allclose(without, masked) and not np.allclose(other, masked)
