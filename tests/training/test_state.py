"""The pure step: what it does to weights, average and key."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldm_jax.training.step import Stage, TrainState, init_state, train_step, update_ema

# Computed with the reference implementation (LitEma of CompVis/latent-diffusion, decay 0.9999):
# the weights start at W0, and before update i, counted from 0, they grow by 0.1 (i + 1).
W0 = [[1.0, 0.95233357, 0.8138785], [0.597834, 0.3247963, 0.02079483]]
EMA_OF_FIRST_WEIGHT = [1.0818182, 1.2454545, 1.4909092, 1.818182, 2.227273]
EMA_OF_LAST_WEIGHT = [0.10261302, 0.26624936, 0.5117039, 0.8389766, 1.2480676]


def test_average_equals_the_reference():
    params = {"w": jnp.asarray(W0, jnp.float32)}
    state = TrainState(jnp.int32(0), params, params, (), {})
    for i in range(5):
        params = {"w": params["w"] + 0.1 * (i + 1)}
        ema = update_ema(state, params, decay=0.9999)
        state = TrainState(state.step + 1, params, ema, (), {})
        np.testing.assert_allclose(ema["w"][0, 0], EMA_OF_FIRST_WEIGHT[i], rtol=1e-6)
        np.testing.assert_allclose(ema["w"][1, 2], EMA_OF_LAST_WEIGHT[i], rtol=1e-5)


def test_average_reaches_its_decay_and_is_float32():
    weights = {"w": jnp.ones(1, jnp.bfloat16)}
    state = TrainState(jnp.int32(10**6), weights, {"w": jnp.zeros(1)}, (), {})
    ema = update_ema(state, weights, decay=0.9999)
    assert ema["w"].dtype == jnp.float32
    np.testing.assert_allclose(ema["w"], 1e-4, rtol=1e-3)


def test_no_average_without_a_decay(tiny):
    stage = Stage(tiny.init, tiny.grads, optax.sgd(0.1))
    state = init_state(stage, jax.random.key(0), tiny.CONSTANTS)
    assert state.ema is None
    state, _ = train_step(state, tiny.local_batch(0), stage=stage, key=jax.random.key(1))
    assert state.ema is None


def test_noise_depends_on_the_step_and_on_nothing_else(tiny):
    """The same step gives the same result whatever came before it; another step does not."""
    step = jax.jit(partial(train_step, stage=tiny.STAGE, key=jax.random.key(1)))
    first = init_state(tiny.STAGE, jax.random.key(0), tiny.CONSTANTS)
    batch = tiny.local_batch(0)
    second, metrics = step(first, batch)
    again, metrics_again = step(first, batch)
    assert tiny.same(second, again) and tiny.same(metrics, metrics_again)

    later = TrainState(first.step + 1, first.params, first.ema, first.opt_state, first.constants)
    _, metrics_later = step(later, batch)
    assert metrics_later["loss"] != metrics["loss"]


def test_a_batch_in_parts_has_the_mean_of_their_gradients(tiny):
    """Part j holds rows j, j + k, ..., and draws with a key of its own."""
    k, key, batch = 4, jax.random.key(1), tiny.local_batch(0)
    stage = Stage(tiny.init, tiny.grads, optax.sgd(0.1), accumulate=k)
    first = init_state(stage, jax.random.key(0), tiny.CONSTANTS)
    second, metrics = jax.jit(partial(train_step, stage=stage, key=key))(first, batch)

    of_step = jax.random.fold_in(key, 0)
    parts = [
        tiny.loss_and_grads(
            first.params,
            first.constants,
            {"x": batch["x"][j::k]},
            jax.random.fold_in(of_step, j),
            0,
        )
        for j in range(k)
    ]
    mean = jax.tree.map(lambda *g: np.mean(g, axis=0), *(grads for grads, _ in parts))
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, first.params, mean)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), second.params, expected)
    loss = np.mean([metrics["loss"] for _, metrics in parts])
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(mean), rtol=1e-5)


def test_gradients_need_not_come_from_one_loss():
    """Two players: one weight descends x*y, the other ascends it."""

    def grads(params, constants, batch, key, step):
        x, y = params["x"], params["y"]
        return {"x": y, "y": -x}, {"loss_x": x * y, "loss_y": -x * y}

    stage = Stage(lambda key: {"x": jnp.float32(1), "y": jnp.float32(1)}, grads, optax.sgd(0.1))
    state = init_state(stage, jax.random.key(0), {})
    state, metrics = train_step(state, {}, stage=stage, key=jax.random.key(0))
    np.testing.assert_allclose([state.params["x"], state.params["y"]], [0.9, 1.1], rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], np.sqrt(2), rtol=1e-6)
    assert int(state.step) == 1
