"""The second stage's step: its metrics, its gradients, what it hands to model and latents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldm_jax.conditioning.class_label import ClassEmbedder
from ldm_jax.conditioning.model import ConditionalModel, drop_condition
from ldm_jax.diffusion.schedule import ScheduleConfig, make_schedule
from ldm_jax.diffusion.step import DiffusionObjective

SCHEDULE = make_schedule(ScheduleConfig(timesteps=20, beta_end=0.5))
NULL = 3
Z_0 = np.random.default_rng(0).normal(size=(64, 2, 2, 3)).astype(np.float32)
BATCH = {"z": Z_0, "condition": np.arange(64, dtype=np.int32) % NULL}
CONSTANTS = {"scale": jnp.float32(2.0)}
KEY = jax.random.key(0)


class PixelNet(nnx.Module):
    """The smallest thing with a UNet's face: it sees pixel, time, mean token; and has dropout."""

    def __init__(self, context_dim, rate=0.0, *, rngs):
        self.pixel = nnx.Linear(3, 3, rngs=rngs)
        self.time = nnx.Linear(1, 3, rngs=rngs)
        self.token = nnx.data(nnx.Linear(context_dim, 3, rngs=rngs) if context_dim else None)
        self.dropout = nnx.Dropout(rate)

    def __call__(self, z_t, t, context=None, label=None, rngs=None):
        h = self.pixel(z_t) + self.time(t[:, None] / 20)[:, None, None]
        if context is not None:
            h = h + self.token(context.mean(1))[:, None, None]
        return self.dropout(h, deterministic=rngs is None, rngs=rngs)


def conditional(rngs):
    return ConditionalModel(PixelNet(4, rngs=rngs), ClassEmbedder(NULL + 1, 4, rngs=rngs))


def unconditional(rngs):
    return ConditionalModel(PixelNet(0, rngs=rngs), None)


def latents(constants, batch, key):
    return constants["scale"] * batch["z"]


def make_objective(build=conditional, drop=0.0, latents=latents, **kwargs):
    def condition(constants, batch, key):
        return drop_condition(key, batch["condition"], jnp.int32(NULL), drop)

    return DiffusionObjective(
        build, SCHEDULE, "eps", latents, None if build is unconditional else condition, **kwargs
    )


@pytest.fixture(scope="module")
def params(drawn):
    return drawn(conditional)[1]


@pytest.fixture(scope="module")
def step(params):
    """(batch, key) -> (grads, metrics) with conditions kept."""
    grads = jax.jit(make_objective().loss_and_grads)
    return lambda batch=BATCH, key=KEY: grads(params, CONSTANTS, batch, key, jnp.int32(0))


def test_loss_is_the_mean_of_its_four_noise_levels_and_of_its_examples(params, step):
    _, metrics = step()
    levels = [metrics[f"loss_{name}_noise"] for name in ("least", "less", "more", "most")]
    np.testing.assert_allclose(metrics["loss"], np.mean(levels), rtol=1e-5)
    loss, t = make_objective().loss(params, CONSTANTS, BATCH, KEY)
    np.testing.assert_allclose(metrics["loss"], np.mean(loss), rtol=1e-5)
    for quarter, level in enumerate(levels):  # T = 20: five steps each
        inside = np.asarray(t) // 5 == quarter
        assert inside.any()
        np.testing.assert_allclose(level, 4 * np.mean(np.where(inside, loss, 0)), rtol=1e-5)


def test_gradient_is_that_of_the_loss_for_unet_and_tau_alike(params, step):
    grads, _ = step()
    for part, name in (("unet", "pixel"), ("unet", "token"), ("tau", "embedding")):
        assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(grads[part][name]))
    assert not np.any(grads["tau"]["embedding"]["embedding"][NULL])  # nobody was dropped
    # Along the gradient the loss changes by its squared length.
    objective, small = make_objective(), 1e-3

    def loss(sign):
        moved = jax.tree.map(lambda p, g: p + sign * small * g, params, grads)
        return jnp.mean(objective.loss(moved, CONSTANTS, BATCH, KEY)[0])

    slope = (loss(1.0) - loss(-1.0)) / (2 * small)
    length = sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(grads))
    np.testing.assert_allclose(slope, length, rtol=1e-2)


def test_a_frozen_part_has_no_gradient(params):
    objective = make_objective(frozen=("tau",))
    grads, _ = jax.eval_shape(objective.loss_and_grads, params, CONSTANTS, BATCH, KEY, jnp.int32(0))
    assert jax.tree.structure(grads) == jax.tree.structure({"unet": params["unet"]})


def test_the_error_may_be_absolute(params):
    """By Jensen no mean of squares is below the square of the mean."""
    square, absolute = (
        np.asarray(make_objective(loss_norm=norm).loss(params, CONSTANTS, BATCH, KEY)[0])
        for norm in ("l2", "l1")
    )
    np.testing.assert_array_equal(make_objective().loss(params, CONSTANTS, BATCH, KEY)[0], square)
    assert (absolute**2 < square).all() and (absolute > 0.5 * square**0.5).all()


def test_the_noise_levels_of_the_loss_may_be_drawn_and_weighted_otherwise(params):
    """min-SNR weighs no error of eps by more than 1."""
    plain, weighted, other = (
        make_objective(**how).loss(params, CONSTANTS, BATCH, KEY)
        for how in ({}, {"min_snr_gamma": 0.5}, {"density": "logit-normal"})
    )
    np.testing.assert_array_equal(plain[1], weighted[1])
    assert (weighted[0] <= plain[0]).all() and (weighted[0] < 0.5 * plain[0]).any()
    assert not np.array_equal(plain[1], other[1])


def test_a_condition_that_is_always_dropped_does_not_matter(params):
    grads = jax.jit(make_objective(drop=1.0).loss_and_grads)
    other = BATCH | {"condition": BATCH["condition"][::-1]}
    one, two = (grads(params, CONSTANTS, batch, KEY, jnp.int32(0)) for batch in (BATCH, other))
    assert jax.tree.all(jax.tree.map(np.array_equal, one, two))
    table = one[0]["tau"]["embedding"]["embedding"]
    assert np.any(table[NULL]) and not np.any(table[:NULL])  # only "no class" learns


def test_a_condition_that_is_kept_matters(step):
    other = BATCH | {"condition": BATCH["condition"][::-1]}
    assert step()[1]["loss"] != step(other)[1]["loss"]


def test_the_same_key_gives_the_same_step(step):
    same, other = step(), step(key=jax.random.key(1))
    assert jax.tree.all(jax.tree.map(np.array_equal, step(), same))
    assert step()[1]["loss"] != other[1]["loss"]


def test_an_unconditional_model_needs_no_condition():
    objective = make_objective(unconditional)
    fresh = objective.init(KEY)
    assert set(fresh) == {"unet"}
    grads, _ = jax.eval_shape(
        objective.loss_and_grads, fresh, CONSTANTS, {"z": Z_0}, KEY, jnp.int32(0)
    )
    assert jax.tree.structure(grads) == jax.tree.structure(fresh)


def test_latents_get_the_constants_the_batch_and_a_key_of_their_own(params):
    """The model is trained on what `latents` returns: with z_0 = 0 and scale 0, on noise alone."""
    keys = []

    def watch(constants, batch, key):
        keys.append(key)
        return constants["scale"] * batch["z"]

    objective = make_objective(latents=watch)
    zero = objective.loss(params, {"scale": 0.0}, BATCH, KEY)[0]
    also = objective.loss(params, {"scale": 1.0}, BATCH | {"z": 0 * Z_0}, KEY)[0]
    np.testing.assert_array_equal(zero, also)
    assert not np.array_equal(jax.random.key_data(keys[0]), jax.random.key_data(KEY))


def test_dropout_is_drawn_only_when_the_model_has_it():
    def build(rngs):
        return ConditionalModel(PixelNet(0, rate=0.5, rngs=rngs), None)

    losses = []
    for dropout in (True, False):
        objective = DiffusionObjective(build, SCHEDULE, "eps", latents, dropout=dropout)
        losses.append(objective.loss(objective.init(KEY), CONSTANTS, BATCH, KEY)[0])
        jax.eval_shape(
            objective.loss_and_grads, objective.init(KEY), CONSTANTS, BATCH, KEY, jnp.int32(0)
        )
    assert not np.allclose(*losses)
