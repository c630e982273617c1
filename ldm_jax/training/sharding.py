"""Where arrays live: one mesh, one rule for every tree, one rule for batches, one way back.

The mesh has three axes. `data` and `fsdp` both split the batch; `fsdp` also splits each large
weight (and its moments and its average) along one dimension where it is kept, not where it is used;
`tensor` splits the attention and feed-forward projections as TENSOR_RULES says. XLA inserts the
communication (AxisType.Auto), so a sharding never changes a result beyond rounding, and no model
code knows of it.

The devices may belong to several processes, each of which reaches its own alone. `put_batch` and
`put` make global arrays of what a process has in memory, `fetch` brings one back to all of them.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ldm_jax.errors import UserError
from ldm_jax.training.config import MeshConfig, TrainingConfig

BATCH = P(("data", "fsdp"))

# (regex on the path, spec of the last dimensions). The first projection of a pair is split by
# columns and the second by rows, so that the pair needs one sum over the devices.
TENSOR_RULES = (
    (r"(^|/)(q|k|v|time_in|mlp_in|feed_forward/proj_in)/kernel$", P("tensor")),
    (r"(^|/)(out|time_out|mlp_out|feed_forward/proj_out)/kernel$", P("tensor", None)),
)

# Weights with fewer elements are replicated: fetching them costs more than holding them.
SMALLEST_SHARDED = 2**14

ROWS_PER_DEVICE = 16  # rows that each device takes at a time, in `map_batches`, at most


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh ('data', 'fsdp', 'tensor') over `devices` (all there are, by default).

    One of the sizes may be -1: all remaining devices. Without it, a single process may leave some
    devices unused.
    Raises UserError when the sizes do not fit.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor]
    sizes_text = f"data={data} x fsdp={fsdp} x tensor={tensor}"
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(
            f"Mesh {sizes_text}: sizes are positive, and only one may be -1 (what is left)."
        )
    known = math.prod(size for size in sizes if size != -1)
    if -1 not in sizes and jax.process_count() == 1:
        devices = devices[:known]
    if len(devices) % known or (-1 not in sizes and known != len(devices)):
        raise UserError(f"Mesh {sizes_text} takes {known} devices; there are {len(devices)}.")
    sizes = [len(devices) // known if size == -1 else size for size in sizes]
    return jax.make_mesh(sizes, ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3, devices=devices)


def fitting_mesh(
    sizes: MeshConfig,
    batches: Sequence[TrainingConfig],
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """`make_mesh` of as many devices as can split the batches of these trainings.

    In a single process, where `sizes.data` is -1: how many devices there happen to be then refuses
    no batch. Of several processes none can be left out, and `check_batch_size` decides.
    """
    devices = jax.devices() if devices is None else devices
    data, fsdp, tensor = sizes.data, sizes.fsdp, sizes.tensor
    if data == -1 and fsdp > 0 and tensor > 0 and jax.process_count() == 1:
        counts = range(len(devices) // (fsdp * tensor), 0, -1)
        data = next((n for n in counts if _split(batches, n * fsdp)), 1 if counts else -1)
    return make_mesh(data, fsdp, tensor, devices)


def _split(batches: Sequence[TrainingConfig], shards: int) -> bool:
    return all(one.batch_size % (shards * max(1, one.accumulate)) == 0 for one in batches)


def tree_sharding(abstract_tree: Any, mesh: Mesh, *, in_use: bool = False) -> Any:
    """The same tree with a NamedSharding for each leaf (anything with a `.shape`).

    It goes by the end of a leaf's path, so weights, their average and their moments agree. With
    `in_use` for a computation that reads the leaves, otherwise for keeping them.
    """

    def of_leaf(path, leaf) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = _spec(name, leaf.shape, mesh)
        if in_use:
            spec = P(*(None if axis == "fsdp" else axis for axis in spec))
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(of_leaf, abstract_tree)


def gather(tree: Any, mesh: Mesh) -> Any:
    """Kept arrays as a program uses them, called inside of it.

    Without it XLA may move the activations in place of the weights, those of the whole batch to
    every device, where a convolution's weight is split and its input has just been enlarged.
    """
    if mesh.shape["fsdp"] == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, tree_sharding(tree, mesh, in_use=True))


def share_rows(
    function: Callable[[jax.Array], jax.Array], rows: jax.Array, mesh: Mesh
) -> jax.Array:
    """function(rows `[k, ...]`), which takes each row alone: a device computes some of the rows.

    Inside of a program. What is kept in parts is gathered before, and all devices get all results.
    An axis of the mesh takes part if there are enough rows for its devices.
    """
    axes, shares, k = (), 1, len(rows)
    for axis, size in mesh.shape.items():
        if shares * size <= k:
            axes, shares = (*axes, axis), shares * size

    def kept(x: jax.Array, spec: P) -> jax.Array:
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    padding = [(0, -k % shares)] + [(0, 0)] * (rows.ndim - 1)
    shared = kept(jnp.pad(kept(rows, P()), padding), P(axes))
    return kept(kept(function(shared), P(axes)), P())[:k]


def replicate_fsdp(tree: Any, mesh: Mesh) -> Any:
    """The same before a program that does not `gather`."""
    return jax.device_put(tree, tree_sharding(tree, mesh, in_use=True))


def scatter(tree: Any, mesh: Mesh) -> Any:
    """Gradients of arrays in use, summed over the devices, as those arrays are kept."""
    if mesh.shape["fsdp"] == 1:
        return tree
    # First the whole gradients: for their parts alone, XLA would sum a quarter more bytes.
    return jax.lax.with_sharding_constraint(gather(tree, mesh), tree_sharding(tree, mesh))


def _spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    if math.prod(shape) < SMALLEST_SHARDED:
        return P()
    axes = [None] * len(shape)
    last_axes = next((spec for regex, spec in TENSOR_RULES if re.search(regex, name)), P())
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


def process_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """Which rows of a batch the devices of this process hold, in order: int `[n]`."""
    held = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[rows] for (rows,) in held]))


def put_batch(local_batch: Any, mesh: Mesh) -> Any:
    """This process's rows of a batch as global arrays `[B, ...]`.

    Args:
      local_batch: a tree of NumPy arrays `[n, ...]`, the rows that `process_rows` names.
    """
    sharding, shards = batch_sharding(mesh), num_shards(mesh)
    here = process_rows(shards, mesh)  # of the equal parts that a batch is split into

    def place(rows: np.ndarray) -> jax.Array:
        each = len(rows) // len(here)

        def part(index):
            start = each * np.searchsorted(here, (index[0].start or 0) // each)
            return rows[start : start + each]

        return jax.make_array_from_callback((each * shards, *rows.shape[1:]), sharding, part)

    return jax.tree.map(place, local_batch)


def put(tree: Any, sharding: Any) -> Any:
    """Arrays that every process has, whole and alike, as global arrays.

    Args:
      sharding: one for all leaves, or a tree of them.
    """
    if isinstance(sharding, NamedSharding):
        sharding = jax.tree.map(lambda _: sharding, tree)
    return jax.tree.map(
        lambda x, s: jax.make_array_from_callback(np.shape(x), s, np.asarray(x).__getitem__),
        tree,
        sharding,
    )


def fetch(tree: Any) -> Any:
    """Arrays, wherever their parts lie, as NumPy arrays, whole. All processes call it."""

    def whole(x: Any) -> np.ndarray:
        global_parts = isinstance(x, jax.Array) and not x.is_fully_addressable
        return np.asarray(process_allgather(x, tiled=True) if global_parts else x)

    return jax.tree.map(whole, tree)


def map_batches(
    function: Callable[..., Any],
    params: tuple,
    arrays: tuple[np.ndarray, ...],
    mesh: Mesh,
    each: int = ROWS_PER_DEVICE,
) -> np.ndarray:
    """function(*params, *arrays `[B, ...]`) over any number of rows, one program for all.

    Every process has all rows and gets all results; each device computes `each` of them at a time.
    """
    n, size = len(arrays[0]), each * num_shards(mesh)
    rows = np.minimum(np.arange(-(-n // size) * size), n - 1).reshape(-1, size)
    batches = (put([a[r] for a in arrays], batch_sharding(mesh)) for r in rows)
    return np.concatenate([fetch(function(*params, *batch)) for batch in batches])[:n]


def num_shards(mesh: Mesh) -> int:
    """How many parts a batch is split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises UserError, naming the nearest sizes that would do, when a batch cannot be split.

    Each of the parts in which it is worked through has to be.
    """
    shards = num_shards(mesh)
    multiple = shards * accumulate
    if batch_size < 1 or batch_size % multiple:
        below = batch_size // multiple * multiple
        fitting = f"{below} or {below + multiple}" if below > 0 else f"{multiple}"
        each = f", {accumulate} parts each" if accumulate > 1 else ""
        raise UserError(
            f"A batch of {batch_size} cannot be split over data x fsdp = {shards} devices{each}; "
            f"the nearest that can: {fitting}."
        )
