"""The classifier of noisy latents: its two heads in NumPy, what they see, its numerics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldm_jax.diffusion.classifier import AttentionPool, NoisyLatentClassifier
from ldm_jax.diffusion.unet import UNetConfig
from ldm_jax.parameters import Keys, abstract_module

CONFIG = UNetConfig(
    channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_factors=(2,),
    head_channels=8,
    groups=4,
)
FLAT = UNetConfig(
    channels=8,
    channel_mult=(1,),
    num_res_blocks=1,
    attention_factors=(1,),
    head_channels=4,
    groups=4,
)
POOLS = ("mean", "attention")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def call(graph, params, *args):
    return jax.jit(lambda params, *args: nnx.merge(graph, params)(*args))(params, *args)


def softmax(a):
    e = np.exp(a - a.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


Z_T, T = normal(3, 4, 4, 2), np.array([5, 500, 900])


@pytest.fixture(scope="module", params=POOLS)
def classifier(request, drawn):
    """(graph, parameters) of one that tells seven classes of 4x4 latents."""
    return drawn(NoisyLatentClassifier, CONFIG, 2, 7, request.param, 4)


def test_attention_pool_restated(drawn):
    """The mean of the positions asks; it and they answer. Softmax(q K^T / sqrt(d)) V, in heads."""
    graph, params = drawn(AttentionPool, 6, 8, 5, heads=2, dtype=jnp.float32)
    h = normal(3, 2, 3, 8)
    tokens = h.reshape(3, 6, 8)
    tokens = np.concatenate([tokens.mean(1, keepdims=True), tokens], axis=1) + params["position"]

    def dense(name, a):
        layer = params["attention"][name]
        return a @ layer["kernel"] + layer["bias"]

    q, k, v = dense("q", tokens[:, :1]), dense("k", tokens), dense("v", tokens)
    heads = [
        softmax(q[..., part] @ k[..., part].swapaxes(1, 2) / 2) @ v[..., part]
        for part in (np.s_[:4], np.s_[4:])
    ]
    expected = dense("out", np.concatenate(heads, axis=-1))[:, 0]
    np.testing.assert_allclose(call(graph, params, h), expected, atol=1e-5)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("channel_mult", [(1,), (1, 2, 3)])
def test_a_latent_has_a_logit_for_each_class(channel_mult, dtype, pool):
    config = UNetConfig(8, channel_mult, 1, attention_factors=(), head_channels=4, groups=4)
    model = abstract_module(
        lambda rngs: NoisyLatentClassifier(config, 3, 11, pool, 16, dtype=dtype, rngs=rngs)
    )
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    z_t = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    logits = nnx.eval_shape(lambda model, z_t: model(z_t, jnp.arange(2)), model, z_t)
    assert (logits.shape, logits.dtype) == ((2, 11), jnp.float32)


def test_bfloat16_changes_little(classifier, drawn):
    graph, params = classifier
    exact = call(graph, params, Z_T, T)
    pool = nnx.merge(graph, params).pool
    rounded_graph, _ = drawn(NoisyLatentClassifier, CONFIG, 2, 7, pool, 4, dtype=jnp.bfloat16)
    rounded = call(rounded_graph, params, Z_T, T)
    assert rounded.dtype == exact.dtype == jnp.float32
    assert 0 < np.linalg.norm(rounded - exact) < 0.05 * np.linalg.norm(exact)


def test_latent_and_time_matter_and_examples_do_not_see_each_other(classifier):
    graph, params = classifier
    logits = np.asarray(call(graph, params, Z_T, T))
    for other in ((Z_T + 1, T), (Z_T, T + 50)):
        assert np.abs(call(graph, params, *other) - logits).max(1).min() > 1e-3
    swapped = call(graph, params, Z_T[::-1], T[::-1])
    np.testing.assert_allclose(swapped, logits[::-1], atol=1e-5)


def pointwise(params):
    """The same parameters, but no convolution sees a pixel's neighbours."""

    def centre(leaf):
        if leaf.ndim != 4:
            return leaf
        kept = np.zeros(leaf.shape[:2])
        kept[leaf.shape[0] // 2, leaf.shape[1] // 2] = 1
        return (leaf * kept[..., None, None]).astype(np.float32)

    return jax.tree.map(centre, params)


@pytest.mark.parametrize("pool, position, knows_place", [
    ("mean", None, False), ("attention", 1, True), ("attention", 0, False),
])  # fmt: skip
def test_only_the_attention_s_embeddings_know_a_position(pool, position, knows_place, drawn):
    """In a network of pixels that see each other by attention alone."""
    graph, params = drawn(NoisyLatentClassifier, FLAT, 2, 7, pool, 4)
    params = pointwise(params)
    if position is not None:
        params["head"]["position"] = position * params["head"]["position"]
    order = np.random.default_rng(0).permutation(16)
    shuffled = Z_T.reshape(3, 16, 2)[:, order].reshape(Z_T.shape)
    one, other = call(graph, params, Z_T, T), call(graph, params, shuffled, T)
    assert np.ptp(one) > 0.1
    assert (np.abs(one - other).max() > 1e-2) == knows_place
    if not knows_place:
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_with_convolutions_the_mean_sees_an_arrangement_too(drawn):
    graph, params = drawn(NoisyLatentClassifier, FLAT, 2, 7, "mean", 4)
    shuffled = Z_T[:, ::-1]
    one, other = call(graph, params, Z_T, T), call(graph, params, shuffled, T)
    assert np.abs(one - other).max() > 1e-2


def test_the_mean_takes_latents_of_any_size(drawn):
    """Attention has an embedding for each position, and so one size."""
    graph, params = drawn(NoisyLatentClassifier, CONFIG, 2, 7, "mean", 4)
    assert call(graph, params, normal(3, 8, 6, 2), T).shape == (3, 7)
    _, params = drawn(NoisyLatentClassifier, CONFIG, 2, 7, "attention", 6)
    assert params["head"]["position"].shape == (1 + 3 * 3, 16)


def test_with_the_mean_all_classes_are_equally_likely_at_the_start():
    @jax.jit
    def fresh(key):
        model = NoisyLatentClassifier(FLAT, 2, 7, "mean", 4, rngs=Keys(key))
        return model(Z_T, T)

    np.testing.assert_array_equal(fresh(jax.random.key(0)), np.zeros((3, 7)))


def test_dropout_acts_only_with_rngs(drawn):
    config = UNetConfig(**(vars(FLAT) | {"dropout": 0.5}))
    graph, params = drawn(NoisyLatentClassifier, config, 2, 7, "mean", 4)

    @jax.jit
    def run(key):
        model = nnx.merge(graph, params)
        return model(Z_T, T), model(Z_T, T, nnx.Rngs(dropout=key))

    (without, masked), (again, other) = run(jax.random.key(0)), run(jax.random.key(1))
    np.testing.assert_array_equal(without, again)
    assert not np.allclose(without, masked) and not np.allclose(other, masked)
