"""The UNet: the reference's numbers, the published sizes, its conventions."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldm_jax.diffusion.transformer import SpatialTransformer
from ldm_jax.diffusion.unet import UNet, UNetConfig, timestep_embedding
from ldm_jax.layers import Downsample, SpatialSelfAttention

BLOCK = r"^((?:middle_block|(?:in|out)put_blocks)(?:\.\d+)+)\."
# The names in the reference. An upsampling is third in its list, since its levels attend here.
NAMES = [
    (r"^conv_in$", "input_blocks.0.0"),
    (r"^time_in$", "time_embed.0"),
    (r"^time_out$", "time_embed.2"),
    (r"^norm_out$", "out.0"),
    (r"^conv_out$", "out.2"),
    (r"^down\.(\d+)\.conv$", lambda m: f"input_blocks.{int(m[1]) + 1}.0.op"),
    (r"^down\.(\d+)", lambda m: f"input_blocks.{int(m[1]) + 1}"),
    (r"^up", "output_blocks"),
    (r"^middle\.0", "middle_block"),
    (r"^middle\.1", "middle_block.2"),
    (r"\.res\.", ".0."),
    (r"^(middle_block|\w+_blocks\.\d+)\.attention\.", r"\1.1."),
    (r"\.resample\.", ".2."),
    (BLOCK + "norm1$", r"\1.in_layers.0"),
    (BLOCK + "conv1$", r"\1.in_layers.2"),
    (BLOCK + "emb$", r"\1.emb_layers.1"),
    (BLOCK + "norm2$", r"\1.out_layers.0"),
    (BLOCK + "conv2$", r"\1.out_layers.3"),
    (r"skip$", "skip_connection"),
    (r"\.blocks\.", ".transformer_blocks."),
    (r"self_attention", "attn1"),
    (r"cross_attention", "attn2"),
    (r"(attn\d)\.([qkv])$", r"\1.to_\2"),
    (r"(attn\d)\.out$", r"\1.to_out.0"),
    (r"feed_forward\.proj_in$", "ff.net.0.proj"),
    (r"feed_forward\.proj_out$", "ff.net.2"),
    (r"\.attention\.out$", ".proj_out"),
]
SELF = UNetConfig(channels=32, channel_mult=(1, 2, 2), attention_factors=(2, 4), head_channels=16)
CROSS = UNetConfig(
    channels=32,
    channel_mult=(1, 2),
    attention_factors=(1, 2),
    head_channels=16,
    transformer_depth=2,
)
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
    return nnx.eval_shape(lambda: UNet(*args, **kwargs, rngs=nnx.Rngs(0)))


def nhwc(a):
    return a.transpose(0, 2, 3, 1)


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


def test_self_attention_unet_equals_the_reference(golden, golden_weight, drawn, fill):
    def weight(key, shape):  # the original has q, k, v in one array, interleaved head by head
        found = re.fullmatch(r"(.*)\.attention\.([qkv])\.(\w+)", key)
        if found is None:
            return golden_weight(key, shape)
        qkv = golden_weight(f"{found[1]}.qkv.{found[3]}", (3 * shape[0], *shape[1:]))
        return qkv.reshape(-1, 3, 16, *shape[1:])[:, "qkv".index(found[2])].reshape(shape)

    graph, params = drawn(UNet, SELF, 3, 3)
    assert count(params) == 1_708_163
    params = fill(params, NAMES, weight)
    x, t = nhwc(golden["unet_attn_legacy/in_x"]), golden["unet_attn_legacy/in_t"]
    expected = nhwc(golden["unet_attn_legacy/out_eps"])
    eps = compiled(graph)(params, x, t)
    assert np.linalg.norm(eps - expected) < 1e-4 * np.linalg.norm(expected)


def test_cross_attention_unet_equals_the_reference(golden, drawn, fill):
    graph, params = drawn(UNet, CROSS, 4, 4, 24)
    assert count(params) == 2_104_196
    params = fill(params, NAMES)
    x, t = nhwc(golden["unet_xattn_legacy/in_x"]), golden["unet_xattn_legacy/in_t"]
    expected = nhwc(golden["unet_xattn_legacy/out_eps"])
    eps = compiled(graph)(params, x, t, golden["unet_xattn_legacy/in_context"])
    assert np.linalg.norm(eps - expected) < 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    "config, args, parameters",
    [
        (UNetConfig(channels=224, channel_mult=(1, 2, 3, 4)), (3, 3), 274_056_163),
        (UNetConfig(), (3, 3, 640), 403_623_939),
        (
            UNetConfig(channels=128, channel_mult=(1, 4, 8), attention_factors=(8, 16, 32)),
            (6, 3),
            215_229_315,
        ),
    ],
    ids=["celeba256", "text2img256", "semantic_synthesis256"],
)
def test_published_models_have_their_number_of_parameters(config, args, parameters):
    assert count(nnx.state(shapes(config, *args))) == parameters


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
        model = UNet(TINY, 3, 3, 5, rngs=nnx.Rngs(key))
        branches = [model.down[0].res.conv2, model.middle[1].conv2, model.up[0].attention.proj_out]
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
    out = nnx.eval_shape(lambda z_t: UNet(config, *channels, rngs=nnx.Rngs(0))(z_t, T), z_t)
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
    assert sorted(attending) == sorted([*at_factor_4, ("middle", 0)])


def test_a_head_has_head_channels_or_there_is_one():
    def heads(head_channels):
        config = UNetConfig(
            channels=8, channel_mult=(1, 2), attention_factors=(1, 2), head_channels=head_channels,
            groups=4,
        )  # fmt: skip
        model = shapes(config, 3, 3)
        return [model.down[0].attention.attention.heads, model.middle[0].attention.attention.heads]

    assert heads(4) == [2, 4]
    assert heads(0) == [1, 1]


def test_dropout_acts_only_with_rngs(drawn):
    config = UNetConfig(
        channels=4, channel_mult=(1,), num_res_blocks=1, attention_factors=(), head_channels=0,
        groups=2, dropout=0.5,
    )  # fmt: skip
    graph, params = drawn(UNet, config, 3, 3)

    @jax.jit
    def run(key):
        model = nnx.merge(graph, params)
        return model(Z_T, T), model(Z_T, T, None, nnx.Rngs(dropout=key))

    (without, masked), (again, other) = run(jax.random.key(0)), run(jax.random.key(1))
    np.testing.assert_array_equal(without, again)
    assert not np.allclose(without, masked) and not np.allclose(other, masked)
