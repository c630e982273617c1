"""The spatial transformer: its block against NumPy, how the condition enters, its start."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ldm_jax.diffusion.transformer import GatedFeedForward, SpatialTransformer, TransformerBlock
from ldm_jax.parameters import Keys, abstract_module

F32 = {"dtype": jnp.float32}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def call(graph, params, *args):
    """The module's output, compiled as one program."""
    return jax.jit(lambda params, *args: nnx.merge(graph, params)(*args))(params, *args)


def dense(p, x):
    return x @ p["kernel"] + p.get("bias", 0.0)


def layer_norm(p, x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def attention(p, x, context, heads):
    q, k, v = dense(p["q"], x), dense(p["k"], context), dense(p["v"], context)
    y = np.zeros_like(q)
    for head in np.split(np.arange(q.shape[-1]), heads):
        weight = np.exp(q[..., head] @ k[..., head].swapaxes(1, 2) / np.sqrt(len(head)))
        y[..., head] = weight / weight.sum(-1, keepdims=True) @ v[..., head]
    return dense(p["out"], y)


def gated_feed_forward(p, x):
    value, gate = np.split(dense(p["proj_in"], x), 2, axis=-1)
    gelu = gate * (1 + np.vectorize(math.erf)(gate / np.sqrt(2))) / 2
    return dense(p["proj_out"], value * gelu)


def test_feed_forward_gates_the_first_half_by_the_exact_gelu_of_the_second(drawn):
    graph, params = drawn(GatedFeedForward, 6, **F32)
    assert params["proj_in"]["kernel"].shape == (6, 48)
    x = 3 * normal(2, 5, 6)
    out = call(graph, params, x)
    np.testing.assert_allclose(out, gated_feed_forward(params, x), atol=2e-5)


def test_block_is_self_attention_cross_attention_feed_forward(drawn):
    graph, params = drawn(TransformerBlock, 8, 5, heads=2, **F32)
    assert (
        "bias" not in params["cross_attention"]["q"] and "bias" in params["self_attention"]["out"]
    )
    x, context = normal(2, 6, 8), normal(2, 3, 5, seed=1)
    out = call(graph, params, x, context)
    n = layer_norm(params["norm1"], x)
    x = x + attention(params["self_attention"], n, n, heads=2)
    x = x + attention(params["cross_attention"], layer_norm(params["norm2"], x), context, heads=2)
    x = x + gated_feed_forward(params["feed_forward"], layer_norm(params["norm3"], x))
    np.testing.assert_allclose(out, x, atol=5e-5)


def test_spatial_transformer_is_a_residual_branch_that_starts_as_nothing(drawn):
    args = {"heads": 2, "depth": 2, "groups": 2, **F32}
    fresh = abstract_module(lambda rngs: SpatialTransformer(8, 5, **args, rngs=rngs))
    assert len(fresh.blocks) == 2
    assert fresh.norm.epsilon == 1e-6  # the UNet's ResBlocks have 1e-5
    graph, params = drawn(SpatialTransformer, 8, 5, **args)
    x, context = normal(1, 2, 3, 8), normal(1, 4, 5, seed=1)
    assert not np.allclose(call(graph, params, x, context), x)

    @jax.jit
    def start(key):
        proj_out = SpatialTransformer(8, 5, **args, rngs=Keys(key)).proj_out
        return nnx.to_pure_dict(nnx.state(proj_out))

    params["proj_out"] = start(jax.random.key(0))
    np.testing.assert_array_equal(call(graph, params, x, context), x)


def test_the_condition_is_a_set_of_tokens(drawn):
    """Their order means nothing here: what orders them is tau's positional embedding."""
    graph, params = drawn(SpatialTransformer, 8, 5, heads=2, depth=1, groups=2, **F32)
    x, context = normal(1, 2, 3, 8), normal(1, 4, 5, seed=1)
    out = call(graph, params, x, context)
    np.testing.assert_allclose(call(graph, params, x, context[:, ::-1]), out, atol=1e-5)
    assert not np.allclose(call(graph, params, x, context[:, :3]), out, atol=1e-3)
