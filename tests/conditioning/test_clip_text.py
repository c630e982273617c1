"""CLIP's text encoder: the numbers of `transformers`, its causality, its published size.

`clip_text.npz` was computed by `CLIPTextModel` of transformers 5.23.0 (torch 2.13.0, CPU, float32):
hidden_act quick_gelu, the sizes of GOLDEN, weights by the rule of `golden_weight` from their names
in Stable Diffusion v1. `in_tokens` are its tokens, `out_z` is its last_hidden_state.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldm_jax.conditioning.clip_text import ClipTextConfig, ClipTextTransformer
from ldm_jax.parameters import abstract_module

NAMES = [
    (r"^tok_emb$", "embeddings.token_embedding"),
    (r"^pos_emb$", "embeddings.position_embedding"),
    (r"^norm_out$", "final_layer_norm"),
    (r"norm(\d)$", r"layer_norm\1"),
    (r"attention\.(\w+)$", r"self_attn.\1_proj"),
    (r"mlp_in$", "mlp.fc1"),
    (r"mlp_out$", "mlp.fc2"),
    (r"^layers", "encoder.layers"),
    (r"^", "cond_stage_model.transformer.text_model."),
]
GOLDEN = ClipTextConfig(dim=32, depth=2, heads=4, vocabulary=50, length=9)


@pytest.fixture(scope="module")
def clip():
    with np.load(Path(__file__).with_name("clip_text.npz")) as file:
        return dict(file)


@pytest.fixture(scope="module")
def small(drawn, fill):
    """(parameters, jitted encoder) of the smallest one, with the golden weights."""
    graph, params = drawn(ClipTextTransformer, GOLDEN)
    return fill(params, NAMES), jax.jit(lambda params, y: nnx.merge(graph, params)(y))


def test_tokens_equal_transformers(clip, small):
    params, run = small
    zeta, expected = run(params, clip["in_tokens"]), clip["out_z"]
    assert np.linalg.norm(zeta - expected) < 1e-5 * np.linalg.norm(expected)


def test_a_token_sees_those_before_it_and_none_after_it(clip, small):
    params, run = small
    tokens = clip["in_tokens"]
    before = np.asarray(run(params, tokens))
    for i in range(9):
        changed = tokens.copy()
        changed[0, i] = (changed[0, i] + 7) % 50
        moved = np.abs(np.asarray(run(params, changed)) - before).max(-1)
        assert (moved[0, :i] == 0).all() and (moved[0, i:] > 1e-5).all() and (moved[1] == 0).all()


def test_a_short_caption_is_the_beginning_of_a_long_one(clip, small):
    params, run = small
    short = run(params, clip["in_tokens"][:, :4])
    np.testing.assert_allclose(short, clip["out_z"][:, :4], atol=1e-5)


def test_published_size_has_its_number_of_parameters():
    """ViT-L/14, the text model alone."""
    model = abstract_module(lambda rngs: ClipTextTransformer(ClipTextConfig(), rngs=rngs))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model))) == 123_060_480
    tokens = jax.ShapeDtypeStruct((2, 77), jnp.int32)
    assert nnx.eval_shape(lambda m, y: m(y), model, tokens).shape == (2, 77, 768)


def test_bfloat16_is_close(clip, small, drawn):
    params, _ = small
    graph, _ = drawn(ClipTextTransformer, GOLDEN, dtype=jnp.bfloat16)
    zeta = jax.jit(lambda params, y: nnx.merge(graph, params)(y))(params, clip["in_tokens"])
    assert zeta.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(zeta), clip["out_z"], atol=0.1)
