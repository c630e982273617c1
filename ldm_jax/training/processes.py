"""Communication between the processes of one run, so that all take the same decisions.

On many hosts the same program runs once on each, and every computation needs them all. Whatever
decides which computation comes next must therefore be the same everywhere: what process 0 finds on
disk, an error or a signal that only one process gets. Every function here
is called by all processes, in the same order; with one process it costs nothing.

A process that fails otherwise leaves the rest waiting. It tells them when it ends with an error,
and they end as well (`commands.watch`); where it was killed, JAX's own watch over the processes
(`jax.distributed`) ends them, within minutes.
"""

import functools
import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ldm_jax.errors import UserError

T = TypeVar("T")


def all_processes(value: Any) -> list[Any]:
    """The value of each process, in their order: anything that JSON can hold."""
    if jax.process_count() == 1:
        return [value]
    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = process_allgather(np.int32(len(content)))
    room = np.zeros(1 << int(sizes.max()).bit_length(), np.uint8)  # few lengths, few programs
    room[: len(content)] = content
    rows = process_allgather(room)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def on_all(make: Callable[[], T]) -> T:
    """`make()`, on every process for itself; if it cannot be done on one, all raise its UserError.

    `make` works alone: it calls nothing that needs the other processes.
    """
    if jax.process_count() == 1:
        return make()
    result, error = None, None
    try:
        result = make()
    except (UserError, OSError) as raised:
        error = str(raised)
    for process, message in enumerate(all_processes(error)):
        if message is not None:
            raise UserError(message if process == 0 else f"{message} (process {process})")
    return result


def on_first(make: Callable[[], T]) -> T:
    """What `make()` gives on process 0, which alone calls it; JSON. All raise its UserError."""
    is_first = jax.process_index() == 0
    return all_processes(on_all(make if is_first else lambda: None))[0]


def largest(number: int) -> jax.Array:
    """The largest of the processes' numbers, an int32; it is on its way when this returns."""
    split, program = _over_all_devices()
    one_each = jax.make_array_from_callback(
        (split.num_devices,), split, lambda _: np.full(1, number, np.int32)
    )
    return program(one_each)


@functools.cache
def _over_all_devices() -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
    mesh = Mesh(np.array(jax.devices()), "devices")
    program = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))
    return NamedSharding(mesh, P("devices")), program
