"""The classifier's step: its cross-entropy and gradient in NumPy, its metrics, what it draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldm_jax.diffusion.classifier_step import ClassifierObjective, accuracies
from ldm_jax.diffusion.schedule import ScheduleConfig, make_schedule

SCHEDULE = make_schedule(ScheduleConfig(timesteps=20, beta_end=0.5))
B, CLASSES = 64, 5
Z_0 = np.random.default_rng(0).normal(size=(B, 2, 2, 3)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, CLASSES, B).astype(np.int32)
BATCH, CONSTANTS = {"z": Z_0, "condition": Y}, {"scale": jnp.float32(2.0)}
KEY = jax.random.key(0)


class Linear(nnx.Module):
    """The smallest thing with the classifier's face; it sees all of z_t and the time."""

    def __init__(self, rate=0.0, *, rngs):
        self.layer = nnx.Linear(13, CLASSES, rngs=rngs)
        self.dropout = nnx.Dropout(rate)

    def __call__(self, z_t, t, rngs=None):
        seen = jnp.concatenate([z_t.reshape(len(z_t), -1), t[:, None] / 20], axis=1)
        return self.layer(self.dropout(seen, deterministic=rngs is None, rngs=rngs))


def latents(constants, batch, key):
    return constants["scale"] * batch["z"]


def make(rate=0.0, **kwargs):
    return ClassifierObjective(lambda rngs: Linear(rate, rngs=rngs), SCHEDULE, latents, **kwargs)


@pytest.fixture(scope="module")
def params(drawn):
    return drawn(Linear)[1]


@pytest.fixture(scope="module")
def step(params):
    """key -> (gradients, metrics)"""
    grads = jax.jit(make().loss_and_grads)
    return lambda key=KEY: grads(params, CONSTANTS, BATCH, key, jnp.int32(0))


def restated(params, key):
    """(gradients, loss `[B]`, whether each is right, t) in NumPy, from the same draws."""
    _, _, t = make().judge(params, CONSTANTS, BATCH, key)
    t = np.asarray(t)
    eps = np.asarray(jax.random.normal(jax.random.split(key, 4)[2], Z_0.shape))
    alpha_bar = SCHEDULE.alpha_bar[t][:, None, None, None]
    z_t = np.sqrt(alpha_bar) * 2 * Z_0 + np.sqrt(1 - alpha_bar) * eps
    seen = np.concatenate([z_t.reshape(B, -1), t[:, None] / 20], axis=1)
    logits = seen @ params["layer"]["kernel"] + params["layer"]["bias"]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    error = (p - np.eye(CLASSES)[Y]) / B
    gradients = {"kernel": seen.T @ error, "bias": error.sum(axis=0)}
    return gradients, -np.log(p[np.arange(B), Y]), logits.argmax(axis=1) == Y, t


def test_gradient_and_loss_are_those_of_the_cross_entropy_at_the_noisy_latents(params, step):
    gradients, metrics = step()
    expected, loss, right, _ = restated(params, KEY)
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(gradients["layer"][name], expected[name], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(metrics["loss"], loss.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["accuracy"], right.mean(), rtol=1e-6)


def test_accuracy_by_noise_level_is_that_of_each_quarter_of_t(params, step):
    _, metrics = step()
    _, _, right, t = restated(params, KEY)
    for quarter, name in enumerate(("least", "less", "more", "most")):  # T = 20: five steps each
        inside = t // 5 == quarter
        assert inside.any()
        np.testing.assert_allclose(
            metrics[f"accuracy_{name}_noise"], right[inside].mean(), rtol=1e-6
        )
    assert set(metrics) == {"loss", "accuracy"} | {
        f"accuracy_{name}_noise" for name in ("least", "less", "more", "most")
    }


def test_a_quarter_that_nothing_falls_into_counts_as_0():
    shares = accuracies(np.array([True, False]), np.array([0, 19]), 20)
    assert [float(share) for share in shares.values()] == [0.5, 1.0, 0.0, 0.0, 0.0]


def test_t_is_uniform_over_all_steps_and_drawn_anew_by_each_key(params):
    judge = jax.jit(make().judge)
    drawn = [judge(params, CONSTANTS, BATCH, jax.random.key(i))[2] for i in range(50)]
    counts = np.bincount(np.concatenate(drawn), minlength=20)
    assert len(counts) == 20 and abs(counts / counts.mean() - 1).max() < 0.3
    assert not np.array_equal(drawn[0], drawn[1])


def test_t_may_be_given(params):
    given = np.arange(B) % 20
    loss, right, t = make().judge(params, CONSTANTS, BATCH, KEY, given)
    np.testing.assert_array_equal(t, given)
    assert loss.shape == right.shape == (B,)


def test_dropout_acts_in_training_alone(params):
    objective, plain = make(0.5, dropout=True), make()
    judged = [p.judge(params, CONSTANTS, BATCH, KEY)[0] for p in (objective, plain)]
    np.testing.assert_array_equal(*judged)
    losses = [
        p.loss_and_grads(params, CONSTANTS, BATCH, KEY, 0)[1]["loss"] for p in (objective, plain)
    ]
    assert abs(losses[0] - losses[1]) > 1e-3


def test_latents_are_drawn_with_a_key_of_their_own(params):
    keys = []

    def watch(constants, batch, key):
        keys.append(key)
        return latents(constants, batch, key)

    ClassifierObjective(lambda rngs: Linear(rngs=rngs), SCHEDULE, watch).judge(
        params, CONSTANTS, BATCH, KEY
    )
    assert len(keys) == 1 and keys[0] != KEY
    np.testing.assert_array_equal(
        jax.random.key_data(keys[0]), jax.random.key_data(jax.random.split(KEY, 4)[0])
    )


def test_it_learns_what_the_latents_tell():
    """Where latents are their class, a few hundred steps of descent find that out."""
    z = np.eye(CLASSES, 12)[Y].reshape(B, 2, 2, 3).astype(np.float32)
    objective, batch = make(), {"z": 3 * z, "condition": Y}

    @jax.jit
    def learn(params):
        def one(params, i):
            grads, metrics = objective.loss_and_grads(
                params, CONSTANTS, batch, jax.random.key(i), i
            )
            return jax.tree.map(lambda p, g: p - 0.3 * g, params, grads), metrics

        return jax.lax.scan(one, params, jnp.arange(300))[1]

    metrics = learn(objective.init(KEY))
    assert metrics["loss"][-50:].mean() < 0.6 * metrics["loss"][:10].mean()
    least, most = (metrics[f"accuracy_{name}_noise"][-50:].mean() for name in ("least", "most"))
    assert least > 0.95 and least > most
