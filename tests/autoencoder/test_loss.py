"""Eq. (25): the weights of the reconstruction's terms and the adversary's adaptive weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.autoencoder.loss import AutoencoderLossConfig, adaptive_weight, reconstruction_loss


def test_reconstruction_is_a_weighted_sum_of_means():
    rng = np.random.default_rng(0)
    x, x_hat = rng.uniform(-1, 1, (2, 3, 4, 5, 3)).astype(np.float32)
    config = AutoencoderLossConfig(l1_weight=0.5, l2_weight=2.0, perceptual_weight=3.0)
    expected = 0.5 * np.abs(x - x_hat).mean() + 2.0 * ((x - x_hat) ** 2).mean()
    np.testing.assert_allclose(reconstruction_loss(x, x_hat, config), expected, rtol=1e-6)

    def perceptual(x, x_hat):  # one distance an image
        return jnp.abs(x - x_hat).max(axis=(1, 2, 3))

    distance = np.abs(x - x_hat).max((1, 2, 3)).mean()
    total = reconstruction_loss(x, x_hat, config, perceptual)
    np.testing.assert_allclose(total, expected + 3.0 * distance, rtol=1e-6)


def test_the_paper_s_default_is_the_absolute_error_alone():
    x = jnp.zeros((1, 2, 2, 3))
    assert reconstruction_loss(x, x + 0.25, AutoencoderLossConfig()) == 0.25


def test_adaptive_weight_is_the_ratio_of_the_gradients_norms():
    rng = np.random.default_rng(0)
    rec, gan = rng.normal(size=(2, 3, 3, 8, 3)).astype(np.float32)
    expected = 0.8 * np.sqrt((rec**2).sum()) / (np.sqrt((gan**2).sum()) + 1e-4)
    np.testing.assert_allclose(adaptive_weight(rec, gan, 0.8), expected, rtol=1e-5)


@pytest.mark.parametrize("rec, gan, weight", [(1.0, 0.0, 1e4 / 2), (0.0, 1.0, 0.0)])
def test_adaptive_weight_is_bounded(rec, gan, weight):
    ones = jnp.ones((1, 1, 1, 4))
    np.testing.assert_allclose(adaptive_weight(rec * ones, gan * ones, 0.5), weight, rtol=1e-5)
    # The bound comes before the factor, as in the original.
    np.testing.assert_allclose(adaptive_weight(1e9 * ones, ones, 0.5), 0.5 * 1e4, rtol=1e-5)
    np.testing.assert_allclose(adaptive_weight(ones, ones, 0.5, 0.25), 0.5 * 0.25, rtol=1e-5)


def test_adaptive_weight_is_a_constant_for_differentiation():
    rec, gan = jnp.arange(1.0, 5.0), jnp.ones(4)
    assert not np.any(jax.grad(lambda rec: adaptive_weight(rec, gan, 1.0))(rec))
