"""The Gaussian posterior: the reference's numbers, clipping, sampling."""

import jax
import numpy as np

from ldm_jax.autoencoder.kl import kl_to_standard_normal, sample_posterior, split_moments


def nhwc(a):
    return a.transpose(0, 2, 3, 1)


def test_kl_and_standard_deviation_equal_the_reference(golden):
    moments = nhwc(golden["gauss/moments"])
    np.testing.assert_allclose(kl_to_standard_normal(moments), golden["gauss/kl"], rtol=1e-5)
    mean, _ = split_moments(moments)
    key = jax.random.key(0)
    std = (sample_posterior(moments, key) - mean) / jax.random.normal(key, mean.shape)
    np.testing.assert_allclose(std, nhwc(golden["gauss/std"]), rtol=1e-3)


def test_kl_is_the_mean_of_log_q_minus_log_p():
    rng = np.random.default_rng(0)
    mean, logvar = rng.normal(size=(2, 1, 2, 3)), rng.uniform(-2, 1, (2, 1, 2, 3))
    z = mean + np.exp(logvar / 2) * rng.normal(size=(100_000, 2, 1, 2, 3))
    log_q = -0.5 * (logvar + (z - mean) ** 2 / np.exp(logvar))
    estimate = (log_q + 0.5 * z**2).mean(0).sum((1, 2, 3))
    moments = np.concatenate([mean, logvar], -1).astype(np.float32)
    np.testing.assert_allclose(kl_to_standard_normal(moments), estimate, rtol=0.01)


def test_kl_of_the_standard_normal_is_zero():
    np.testing.assert_array_equal(kl_to_standard_normal(np.zeros((3, 2, 2, 8))), np.zeros(3))


def test_log_variance_is_clipped_and_the_mean_is_not():
    moments = np.array([100.0, -100.0, 100.0, -100.0], np.float32).reshape(1, 1, 1, 4)
    mean, logvar = split_moments(moments)
    assert mean.ravel().tolist() == [100.0, -100.0]
    assert logvar.ravel().tolist() == [20.0, -30.0]


def test_samples_have_the_posterior_s_mean_and_variance():
    moments = np.zeros((1, 100, 100, 4), np.float32)
    moments[..., 0], moments[..., 1] = 2.0, -1.0
    moments[..., 2], moments[..., 3] = np.log(0.25), np.log(9.0)
    z = np.asarray(sample_posterior(moments, jax.random.key(0)))
    np.testing.assert_allclose(z.mean((0, 1, 2)), [2.0, -1.0], atol=0.1)
    np.testing.assert_allclose(z.std((0, 1, 2)), [0.5, 3.0], rtol=0.03)
