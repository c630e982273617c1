"""The patch discriminator: sizes, statistics, losses; numbers: `pretrained/test_golden`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldm_jax.autoencoder.discriminator import (
    BatchNorm,
    Discriminator,
    DiscriminatorConfig,
    hinge_discriminator,
    hinge_generator,
)
from ldm_jax.parameters import abstract_module


def shapes(config, channels=3, dtype=jnp.float32):
    return abstract_module(lambda rngs: Discriminator(config, channels, dtype=dtype, rngs=rngs))


def logits_shape(config, side, channels=3):
    x = jax.ShapeDtypeStruct((2, side, side, channels), jnp.float32)
    return nnx.eval_shape(lambda model, x: model(x), shapes(config, channels), x).shape


@pytest.mark.parametrize("layers, parameters", [(2, 663_361), (3, 2_765_633)])
def test_published_sizes_have_their_number_of_parameters(layers, parameters):
    state = nnx.state(shapes(DiscriminatorConfig(layers=layers)))
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == parameters


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_smallest_image_gives_one_logit_and_a_smaller_one_none(layers):
    config = DiscriminatorConfig(channels=4, layers=layers)
    assert logits_shape(config, config.smallest_size) == (2, 1, 1, 1)
    assert 0 in logits_shape(config, config.smallest_size - 1)
    assert logits_shape(config, 64, channels=1) == (2, 64 // 2**layers - 2, 64 // 2**layers - 2, 1)


def test_batch_norm_normalises_over_the_batch_and_all_positions(drawn):
    graph, params = drawn(BatchNorm, 4)
    x = 5.0 + 2.0 * np.random.default_rng(0).normal(size=(3, 4, 5, 4)).astype(np.float32)
    exact = x.astype(np.float64)
    normal = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-5)
    expected = normal * params["scale"] + params["bias"]
    np.testing.assert_allclose(nnx.merge(graph, params)(x), expected, atol=1e-5)


def test_bfloat16_gives_float32_logits():
    config = DiscriminatorConfig(channels=4, layers=1)
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    logits = nnx.eval_shape(lambda model, x: model(x), shapes(config, dtype=jnp.bfloat16), x)
    assert logits.dtype == jnp.float32


def test_hinge_losses_equal_the_reference_and_the_formula(golden):
    real, fake = golden["gan/logits_real"], golden["gan/logits_fake"]
    np.testing.assert_allclose(hinge_discriminator(real, fake), golden["gan/hinge"], rtol=1e-6)
    assert hinge_discriminator(jnp.zeros(3), jnp.zeros(3)) == 1.0  # it cannot tell
    assert hinge_discriminator(jnp.full(3, 1.5), jnp.full(3, -1.5)) == 0.0  # beyond the margin
    np.testing.assert_allclose(hinge_generator(fake), -fake.mean(), rtol=1e-6)
