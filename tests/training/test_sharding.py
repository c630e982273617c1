"""Mesh and placement rules, on eight devices."""

from functools import partial

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from ldm_jax.errors import UserError
from ldm_jax.training.config import MeshConfig, TrainingConfig
from ldm_jax.training.cost import cost_of
from ldm_jax.training.sharding import (
    check_batch_size,
    fitting_mesh,
    make_mesh,
    put_batch,
    share_rows,
    tree_sharding,
)


def specs(tree, mesh):
    return jax.tree.map(lambda sharding: sharding.spec, tree_sharding(tree, mesh))


def struct(*shape):
    return jax.ShapeDtypeStruct(shape, np.float32)


def test_one_size_may_be_what_is_left():
    assert dict(make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(2, -1, 2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(make_mesh(2, 4, 1).shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    assert make_mesh(2, 4, 1).devices.ravel().tolist() == jax.devices()
    # Auto: the model's reshapes and convolutions need no annotations
    assert set(make_mesh().axis_types) == {AxisType.Auto}


@pytest.mark.parametrize("sizes", [(3, 1, 1), (2, 1, 2)])
def test_a_mesh_may_leave_devices_out(sizes):
    mesh = make_mesh(*sizes)
    assert tuple(mesh.shape.values()) == sizes
    assert mesh.devices.ravel().tolist() == jax.devices()[: mesh.size]


@pytest.mark.parametrize("sizes", [(9, 1, 1), (-1, 3, 1), (-1, -1, 1), (0, 1, 1), (1, -2, 1)])
def test_a_mesh_that_does_not_fit_is_refused(sizes):
    data, fsdp, tensor = sizes
    with pytest.raises(UserError, match=f"data={data} x fsdp={fsdp} x tensor={tensor}"):
        make_mesh(*sizes)


def test_too_many_devices_names_both_numbers():
    with pytest.raises(UserError, match="takes 32 devices; there are 8"):
        make_mesh(8, 2, 2)


@pytest.mark.parametrize(
    "batches, sizes, shape",
    [
        ([(16, 1)], {}, (8, 1, 1)),
        ([(9, 1)], {}, (3, 1, 1)),
        ([(1, 1)], {}, (1, 1, 1)),
        ([(12, 1), (16, 1)], {}, (4, 1, 1)),
        ([(48, 4)], {}, (6, 1, 1)),
        ([(12, 1)], {"fsdp": 4}, (1, 4, 1)),
        ([(9, 1)], {"tensor": 2}, (3, 1, 2)),
        ([(12, 1)], {"data": 1}, (1, 1, 1)),
        ([(12, 1)], {"data": 8}, (8, 1, 1)),  # as it was asked for; it is refused later
        ([(9, 2)], {}, (1, 1, 1)),  # likewise: that is no matter of devices
    ],
)
def test_devices_that_cannot_split_a_batch_are_left_out(batches, sizes, shape):
    trainings = [TrainingConfig(batch_size=b, accumulate=a) for b, a in batches]
    assert tuple(fitting_mesh(MeshConfig(**sizes), trainings).shape.values()) == shape


def test_fsdp_takes_the_largest_dimension_that_divides():
    mesh = make_mesh(2, 4, 1)
    tree = {
        "conv": struct(3, 3, 64, 128),
        "tall": struct(1000, 64),
        "odd": struct(1001, 64),  # 4 does not divide the larger
        "square": struct(256, 256),  # of equals the last
        "prime": struct(211, 211),
        "bias": struct(128),  # small: replicated
        "step": struct(),
    }
    assert specs(tree, mesh) == {
        "conv": P(None, None, None, "fsdp"),
        "tall": P("fsdp", None),
        "odd": P(None, "fsdp"),
        "square": P(None, "fsdp"),
        "prime": P(None, None),
        "bias": P(),
        "step": P(),
    }


def test_tensor_rules_split_columns_then_rows():
    mesh = make_mesh(2, 2, 2)
    kernel = {"kernel": struct(256, 256)}
    tree = {
        "attn": {"q": kernel, "out": kernel},
        "feed_forward": {"proj_in": kernel, "proj_out": kernel},
        "proj_in": {"kernel": struct(1, 1, 256, 256)},  # the convolution before a transformer
        "norm": kernel,
    }
    assert specs(tree, mesh) == {
        "attn": {
            "q": {"kernel": P("fsdp", "tensor")},
            "out": {"kernel": P("tensor", "fsdp")},
        },
        "feed_forward": {
            "proj_in": {"kernel": P("fsdp", "tensor")},
            "proj_out": {"kernel": P("tensor", "fsdp")},
        },
        "proj_in": {"kernel": P(None, None, None, "fsdp")},
        "norm": {"kernel": P(None, "fsdp")},
    }


def test_moments_lie_where_their_weights_lie(tiny):
    mesh = make_mesh(2, 2, 2)
    params = jax.eval_shape(tiny.OBJECTIVE.init, jax.random.key(0))
    moments = jax.eval_shape(optax.adamw(1e-3).init, params)[0]
    assert specs(moments.mu, mesh) == specs(moments.nu, mesh) == specs(params, mesh)
    assert specs(params, mesh)["layers"][0]["mlp_in"]["kernel"] == P("fsdp", "tensor")


def test_a_batch_is_split_over_data_and_fsdp():
    mesh = make_mesh(2, 2, 2)
    rows = np.arange(16 * 3, dtype=np.float32).reshape(16, 3)
    batch = put_batch({"x": rows, "label": np.arange(16)}, mesh)
    np.testing.assert_array_equal(batch["x"], rows)
    assert {shard.data.shape for shard in batch["x"].addressable_shards} == {(4, 3)}
    assert batch["label"].dtype == np.int32


@pytest.mark.parametrize("size, nearest", [(12, "8 or 16"), (3, "8"), (0, "8"), (17, "16 or 24")])
def test_a_batch_that_cannot_be_split_names_sizes_that_can(size, nearest):
    with pytest.raises(UserError, match=f"batch of {size} .* 8 devices; .*: {nearest}\\."):
        check_batch_size(size, make_mesh())
    check_batch_size(16, make_mesh())


def test_every_part_of_a_batch_is_split():
    check_batch_size(32, make_mesh(), 4)
    with pytest.raises(UserError, match=r"batch of 48 .* 8 devices, 4 parts each; .*: 32 or 64\."):
        check_batch_size(48, make_mesh(), 4)


@pytest.mark.parametrize(
    "k, sizes, shares",
    [(16, (8, 1, 1), 8), (3, (8, 1, 1), 1), (3, (2, 4, 1), 2), (9, (2, 2, 2), 8)],
)
def test_rows_are_shared_among_devices(k, sizes, shares):
    """Each computes its part of them, also where that comes out uneven; all have all results."""
    mesh = make_mesh(*sizes)
    rows = np.random.default_rng(0).normal(size=(k, 32, 32)).astype(np.float32)

    def function(x):
        return x @ x @ x

    step = jax.jit(partial(share_rows, function, mesh=mesh))
    compiled = step.lower(jax.ShapeDtypeStruct(rows.shape, rows.dtype)).compile()
    computed = -(-k // shares)  # rows on a device
    flops = cost_of(compiled).flops / (2 * 2 * 32**3)
    assert computed <= flops < 1.1 * computed
    found = step(rows)
    assert found.is_fully_replicated
    np.testing.assert_allclose(found, function(rows), rtol=1e-4, atol=1e-4)
