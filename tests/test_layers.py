"""The shared blocks: initialisation, exact normalisation, attention, resampling, dropout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldm_jax.layers import (
    Attention,
    BlockConfig,
    Downsample,
    ResBlock,
    SpatialSelfAttention,
    Upsample,
    avg_pool2x,
    conv,
    group_norm,
    linear,
    upsample2x,
)

F32 = {"dtype": jnp.float32}
BLOCK = BlockConfig(groups=2, epsilon=1e-5)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softmax(a):
    e = np.exp(a - a.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def call(graph, params, *args, **options):
    """The module's output, compiled as one program."""
    return jax.jit(lambda params, *args: nnx.merge(graph, params)(*args, **options))(params, *args)


def silu(a):
    return a / (1 + np.exp(-a))


def norm(params, x, groups=2, epsilon=1e-5):
    """GroupNorm: neighbouring channels are a group."""
    grouped = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    mean, var = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    y = ((grouped - mean) / np.sqrt(var + epsilon)).reshape(x.shape)
    return y * params["scale"] + params["bias"]


def same_conv(params, x):
    """A convolution of stride 1, zeros around."""
    kernel = params["kernel"]
    reach = len(kernel) // 2
    h, w = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    places = np.ndindex(kernel.shape[:2])
    return params["bias"] + sum(padded[:, i : i + h, j : j + w] @ kernel[i, j] for i, j in places)


def corner(size):
    """A 3x3 kernel that copies the pixel at its upper left corner."""
    return np.zeros((3, 3, size, size), np.float32) + np.eye(size) * (np.arange(9) == 0).reshape(
        3, 3, 1, 1
    )


def test_kernels_start_as_pytorch_starts_them():
    for layer, fan_in in (
        (conv(16, 64, **F32, rngs=nnx.Rngs(0)), 16 * 9),
        (linear(100, 200, **F32, rngs=nnx.Rngs(0)), 100),
    ):
        kernel = np.asarray(layer.kernel[...])
        assert np.abs(kernel).max() <= fan_in**-0.5
        assert np.std(kernel) == pytest.approx((3 * fan_in) ** -0.5, rel=0.03)  # uniform


def test_zero_starts_a_residual_branch_at_zero(drawn):
    x = normal(1, 4, 4, 4)
    graph, params = drawn(ResBlock, 4, 4, BLOCK)
    assert not np.allclose(call(graph, params, x), x)
    params["conv2"] = jax.tree.map(np.zeros_like, params["conv2"])
    np.testing.assert_array_equal(call(graph, params, x), x)
    zero = (
        conv(4, 4, zero=True, **F32, rngs=nnx.Rngs(0)),
        linear(4, 4, zero=True, **F32, rngs=nnx.Rngs(0)),
    )
    assert not any(np.any(leaf) for layer in zero for leaf in jax.tree.leaves(nnx.state(layer)))


def test_group_norm_keeps_a_small_variance_beside_a_large_mean():
    x = 30.0 + 0.05 * normal(2, 8, 8, 4)
    out = group_norm(4, 2, 1e-5, **F32, rngs=nnx.Rngs(0))(x)
    groups = x.astype(np.float64).reshape(2, 64, 2, 2)  # neighbouring channels are a group
    mean = groups.mean((1, 3), keepdims=True)
    expected = (groups - mean) / np.sqrt(groups.var((1, 3), keepdims=True) + 1e-5)
    np.testing.assert_allclose(out, expected.reshape(x.shape), atol=1e-3)  # fast variance: 0.3


def test_group_norm_has_float32_statistics_in_bfloat16():
    x = jnp.asarray(normal(1, 32, 32, 4), jnp.bfloat16)  # a bfloat16 sum of 4096 squares sticks
    out = group_norm(4, 1, 1e-5, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))(x)
    assert out.dtype == jnp.bfloat16
    assert np.std(np.asarray(out, np.float32)) == pytest.approx(1.0, abs=2e-3)


def test_res_block_adds_the_time_step_after_its_first_convolution(drawn):
    x, emb = normal(2, 4, 4, 4), normal(2, 6)
    graph, params = drawn(ResBlock, 4, 8, BLOCK, emb_dim=6)
    shift = emb / (1 + np.exp(-emb)) @ params["emb"]["kernel"]  # SiLU, then a projection
    moved = params | {"conv1": dict(params["conv1"]), "emb": dict(params["emb"])}
    moved["emb"]["kernel"] = np.zeros_like(params["emb"]["kernel"])
    for i in (0, 1):  # example by example, the projection may as well stand in a bias
        moved["conv1"]["bias"] = params["conv1"]["bias"] + shift[i]
        one = call(graph, moved, x[i : i + 1], emb[i : i + 1])
        np.testing.assert_allclose(call(graph, params, x, emb)[i : i + 1], one, atol=1e-5)


def mean_of_squares(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def repeated(x):
    return np.kron(x, np.ones((1, 2, 2, 1)))


def test_avg_pool2x_is_the_mean_of_squares_and_upsample2x_repeats():
    x = normal(2, 6, 4, 3)
    np.testing.assert_allclose(avg_pool2x(x), mean_of_squares(x), atol=1e-6)
    np.testing.assert_array_equal(upsample2x(x), repeated(x))
    np.testing.assert_allclose(avg_pool2x(upsample2x(x)), x, atol=1e-6)


@pytest.mark.parametrize("c_out", [4, 8])
@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize(
    "resample, restated",
    [(None, lambda x: x), (avg_pool2x, mean_of_squares), (upsample2x, repeated)],
)
def test_res_block_restated(resample, restated, scale_shift, c_out, drawn):
    graph, params = drawn(
        ResBlock, 4, c_out, BLOCK, emb_dim=6, scale_shift=scale_shift, resample=resample
    )
    assert params["emb"]["kernel"].shape == (6, 2 * c_out if scale_shift else c_out)
    x, emb = normal(2, 4, 6, 4), normal(2, 6)
    h = same_conv(params["conv1"], restated(silu(norm(params["norm1"], x))))
    shift = (silu(emb) @ params["emb"]["kernel"] + params["emb"]["bias"])[:, None, None]
    if scale_shift:
        h = norm(params["norm2"], h) * (1 + shift[..., :c_out]) + shift[..., c_out:]
    else:
        h = norm(params["norm2"], h + shift)
    skip = same_conv(params["skip"], restated(x)) if c_out != 4 else restated(x)
    expected = skip + same_conv(params["conv2"], silu(h))
    np.testing.assert_allclose(call(graph, params, x, emb), expected, atol=2e-5)


def test_dropout_needs_rngs_and_follows_them(drawn):
    graph, params = drawn(ResBlock, 4, 4, dataclasses.replace(BLOCK, dropout=0.5))
    x = normal(2, 4, 4, 4)

    @jax.jit
    def masked(seed):
        return nnx.merge(graph, params)(x, rngs=nnx.Rngs(dropout=jax.random.key(seed)))

    without, one, other = call(graph, params, x), masked(1), masked(2)
    np.testing.assert_array_equal(one, masked(1))
    assert not np.allclose(one, without) and not np.allclose(one, other)


@pytest.mark.parametrize(
    "context_dim, causal, out_dim",
    [(None, False, None), (None, True, None), (5, False, None), (5, False, 2)],
)
def test_attention_is_the_formula_of_section_3_3(context_dim, causal, out_dim, drawn):
    """Softmax(Q K^T / sqrt(d)) V in every head, d the width of one."""
    heads, d = 3, 4
    options = {"qkv_bias": True, "out_dim": out_dim, **F32}
    graph, params = drawn(Attention, 6, context_dim, heads=heads, head_dim=d, **options)
    x = 3 * normal(2, 7, 6)
    context = x if context_dim is None else 3 * normal(2, 9, 5, seed=1)

    def dense(name, a):
        return a @ params[name]["kernel"] + params[name]["bias"]

    q, k, v = dense("q", x), dense("k", context), dense("v", context)
    y = np.zeros_like(q)
    for i in range(heads):
        head = np.s_[..., i * d : (i + 1) * d]
        logits = q[head] @ k[head].swapaxes(1, 2) / np.sqrt(d)
        if causal:  # later tokens have no weight
            logits = np.where(np.tri(7, dtype=bool), logits, -np.inf)
        y[head] = softmax(logits) @ v[head]
    out = call(graph, params, x, *([] if context_dim is None else [context]), causal=causal)
    assert out.shape == (2, 7, out_dim or 6)
    np.testing.assert_allclose(out, dense("out", y), atol=2e-5)


def test_a_causal_token_ignores_later_tokens(drawn):
    graph, params = drawn(Attention, 6, heads=2, head_dim=3, **F32)
    x, other = normal(1, 7, 6), normal(1, 7, 6, seed=1)
    other[:, :4] = x[:, :4]
    one, two = (call(graph, params, tokens, causal=True) for tokens in (x, other))
    np.testing.assert_array_equal(one[:, :4], two[:, :4])
    assert not np.any(np.isclose(one[:, 4:], two[:, 4:]).all(-1))


def test_softmax_is_float32_when_attention_computes_in_bfloat16(drawn):
    graph, params = drawn(Attention, 8, heads=1, head_dim=8, dtype=jnp.bfloat16)
    params = jax.tree.map(lambda a: np.eye(8, dtype=np.float32) if a.ndim == 2 else 0 * a, params)
    x = np.zeros((1, 1000, 8), np.float32)
    x[..., 0] = 1.0  # equal logits: 1000 weights of 1/1000, which bfloat16 could not add up to 1
    out = call(graph, params, jnp.asarray(x, jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float32)[0, :, 0], 1.0, rtol=0.01)


def test_spatial_attention_ignores_positions(drawn):
    graph, params = drawn(SpatialSelfAttention, 4, BLOCK, heads=2)
    x, order = normal(1, 12, 4), np.random.default_rng(0).permutation(12)
    one = call(graph, params, x.reshape(1, 2, 6, 4))
    other = call(graph, params, x[:, order].reshape(1, 4, 3, 4))
    np.testing.assert_allclose(
        np.reshape(one, x.shape)[:, order], np.reshape(other, x.shape), atol=1e-5
    )


def test_upsample_repeats_pixels_before_it_convolves(drawn):
    graph, params = drawn(Upsample, 1, **F32)
    params = {"conv": {"kernel": np.roll(corner(1), (1, 1), (0, 1)), "bias": np.zeros(1)}}
    x = normal(1, 3, 5, 1)
    np.testing.assert_array_equal(call(graph, params, x), x.repeat(2, axis=1).repeat(2, axis=2))


def test_downsample_paddings_see_other_pixels(drawn):
    x = normal(1, 6, 8, 1)
    params = {"conv": {"kernel": corner(1), "bias": np.zeros(1)}}
    for padding, expected in (
        ((0, 1), x[:, ::2, ::2]),  # the corner of the kernel falls on pixels 0, 2, 4
        ((1, 1), np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))[:, :-2:2, :-2:2]),  # on -1, 1, 3
    ):
        graph, _ = drawn(Downsample, 1, padding, **F32)
        np.testing.assert_array_equal(call(graph, params, x), expected)


def test_parameters_are_float32_whatever_it_computes_in(drawn):
    block = dataclasses.replace(BLOCK, dtype=jnp.bfloat16)
    graph, params = drawn(ResBlock, 4, 8, block, emb_dim=6)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    assert call(graph, params, normal(1, 4, 4, 4), normal(1, 6)).dtype == jnp.bfloat16


def test_remat_stores_less_and_has_the_same_gradients(drawn):
    """Dropout included: the second block draws another mask than the first, both times."""
    x, emb = normal(2, 8, 8, 4), normal(2, 6)
    kept, gradients = [], []
    for remat in (False, True):
        config = dataclasses.replace(BLOCK, dropout=0.5, remat=remat)
        graph, params = drawn(ResBlock, 4, 4, config, emb_dim=6)

        def loss(params, graph=graph):
            rngs, block = nnx.Rngs(dropout=jax.random.key(1)), nnx.merge(graph, params)
            return jnp.sum(block(block(x, emb, rngs), emb, rngs) ** 2)

        residuals = jax.eval_shape(lambda p, loss=loss: jax.vjp(loss, p)[1], params)
        kept.append(sum(leaf.size for leaf in jax.tree.leaves(residuals)))
        gradients.append(jax.jit(jax.grad(loss))(params))
    assert kept[1] < 0.5 * kept[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *gradients)
