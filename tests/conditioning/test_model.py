"""How a condition enters: tau's tokens reach the UNet; dropped conditions become the null one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldm_jax.conditioning.model import ConditionalModel, drop_condition

ROWS = 10_000


class Seen(nnx.Module):
    """A UNet that returns what it was given."""

    def __call__(self, z_t, t, context, rngs):
        return z_t, t, context, rngs


class Tau(nnx.Module):
    def __call__(self, y):
        return y * 10


def test_the_unet_gets_tau_of_y_or_nothing():
    z_t, t, y = np.ones((2, 1, 1, 1)), np.arange(2), np.array([3, 4])
    seen = ConditionalModel(Seen(), Tau())(z_t, t, y, "rngs")
    assert seen[0] is z_t and seen[1] is t and seen[3] == "rngs"
    np.testing.assert_array_equal(seen[2], [30, 40])
    assert ConditionalModel(Seen(), None)(z_t, t) == (z_t, t, None, None)


@pytest.mark.parametrize("shape, null", [((), 7), ((3,), (7, 8, 9))])
def test_conditions_are_dropped_whole_and_at_the_given_rate(shape, null):
    y = jnp.broadcast_to(jnp.arange(ROWS).reshape(-1, *[1] * len(shape)) + 100, (ROWS, *shape))
    out = np.asarray(drop_condition(jax.random.key(0), y, jnp.asarray(null), 0.1))
    assert out.shape == y.shape and out.dtype == y.dtype
    flat, kept = out.reshape(ROWS, -1), np.asarray(y).reshape(ROWS, -1)
    dropped = (flat == np.ravel(null)).all(1)
    np.testing.assert_array_equal(flat[~dropped], kept[~dropped])
    assert abs(dropped.mean() - 0.1) < 0.015  # five standard deviations


def test_probabilities_0_and_1_drop_none_and_all():
    y = jnp.arange(100)
    np.testing.assert_array_equal(drop_condition(jax.random.key(0), y, jnp.int32(-1), 0.0), y)
    assert (drop_condition(jax.random.key(0), y, jnp.int32(-1), 1.0) == -1).all()
