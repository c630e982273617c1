"""Classifier-free guidance: the formula, scale 1, one call."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.sampling.guidance import guided

Z_T = np.random.default_rng(0).normal(size=(3, 2, 2, 1)).astype(np.float32)
T = jnp.array([5, 5, 5])
Y, NULL = jnp.array([[1, 2], [3, 4], [5, 6]]), jnp.array([0, 9])


def model(z_t, t, y):
    """Some function of all three, picture by picture."""
    weight = (y[:, 0] + 0.1 * y[:, 1] + t)[:, None, None, None]
    return jnp.tanh(z_t * weight)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, -2.0])
def test_guided_goes_from_the_null_prediction_towards_the_conditional_one(scale):
    e_y, e_null = model(Z_T, T, Y), model(Z_T, T, jnp.tile(NULL, (3, 1)))
    expected = e_null + scale * (e_y - e_null)
    np.testing.assert_allclose(guided(model, Y, NULL, scale)(Z_T, T), expected, atol=1e-5)


def test_scale_1_is_the_conditional_model_and_0_the_unconditional_one():
    np.testing.assert_allclose(guided(model, Y, NULL, 1.0)(Z_T, T), model(Z_T, T, Y), atol=1e-6)
    unconditional = model(Z_T, T, jnp.tile(NULL, (3, 1)))
    np.testing.assert_allclose(guided(model, Y, NULL, 0.0)(Z_T, T), unconditional, atol=1e-6)


def test_the_model_is_called_once_on_twice_the_batch():
    calls = []

    def watch(z_t, t, y):
        calls.append((z_t.shape, t.shape, y.shape))
        return model(z_t, t, y)

    guided(watch, Y, NULL, 3.0)(Z_T, T)
    assert calls == [((6, 2, 2, 1), (6,), (6, 2))]


def test_the_null_class_is_a_scalar():
    def label_model(z_t, t, y):
        return z_t + y[:, None, None, None]

    out = guided(label_model, jnp.array([1, 2, 3]), np.int32(10), 2.0)(Z_T, T)
    shift = jnp.array([-8.0, -6.0, -4.0])[:, None, None, None]  # 10 + 2 (y - 10)
    np.testing.assert_allclose(out, Z_T + shift, atol=1e-5)
