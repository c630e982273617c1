"""The compiled step: it trains, it never compiles again, and any mesh gives the same numbers."""

import dataclasses

import jax
import numpy as np
import pytest

from ldm_jax.training.sharding import make_mesh, put_batch
from ldm_jax.training.step import prepare


def losses_of(tiny, mesh, prepared, steps=20):
    init, _, step = prepared
    state, losses = init(), []
    for i in range(steps):
        state, metrics = step(state, put_batch(tiny.local_batch(i), mesh))
        losses.append(float(metrics["loss"]))
    return state, losses


@pytest.fixture(scope="module")
def on_one_device(tiny, one_device, prepared):
    return losses_of(tiny, one_device, prepared)


def test_training_lowers_the_loss(on_one_device):
    _, losses = on_one_device
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3])


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 4, 1), (2, 2, 2)])
def test_eight_devices_equal_one(tiny, on_one_device, sizes):
    mesh = make_mesh(*sizes)
    state, losses = losses_of(tiny, mesh, tiny.prepare_on(mesh))
    np.testing.assert_allclose(losses, on_one_device[1], rtol=1e-5)
    # The state stays where it was put, step after step: each device holds its part only.
    parts = mesh.shape["fsdp"] * mesh.shape["tensor"]
    for tree in (state.params, state.ema, state.opt_state[1][0].mu, state.opt_state[1][0].nu):
        kernel = tree["layers"][0]["mlp_in"]["kernel"]
        assert {shard.data.nbytes for shard in kernel.addressable_shards} == {kernel.nbytes / parts}


def test_sharding_lowers_the_memory_of_a_device(tiny, prepared):
    fully_sharded = tiny.prepare_on(make_mesh(1, 8, 1))
    assert fully_sharded[2].peak_bytes < prepared[2].peak_bytes / 2


def test_a_batch_in_parts_saves_memory_and_moves_no_row(tiny):
    """Over eight devices as on one; of communication there is only the sum of the gradients."""
    mesh, steps = make_mesh(8, 1, 1), {}
    for k in (1, 4):
        stage = dataclasses.replace(tiny.STAGE, accumulate=k)
        rows = {"x": jax.ShapeDtypeStruct((2**14, 64), np.float32)}
        steps[k] = prepare(stage, mesh, jax.random.key(7), rows, tiny.CONSTANTS)[2]
    assert steps[4].peak_bytes < 0.5 * steps[1].peak_bytes
    np.testing.assert_allclose(steps[4].flops, steps[1].flops, rtol=0.1)
    program = steps[4].compiled.as_text()
    assert "all-reduce" in program
    assert not [word for word in ("all-gather", "all-to-all", "permute") if word in program]


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)])
def test_eight_devices_equal_one_with_a_batch_in_parts(tiny, one_device, sizes):
    stage = dataclasses.replace(tiny.STAGE, accumulate=2)
    (_, one), (_, eight) = (
        losses_of(tiny, mesh, tiny.prepare_on(mesh, stage), steps=10)
        for mesh in (one_device, make_mesh(*sizes))
    )
    np.testing.assert_allclose(eight, one, rtol=1e-5)


def test_the_step_is_traced_once(tiny, one_device):
    before = len(tiny.traces)
    prepared = tiny.prepare_on(one_device)
    traces = len(tiny.traces) - before
    losses_of(tiny, one_device, prepared, steps=5)
    assert len(tiny.traces) - before == traces == 1


def test_another_shape_is_an_error_not_a_compilation(tiny, one_device, prepared):
    init, _, step = prepared
    half = {"x": tiny.local_batch(0)["x"][:8]}
    with pytest.raises(TypeError):
        step(init(), put_batch(half, one_device))


def test_the_program_describes_itself(prepared):
    step = prepared[2]
    assert step.parameters == 64 * 512 + 512 + 512 * 64 + 64
    # five products of 2 * 16 * 64 * 512 operations (x needs no gradient), and Adam
    assert 5 * 2 * 16 * 64 * 512 < step.flops < 10 * 2 * 16 * 64 * 512
    assert step.peak_bytes > 4 * 4 * step.parameters  # weights, average, two moments
    assert step.compile_s > 0


def test_donation_takes_the_state_and_nothing_of_the_caller(tiny, one_device):
    """The state passed in is used up, the constants that the caller still holds are not."""
    scale_factor = jax.numpy.float32(0.5)
    constants = {"scale_factor": scale_factor, "autoencoder": {"w": jax.numpy.ones((200, 200))}}
    init, _, step = prepare(
        tiny.STAGE, one_device, jax.random.key(7), tiny.local_batch(0), constants
    )
    first = init()
    step(first, put_batch(tiny.local_batch(0), one_device))
    assert first.params["layers"][0]["mlp_in"]["kernel"].is_deleted()
    assert not constants["autoencoder"]["w"].is_deleted()
    assert float(scale_factor) == 0.5


def test_the_initial_weights_depend_on_the_key_alone(tiny, prepared):
    on_a_mesh = tiny.prepare_on(make_mesh(2, 2, 2))[0]()
    assert tiny.same(prepared[0](), on_a_mesh)
    assert tiny.same(on_a_mesh.params, on_a_mesh.ema)


def test_constants_may_be_abstract_when_the_state_comes_from_a_checkpoint(tiny, one_device):
    abstract = {"scale_factor": jax.ShapeDtypeStruct((), np.float32)}
    _, state, _ = prepare(tiny.STAGE, one_device, jax.random.key(7), tiny.local_batch(0), abstract)
    assert state.constants["scale_factor"].dtype == np.float32
