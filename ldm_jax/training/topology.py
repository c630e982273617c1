"""Machines to compile for that are not there: TPU slices by their topology, any number of CPUs."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import jax
from jax.experimental import topologies

from ldm_jax.errors import UserError

MOST_CPUS = 1024  # devices that a CPU can be made to stand for


@dataclass(frozen=True)
class Chip:
    """What Google Cloud's documentation says of a TPU chip; rates are per second.

    It has no clocks: those of v5e and v5p follow from the peak rate and four units of 128x128
    a core for matrix products; v6e's is what its peak rate takes with four of 256x256.
    """

    dimensions: int
    """Of the torus."""
    most: int
    """Chips of a pod."""
    peak_flops: float
    """Of bfloat16 matrix products."""
    clock: float
    hbm_bytes: float
    ici_bytes: float
    """What all its links to other chips together send."""


CHIPS = {
    "v5e": Chip(2, 256, 197e12, 1.5e9, 16 * 2**30, 200e9),
    "v5p": Chip(3, 8960, 459e12, 1.75e9, 95 * 2**30, 600e9),
    "v6e": Chip(2, 256, 918e12, 1.75e9, 32 * 2**30, 400e9),
}


@dataclass(frozen=True)
class Machine:
    """Devices that one can compile for."""

    devices: Sequence[jax.Device]
    chip: Chip | None
    """None: the devices are CPUs in place of the TPUs."""


def machine(topology: str) -> Machine:
    """v5e:4x4 is a slice of 16 chips, cpu:8 eight CPU devices.

    A TPU slice needs the `libtpu` that JAX's extra [tpu] installs, but no TPU; without it as many
    CPU devices take its place. Call it before JAX starts: as many CPU devices must be made.

    Raises:
      UserError: for a topology that is none.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", topology)
    name, sizes = (match[1], [int(n) for n in match[2].split("x")]) if match else ("", [0])
    count, chip = math.prod(sizes), CHIPS.get(name)
    is_cpu = name == "cpu" and len(sizes) == 1 and count <= MOST_CPUS
    if count < 1 or not (chip or is_cpu):
        raise UserError(
            f"unknown topology {topology!r}; such as v5e:4x4, v6e:16x16, v5p:4x4x4 and cpu:8 "
            "are known"
        )
    if chip and (len(sizes) != chip.dimensions or count > chip.most):
        raise UserError(
            f"topology {topology!r}: a pod of {name} has {chip.dimensions} axes "
            f"and at most {chip.most} chips"
        )
    if chip is None or importlib.util.find_spec("libtpu") is None:
        return Machine(_cpus(count), None)
    # libtpu would look for the machine that it is on, and refuse to share it with a training.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # What is compiled for absent chips can be written to the cache but not read from it.
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"topology {topology!r}: {str(error).splitlines()[0]}") from error
    return Machine(found.devices, chip)


def _cpus(count: int) -> list[jax.Device]:
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # JAX has started already
        pass
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UserError(f"{count} CPU devices were asked for; this process has {len(devices)}")
    return devices[:count]
