"""Cross-attention maps of a trained run."""

import numpy as np
import pytest

import ldm_jax
from ldm_jax.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(trained):
    return ldm_jax.load(str(trained("captions")[1]))


def test_each_position_spreads_its_attention_over_the_words(model):
    maps = model.attention("a red square", steps=3)
    h, w, _ = model.geometry().shape
    tokens = model.info.caption_length
    assert maps and all(name.endswith("cross_attention") for name in maps)
    for probabilities in maps.values():
        assert probabilities.shape == (3, 2, h, w, tokens)  # of two heads
        assert (probabilities >= 0).all()
        np.testing.assert_allclose(probabilities.sum(-1), 1.0, rtol=1e-5)


def test_with_guidance_the_maps_are_those_of_the_condition(model):
    """At the first step, where z_T is the same; afterwards guidance leads elsewhere."""
    with_guidance = model.attention("a red square", steps=2, guidance=5.0)
    without = model.attention("a red square", steps=2, guidance=1.0)
    other = model.attention("a blue square", steps=2, guidance=1.0)
    for name, probabilities in without.items():
        np.testing.assert_allclose(with_guidance[name][0], probabilities[0], atol=1e-6)
        assert not np.allclose(other[name][0], probabilities[0], atol=1e-6)


def test_recording_changes_no_sample(model):
    before = model.sample("a red square", steps=2, seed=1)
    model.attention("a red square", steps=2, seed=1)
    np.testing.assert_array_equal(model.sample("a red square", steps=2, seed=1), before)


def test_what_has_no_such_maps_is_refused(model, trained):
    with pytest.raises(UserError, match="one condition; there are 2"):
        model.attention(["a red square", "a blue square"])
    with pytest.raises(UserError, match="no cross-attention"):
        ldm_jax.load(str(trained("flat")[1])).attention("a red square")
