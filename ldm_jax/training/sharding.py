"""Where arrays live: one mesh, one rule for every tree, one rule for batches.

The mesh has three axes. `data` and `fsdp` both split the batch; `fsdp` also splits each large
weight (and its moments and its average) along one dimension; `tensor` splits the attention and
feed-forward projections as TENSOR_RULES says. XLA inserts the communication (AxisType.Auto), so a
sharding never changes a result beyond rounding, and no model code knows of it.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ldm_jax.errors import UserError

BATCH = P(("data", "fsdp"))

# (regex on the path, spec of the last dimensions). The first projection of a pair is split by
# columns and the second by rows, so that the pair needs one sum over the devices.
TENSOR_RULES = (
    (r"(^|/)(q|k|v|time_in|mlp_in|feed_forward/proj_in)/kernel$", P("tensor")),
    (r"(^|/)(out|time_out|mlp_out|feed_forward/proj_out)/kernel$", P("tensor", None)),
)

# Weights with fewer elements are replicated: fetching them costs more than holding them.
SMALLEST_SHARDED = 2**14


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh ('data', 'fsdp', 'tensor') over `devices` (all there are, by default).

    One of the sizes may be -1: whatever is left. Raises UserError when the sizes do not fit.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor]
    asked = f"data={data} x fsdp={fsdp} x tensor={tensor}"
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"Mesh {asked}: sizes are positive, and only one may be -1 (what is left).")
    known = math.prod(size for size in sizes if size != -1)
    if len(devices) % known or (-1 not in sizes and known != len(devices)):
        raise UserError(f"Mesh {asked} takes {known} devices; there are {len(devices)}.")
    sizes = [len(devices) // known if size == -1 else size for size in sizes]
    return jax.make_mesh(sizes, ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3, devices=devices)


def tree_sharding(abstract_tree: Any, mesh: Mesh, rules=TENSOR_RULES) -> Any:
    """The same tree with a NamedSharding for each leaf (anything with a `.shape`).

    It goes by the end of a leaf's path, so weights, their average and their moments agree.
    """

    def of_leaf(path, leaf) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, _spec(name, leaf.shape, mesh, rules))

    return jax.tree_util.tree_map_with_path(of_leaf, abstract_tree)


def _spec(name: str, shape: tuple[int, ...], mesh: Mesh, rules) -> P:
    if math.prod(shape) < SMALLEST_SHARDED:
        return P()
    axes = [None] * len(shape)
    last_axes = next((spec for regex, spec in rules if re.search(regex, name)), P())
    if len(last_axes) <= len(shape):
        axes[len(shape) - len(last_axes) :] = last_axes
    axes = [a if a and n % mesh.shape[a] == 0 else None for a, n in zip(axes, shape, strict=True)]
    # over fsdp: the largest dimension that divides; of equals the last, the output channels
    free = [i for i, axis in enumerate(axes) if not axis and shape[i] % mesh.shape["fsdp"] == 0]
    if free and mesh.shape["fsdp"] > 1:
        axes[max(free, key=lambda i: (shape[i], i))] = "fsdp"
    return P(*axes)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first dimension of every array of a batch is split over `data` and `fsdp`."""
    return NamedSharding(mesh, BATCH)


def put_batch(local_batch: Any, mesh: Mesh) -> Any:
    """This process's rows (a tree of NumPy arrays [B/processes, ...]) as global arrays [B, ...]."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), local_batch
    )


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises UserError, naming the nearest sizes that would do, when a batch cannot be split.

    Each of the parts in which it is worked through has to be.
    """
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    multiple = ways * accumulate
    if batch_size < 1 or batch_size % multiple:
        below = batch_size // multiple * multiple
        fitting = f"{below} or {below + multiple}" if below > 0 else f"{multiple}"
        each = f", {accumulate} parts each" if accumulate > 1 else ""
        raise UserError(
            f"A batch of {batch_size} cannot be split over data x fsdp = {ways} devices{each}; "
            f"the nearest that can: {fitting}."
        )
