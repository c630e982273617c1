"""Learning rate and optimiser against NumPy restatements."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.bounds import violations
from ldm_jax.training.optimiser import OptimiserConfig, learning_rate, make_optimiser


def test_constant_after_warm_up():
    rate = learning_rate(OptimiserConfig(learning_rate=2e-4, warmup_steps=4), steps=100)
    rates = [float(rate(jnp.int32(step))) for step in (0, 1, 2, 3, 4, 99, 1000)]
    expected = [0.5e-4, 1e-4, 1.5e-4, 2e-4, 2e-4, 2e-4, 2e-4]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


@pytest.mark.parametrize("final_rate", [0.0, 2e-4])
@pytest.mark.parametrize("decay_steps, end", [(0, 110), (60, 60), (120, 120)])
def test_cosine_reaches_its_final_rate_at_the_end(decay_steps, end, final_rate):
    config = OptimiserConfig(
        learning_rate=1e-3,
        schedule="cosine",
        decay_steps=decay_steps,
        final_rate=final_rate,
        warmup_steps=10,
    )
    rate = learning_rate(config, steps=110)
    step = np.arange(140)
    warm = np.minimum(1, (step + 1) / 10)
    turn = np.clip((step - 10) / (end - 10), 0, 1)
    expected = warm * (final_rate + (1e-3 - final_rate) * 0.5 * (1 + np.cos(np.pi * turn)))
    rates = [float(rate(jnp.int32(s))) for s in step]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-10)
    assert rates[0] > 0 and max(rates) == pytest.approx(1e-3)
    assert rates[end] == rates[-1] == pytest.approx(final_rate, abs=1e-9)
    assert rates[end - 5] > final_rate


def test_only_the_cosine_has_an_end():
    config = OptimiserConfig(learning_rate=1e-3, decay_steps=5, final_rate=1e-4)
    assert float(learning_rate(config, 10)(jnp.int32(9))) == pytest.approx(1e-3)


@pytest.mark.parametrize("weight_decay, clip_norm", [(0.0, 0.0), (0.01, 0.0), (0.01, 0.5)])
def test_updates_are_those_of_adam(weight_decay, clip_norm):
    config = OptimiserConfig(
        learning_rate=0.1, b1=0.5, b2=0.9, weight_decay=weight_decay, clip_norm=clip_norm
    )
    tx = make_optimiser(config, steps=10)
    w = np.array([1.0, -2.0, 3.0])
    params = {"w": jnp.asarray(w, jnp.float32)}
    opt_state = tx.init(params)
    mean, square = np.zeros(3), np.zeros(3)
    for n in range(1, 6):
        gradient = np.array([0.3, -1.0, 2.0]) / n
        updates, opt_state = tx.update({"w": jnp.asarray(gradient, jnp.float32)}, opt_state, params)
        params = optax.apply_updates(params, updates)
        if clip_norm:
            gradient = gradient * min(1, clip_norm / np.linalg.norm(gradient))
        mean = 0.5 * mean + 0.5 * gradient
        square = 0.9 * square + 0.1 * gradient**2
        adam = (mean / (1 - 0.5**n)) / (np.sqrt(square / (1 - 0.9**n)) + 1e-8)
        w = w - 0.1 * (adam + weight_decay * w)
    np.testing.assert_allclose(params["w"], w, rtol=1e-5)


MATRICES = {  # two of which have the same shape
    "mlp_in": {"kernel": (8, 5)},
    "mid": {"q": {"kernel": (18, 6)}},
    "down": {0: {"conv": {"kernel": (3, 3, 2, 6)}}},
}
OTHERS = {
    "conv_in": {"kernel": (3, 3, 2, 6)},
    "quant_conv": {"kernel": (1, 1, 4, 4)},
    "norm": {"scale": (6,), "bias": (6,)},
    "tok_emb": {"embedding": (7, 4)},
}


def drawn(shapes, seed):
    rng = np.random.default_rng(seed)
    leaf = lambda shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(leaf, shapes, is_leaf=lambda x: isinstance(x, tuple))


def updates_of(config, params, gradients):
    """The update of each step, the parameters standing still."""
    tx = make_optimiser(config, steps=10)
    state, found = tx.init(params), []
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params)
        found.append(jax.tree.map(np.asarray, updates))
    return found


def test_muon_makes_the_momentum_of_a_matrix_orthogonal():
    """Nesterov's momentum, five steps of Newton and Schulz; the size is about that of Adam's."""
    config = OptimiserConfig(learning_rate=0.1, kind="muon", weight_decay=0.03)
    params, gradients = drawn(MATRICES, 0), [drawn(MATRICES, seed) for seed in (1, 2, 3)]
    leaves = zip(*map(jax.tree.leaves, (params, *gradients)), strict=True)
    updates = zip(*map(jax.tree.leaves, updates_of(config, params, gradients)), strict=True)
    for (w, *of_steps), found in zip(leaves, updates, strict=True):
        rows, columns = w.size // w.shape[-1], w.shape[-1]
        momentum = np.zeros((rows, columns))
        for g, update in zip(of_steps, found, strict=True):
            g = g.reshape(rows, columns).astype(np.float64)
            momentum = 0.95 * momentum + g
            x = g + 0.95 * momentum
            x = x / np.linalg.norm(x)
            for _ in range(5):
                a = x @ x.T
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
            assert 0.5 < np.linalg.svd(x, compute_uv=False)[: min(x.shape)].min() < 1.3
            size = 0.2 * np.sqrt(max(rows, columns))
            expected = -0.1 * (size * x.reshape(w.shape) + 0.03 * w)
            np.testing.assert_allclose(update, expected, rtol=1e-3, atol=1e-5)
        assert 0.02 * 0.7 < np.sqrt(np.mean(expected**2)) < 0.02 * 1.3


def test_all_but_the_inner_matrices_follow_adam():
    adam = OptimiserConfig(learning_rate=0.1, b1=0.5, weight_decay=0.03, clip_norm=1.0)
    muon = dataclasses.replace(adam, kind="muon")
    params, gradients = drawn(OTHERS, 0), [drawn(OTHERS, seed) for seed in (1, 2)]
    jax.tree.map(
        np.testing.assert_array_equal,
        updates_of(muon, params, gradients),
        updates_of(adam, params, gradients),
    )


@pytest.mark.parametrize(
    "field, value",
    [
        ("learning_rate", 0.0),
        ("warmup_steps", -1),
        ("decay_steps", -1),
        ("final_rate", -1e-9),
        ("b1", 1.0),
        ("b2", -0.1),
        ("weight_decay", -1.0),
        ("clip_norm", -1.0),
    ],
)
def test_impossible_values_are_named(field, value):
    [problem] = violations(OptimiserConfig(**{field: value}))
    assert problem.startswith(f"--{field.replace('_', '-')} is {value}; it must be ")
