"""With one process nothing is exchanged. (With two: tests/commands/test_hosts.py.)"""

import signal

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ldm_jax.errors import UserError
from ldm_jax.training.interruption import StopSignals
from ldm_jax.training.processes import all_processes, largest, on_all, on_first
from ldm_jax.training.sharding import (
    batch_sharding,
    fetch,
    make_mesh,
    map_batches,
    process_rows,
    put,
)


def test_one_process_agrees_with_itself():
    assert all_processes({"a": [1]}) == [{"a": [1]}]
    assert on_first(lambda: (1, "x")) == (1, "x") and on_all(lambda: "y") == "y"
    assert int(largest(15)) == 15
    stop = StopSignals(delay=2)
    assert stop.agreed() is None and stop.agreed(wait=True) is None
    stop.received = signal.SIGTERM
    assert stop.agreed() is signal.SIGTERM  # at once


@pytest.mark.parametrize("call", [on_first, on_all])
def test_an_error_stays_what_it_is(call):
    def fail():
        raise UserError("no such file")

    with pytest.raises(UserError, match="^no such file$"):
        call(fail)


def test_arrays_go_out_and_come_back():
    mesh = make_mesh(2, 2, 2)
    tree = {"w": np.arange(24.0, dtype=np.float32).reshape(8, 3), "n": np.int64(7)}
    shardings = {"w": batch_sharding(mesh), "n": NamedSharding(mesh, P())}
    placed = put(tree, shardings)
    assert placed["w"].sharding == shardings["w"] and placed["n"].dtype == np.int32
    back = fetch(placed)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(back))
    np.testing.assert_array_equal(back["w"], tree["w"])
    assert back["n"] == 7


def test_one_process_holds_all_rows():
    np.testing.assert_array_equal(process_rows(8, make_mesh(2, 2, 2)), np.arange(8))


@pytest.mark.parametrize("n", [1, 64, 70])
def test_any_number_of_rows_is_mapped(n):
    x = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    y = map_batches(jax.jit(lambda w, x: w * x), (np.float32(2),), (x,), make_mesh(4, 1, 2))
    np.testing.assert_array_equal(y, 2 * x)
