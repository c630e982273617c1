"""tau_theta for texts: Eqs. (18)-(23) in NumPy, no mask; numbers: `pretrained/test_golden`."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldm_jax.conditioning.transformer import TransformerConfig, TransformerEncoder
from ldm_jax.parameters import abstract_module

SMALL = TransformerConfig(dim=6, depth=2, heads=2)
TOKENS = np.array([[3, 1, 4, 0], [2, 5, 0, 0]])


def compiled(graph):
    return jax.jit(lambda params, y: nnx.merge(graph, params)(y))


@pytest.fixture(scope="module")
def small(drawn):
    """(parameters, jitted encoder) of the smallest one."""
    graph, params = drawn(TransformerEncoder, SMALL, 7, 4)
    return params, compiled(graph)


def test_published_size_has_its_number_of_parameters():
    """text2img256, without its output layer over the vocabulary, which nothing uses."""
    config = TransformerConfig(dim=640, depth=32)
    model = abstract_module(lambda rngs: TransformerEncoder(config, 30_522, 77, rngs=rngs))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model)))
    assert parameters == 186_154_682 - 30_522 * (640 + 1)


def test_equations_18_to_23(small):
    params, run = small
    p = jax.tree.map(np.float64, params)

    def norm(p, x):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]

    def attention(p, x):
        q, k, v = (x @ p[name]["kernel"] for name in "qkv")
        heads = []
        for i in np.split(np.arange(2 * 64), 2):
            e = np.exp(q[..., i] @ k[..., i].swapaxes(1, 2) / np.sqrt(64))
            heads.append(e / e.sum(-1, keepdims=True) @ v[..., i])
        return np.concatenate(heads, -1) @ p["out"]["kernel"] + p["out"]["bias"]

    def mlp(layer, x):
        h = x @ layer["mlp_in"]["kernel"] + layer["mlp_in"]["bias"]
        gelu = h * (1 + np.vectorize(math.erf)(h / np.sqrt(2))) / 2
        return gelu @ layer["mlp_out"]["kernel"] + layer["mlp_out"]["bias"]

    zeta = p["tok_emb"]["embedding"][TOKENS] + p["pos_emb"]["embedding"]  # Eq. (18)
    for layer in (p["layers"][0], p["layers"][1]):
        zeta_1 = norm(layer["norm1"], zeta)  # Eq. (19)
        zeta_2 = attention(layer["attention"], zeta_1) + zeta  # Eq. (20)
        zeta_3 = norm(layer["norm2"], zeta_2)  # Eq. (21)
        zeta = mlp(layer, zeta_3) + zeta_2  # Eq. (22)
    np.testing.assert_allclose(run(params, TOKENS), norm(p["norm_out"], zeta), atol=1e-4)  # (23)


def test_every_token_sees_every_other_padding_included(small):
    params, run = small
    before = np.asarray(run(params, TOKENS))
    for i in range(4):
        changed = TOKENS.copy()
        changed[0, i] = 6
        moved = np.abs(np.asarray(run(params, changed)) - before).max(-1)
        assert (moved[0] > 1e-4).all() and (moved[1] == 0).all()


def test_the_order_of_words_matters(small):
    params, run = small
    reverse = run(params, TOKENS[:, ::-1])[:, ::-1]
    assert not np.allclose(reverse, run(params, TOKENS), atol=1e-2)


def test_bfloat16_is_close(small, drawn):
    params, run = small
    graph, _ = drawn(TransformerEncoder, SMALL, 7, 4, dtype=jnp.bfloat16)
    zeta = compiled(graph)(params, TOKENS)
    assert zeta.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(zeta), run(params, TOKENS), atol=0.15)
