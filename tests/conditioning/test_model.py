"""How a condition enters the UNet, through tau or not; dropped ones become the null condition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldm_jax.conditioning.class_label import ClassEmbedder
from ldm_jax.conditioning.model import ConditionalModel, drop_condition
from ldm_jax.diffusion.unet import UNet, UNetConfig

ROWS = 10_000


class Seen(nnx.Module):
    """A UNet that returns what it was given."""

    def __call__(self, z_t, t, context=None, label=None, rngs=None):
        return {"z_t": z_t, "t": t, "context": context, "label": label, "rngs": rngs}


class Tau(nnx.Module):
    def __call__(self, y):
        return y * 10


Z_T, T = np.ones((2, 4, 4, 3)), np.arange(2)
NOTHING = {"z_t": Z_T, "t": T, "context": None, "label": None, "rngs": "rngs"}


def assert_seen(model, y, **expected):
    """Asserts what the UNet is given, which is nothing but z_t and t unless it is `expected`."""
    seen = model(Z_T, T, y, "rngs")
    for name, value in (NOTHING | expected).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(seen[name], value)
        else:
            assert seen[name] is value or seen[name] == value, name


def test_without_a_condition_the_unet_gets_none():
    assert_seen(ConditionalModel(Seen()), None)
    seen = ConditionalModel(Seen())(Z_T, T)
    assert seen["rngs"] is None and seen["z_t"] is Z_T


@pytest.mark.parametrize("tau, factor", [(Tau(), 10), (None, 1)])
def test_tokens_enter_by_cross_attention_and_classes_with_the_time(tau, factor):
    """Each through tau, or as they are where there is none."""
    tokens, classes = np.arange(24.0).reshape(2, 3, 4), np.array([3, 4])
    assert_seen(ConditionalModel(Seen(), tau), tokens, context=factor * tokens)
    assert_seen(ConditionalModel(Seen(), tau, "time"), classes, label=factor * classes)


@pytest.mark.parametrize("tau, factor", [(Tau(), 10), (None, 1)])
def test_a_map_is_stacked_behind_the_latent(tau, factor):
    y = np.arange(64.0).reshape(2, 4, 4, 2)
    stacked = np.concatenate([Z_T, factor * y], axis=-1)
    assert_seen(ConditionalModel(Seen(), tau, "concatenation"), y, z_t=stacked)


UNET = UNetConfig(
    channels=4, channel_mult=(1,), num_res_blocks=1, attention_factors=(), head_channels=4, groups=2
)


def by_cross_attention(*, rngs):
    unet = UNet(UNET, 3, 3, context_dim=5, rngs=rngs)
    return ConditionalModel(unet, ClassEmbedder(4, 5, rngs=rngs))


def with_the_time(*, rngs):
    return ConditionalModel(UNet(UNET, 3, 3, num_classes=4, rngs=rngs), how="time")


@pytest.mark.parametrize(
    "build, shape", [(by_cross_attention, (2, 1, 5)), (with_the_time, (2, 16))]
)
def test_what_is_embedded_enters_in_place_of_y(build, shape, drawn):
    graph, params = drawn(build)

    @jax.jit
    def both(params, z_t, y):
        model = nnx.merge(graph, params)
        c = model.embed(y)
        middle = model(z_t, T, c=(c + c[::-1]) / 2)
        return c, model(z_t, T, y), model(z_t, T, c=c), middle

    z_t = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    c, by_y, by_c, middle = both(params, z_t, np.array([3, 1]))
    assert c.shape == shape and c.dtype == np.float32
    np.testing.assert_allclose(by_c, by_y, atol=1e-6)
    assert np.abs(middle - by_y).max() > 1e-3


def test_tau_is_a_part_of_the_model_and_trained_with_it():
    def names(tau):
        state = nnx.state(ConditionalModel(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), tau), nnx.Param)
        return set(nnx.to_pure_dict(state))

    assert names(nnx.Linear(2, 2, rngs=nnx.Rngs(0))) == {"unet", "tau"}
    assert names(None) == {"unet"}


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
