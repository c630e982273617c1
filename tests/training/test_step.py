"""The pure step: what it does to weights, average and key. And its program: it trains, it never
compiles again, and any mesh gives the same numbers."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.training.config import TrainingConfig
from ldm_jax.training.cost import collectives
from ldm_jax.training.optimiser import OptimiserConfig, make_optimiser
from ldm_jax.training.sharding import make_mesh, put_batch
from ldm_jax.training.step import TrainState, init_state, train_step, update_ema

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
    how = {"objective": tiny.OBJECTIVE, "config": replace(tiny.CONFIG, ema_decay=0.0)}
    key = jax.random.key(0)
    state = jax.eval_shape(partial(init_state, **how, constants=tiny.CONSTANTS), key=key)
    assert state.ema is None
    state, _ = jax.eval_shape(partial(train_step, **how), state, tiny.local_batch(0), key=key)
    assert state.ema is None and state.params


def test_noise_depends_on_the_step_and_on_nothing_else(tiny):
    """The same step gives the same result whatever came before it; another step does not."""
    how = {"objective": tiny.OBJECTIVE, "config": tiny.CONFIG}
    step = jax.jit(partial(train_step, **how, key=jax.random.key(1)))
    first = init_state(**how, key=jax.random.key(0), constants=tiny.CONSTANTS)
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
    optimiser = OptimiserConfig(learning_rate=0.1, b1=0.0, weight_decay=0.0)
    how = {
        "objective": tiny.OBJECTIVE,
        "config": replace(tiny.CONFIG, optimiser=optimiser, accumulate=k),
    }
    first = init_state(**how, key=jax.random.key(0), constants=tiny.CONSTANTS)
    second, metrics = jax.jit(partial(train_step, **how, key=key))(first, batch)

    of_step = jax.random.fold_in(key, 0)
    loss_and_grads = jax.jit(tiny.OBJECTIVE.loss_and_grads)
    parts = [
        loss_and_grads(
            first.params,
            first.constants,
            {"x": batch["x"][j::k]},
            jax.random.fold_in(of_step, j),
            0,
        )
        for j in range(k)
    ]
    mean = jax.tree.map(lambda *g: np.mean(g, axis=0), *(grads for grads, _ in parts))
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, second.opt_state[0].mu, mean)  # with b1 = 0 the gradient itself
    updates, _ = make_optimiser(optimiser, 100).update(mean, first.opt_state, first.params)
    # Of Adam's first update only the sign of a gradient matters, unless that is around 1e-8.
    close = partial(np.testing.assert_allclose, rtol=0, atol=1e-3 * 0.1)
    jax.tree.map(close, second.params, optax.apply_updates(first.params, updates))
    loss = np.mean([metrics["loss"] for _, metrics in parts])
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(mean), rtol=1e-5)


def test_gradients_need_not_come_from_one_loss():
    """Two players: one weight descends x*y, the other ascends it."""

    def loss_and_grads(params, constants, batch, key, step):
        x, y = params["x"], params["y"]
        return {"x": y, "y": -x}, {"loss_x": x * y, "loss_y": -x * y}

    def init(key):
        return {"x": jnp.float32(1), "y": jnp.float32(1)}

    how = {
        "objective": SimpleNamespace(init=init, loss_and_grads=loss_and_grads),
        "config": TrainingConfig(OptimiserConfig(learning_rate=0.1, weight_decay=0.0)),
    }
    state = init_state(**how, key=jax.random.key(0), constants={})
    state, metrics = train_step(state, {}, **how, key=jax.random.key(0))
    np.testing.assert_allclose([state.params["x"], state.params["y"]], [0.9, 1.1], rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], np.sqrt(2), rtol=1e-6)
    assert int(state.step) == 1


def losses_of(tiny, mesh, compiled, steps=20):
    init, _, step = compiled
    state, losses = init(), []
    for i in range(steps):
        state, metrics = step(state, put_batch(tiny.local_batch(i), mesh))
        losses.append(float(metrics["loss"]))
    return state, losses


@pytest.fixture(scope="module")
def on_one_device(tiny, one_device, compiled):
    return losses_of(tiny, one_device, compiled)


class HalfFrozen:
    """Half of its parameters are not trained, and have no gradient."""

    frozen = ("encoder",)

    def init(self, key):
        return {"encoder": {"w": jnp.ones(2)}, "head": {"w": jnp.ones(2)}}

    def loss_and_grads(self, params, constants, batch, key, step):
        return {"head": {"w": params["encoder"]["w"] * jnp.mean(batch["x"])}}, {}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_is_frozen_neither_moves_nor_has_moments(accumulate):
    """Not by weight decay either."""
    optimiser = OptimiserConfig(learning_rate=0.1, weight_decay=0.5)
    config = TrainingConfig(optimiser, batch_size=4, ema_decay=0.9, accumulate=accumulate)
    how = {"objective": HalfFrozen(), "config": config, "key": jax.random.key(0)}
    first = init_state(**how, constants={})
    after, _ = train_step(first, {"x": jnp.ones(4)}, **how)
    for tree in (after.params, after.ema):
        np.testing.assert_array_equal(tree["encoder"]["w"], 1)
        assert (tree["head"]["w"] < 1).all()
    moments = jax.tree_util.tree_leaves_with_path(after.opt_state)
    names = {jax.tree_util.keystr(path) for path, _ in moments}
    assert any("head" in name for name in names) and not any("encoder" in name for name in names)


def test_training_lowers_the_loss(on_one_device):
    _, losses = on_one_device
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3])


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 4, 1), (2, 2, 2)])
def test_eight_devices_equal_one(tiny, on_one_device, compiled_on, sizes):
    mesh, *compiled = compiled_on(*sizes)
    state, losses = losses_of(tiny, mesh, compiled)
    np.testing.assert_allclose(losses, on_one_device[1], rtol=1e-5)
    # The state stays where it was put, step after step: each device holds its part only.
    parts = mesh.shape["fsdp"] * mesh.shape["tensor"]
    for tree in (state.params, state.ema, state.opt_state[1][0].mu, state.opt_state[1][0].nu):
        kernel = tree["layers"][0]["mlp_in"]["kernel"]
        assert {shard.data.nbytes for shard in kernel.addressable_shards} == {kernel.nbytes / parts}


def test_sharding_lowers_the_memory_of_a_device(compiled, compiled_on):
    *_, fully_sharded = compiled_on(1, 8, 1)
    assert fully_sharded.peak_bytes < compiled[2].peak_bytes / 2


def test_a_batch_in_parts_saves_memory_and_moves_no_row(tiny):
    """Over eight devices as on one; of communication there is only the sum of the gradients."""
    mesh, steps = make_mesh(8, 1, 1), {}
    for k in (1, 4):
        rows = {"x": jax.ShapeDtypeStruct((2**14, 64), np.float32)}
        steps[k] = tiny.compile_on(mesh, replace(tiny.CONFIG, accumulate=k), rows)[2]
    assert steps[4].peak_bytes < 0.5 * steps[1].peak_bytes
    np.testing.assert_allclose(steps[4].flops, steps[1].flops, rtol=0.1)
    program = steps[4].compiled.as_text()
    assert "all-reduce" in program
    assert not [word for word in ("all-gather", "all-to-all", "permute") if word in program]


def test_eight_devices_equal_one_with_a_batch_in_parts(tiny, one_device):
    config = replace(tiny.CONFIG, accumulate=2)
    one, *eight = (
        losses_of(tiny, mesh, tiny.compile_on(mesh, config), steps=10)[1]
        for mesh in (one_device, make_mesh(8, 1, 1), make_mesh(2, 2, 2))
    )
    for losses in eight:
        np.testing.assert_allclose(losses, one, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_eight_devices_equal_one_with_muon(tiny, one_device, accumulate):
    """A matrix that is split has its momentum gathered, once, where it is made orthogonal."""
    optimiser = replace(tiny.CONFIG.optimiser, kind="muon", learning_rate=0.03)
    config = replace(tiny.CONFIG, optimiser=optimiser, accumulate=accumulate)
    expected, losses = losses_of(tiny, one_device, tiny.compile_on(one_device, config), steps=10)
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    for sizes in ((8, 1, 1), (2, 4, 1), (2, 2, 2)):
        mesh = make_mesh(*sizes)
        compiled = tiny.compile_on(mesh, config)
        state, found = losses_of(tiny, mesh, compiled, steps=10)
        np.testing.assert_allclose(found, losses, rtol=1e-4, err_msg=f"{sizes}")
        close = partial(np.testing.assert_allclose, rtol=1e-2, atol=1e-3)
        jax.tree.map(close, state.params, expected.params)
        parts = mesh.shape["fsdp"] * mesh.shape["tensor"]
        momenta = [m for m in jax.tree.leaves(state.opt_state) if m.shape in ((64, 512), (512, 64))]
        assert len(momenta) == 2
        for one in momenta:
            assert {shard.data.nbytes for shard in one.addressable_shards} == {one.nbytes / parts}
        if sizes == (2, 4, 1):
            sent = collectives(compiled[2].compiled.as_text(), mesh.size)["all-gather"]
            kernels = 2 * 4 * 64 * 512
            assert sent.bytes == 2 * kernels  # of the weights, as ever, and of the momenta


def test_the_step_is_traced_once(tiny, one_device):
    before = len(tiny.traces)
    compiled = tiny.compile_on(one_device)
    traces = len(tiny.traces) - before
    losses_of(tiny, one_device, compiled, steps=5)
    assert len(tiny.traces) - before == traces == 1


def test_another_shape_is_an_error_not_a_compilation(tiny, one_device, compiled):
    init, _, step = compiled
    half = {"x": tiny.local_batch(0)["x"][:8]}
    with pytest.raises(TypeError):
        step(init(), put_batch(half, one_device))


def test_the_program_describes_itself(compiled):
    step = compiled[2]
    assert step.parameters == 64 * 512 + 512 + 512 * 64 + 64
    # five products of 2 * 16 * 64 * 512 operations (x needs no gradient), and Adam
    assert 5 * 2 * 16 * 64 * 512 < step.flops < 10 * 2 * 16 * 64 * 512
    assert step.peak_bytes > 4 * 4 * step.parameters  # weights, average, two moments
    assert step.compile_s > 0


def test_accumulation_repeats_the_gradients_and_not_the_update(tiny, compiled, one_device):
    """The parts of a batch have as many operations together, but for the sums of gradients."""
    in_parts = tiny.compile_on(one_device, replace(tiny.CONFIG, accumulate=4))[2]
    assert in_parts.flops == pytest.approx(compiled[2].flops, rel=0.1)


def test_donation_takes_the_state_and_nothing_of_the_caller(tiny, one_device):
    """The state passed in is used up, the constants that the caller still holds are not."""
    scale_factor = jnp.float32(0.5)
    constants = {"scale_factor": scale_factor, "autoencoder": {"w": jnp.ones((200, 200))}}
    init, _, step = tiny.compile_on(one_device, constants=constants)
    first = init()
    step(first, put_batch(tiny.local_batch(0), one_device))
    assert first.params["layers"][0]["mlp_in"]["kernel"].is_deleted()
    assert not constants["autoencoder"]["w"].is_deleted()
    assert float(scale_factor) == 0.5


def test_the_initial_weights_depend_on_the_key_alone(tiny, compiled, compiled_on):
    on_a_mesh = compiled_on(2, 2, 2)[1]()
    assert tiny.same(compiled[0](), on_a_mesh)
    assert tiny.same(on_a_mesh.params, on_a_mesh.ema)


def test_constants_may_be_abstract_when_the_state_comes_from_a_checkpoint(tiny, one_device):
    abstract = {"scale_factor": jax.ShapeDtypeStruct((), np.float32)}
    _, state, _ = tiny.compile_on(one_device, constants=abstract)
    assert state.constants["scale_factor"].dtype == np.float32
