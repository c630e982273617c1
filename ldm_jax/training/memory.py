"""Whether a program fits into the memory of a machine that would not say so.

On a GPU or a TPU XLA refuses what is too large. On a CPU the operating system ends a process that
has taken too much, without a word.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from ldm_jax.training.cost import cost_of

CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def host_bytes() -> float:
    """Memory of this machine, or of its container where that is less; infinite if not known."""
    known = [float("inf")]
    with contextlib.suppress(OSError, ValueError, AttributeError):
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for file in CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            known.append(int(Path(file).read_text()))
    return min(size for size in known if size > 0)


def used_bytes(devices: Sequence[jax.Device]) -> int:
    """The most memory that has been in use so far; 0 where the system does not say.

    Of this process, data and program included, where the devices are CPUs; else of the first of
    the devices.
    """
    if devices[0].platform != "cpu":
        return (devices[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    with contextlib.suppress(ImportError):  # on Windows
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return 0


def return_freed() -> None:
    """Returns memory that this process has freed to the system.

    The C library of Linux keeps it for later: hundreds of MB after XLA has compiled a program, in
    pieces that the next compilation cannot use. Elsewhere this does nothing.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)


def check_memory(
    what: str, device_bytes: float, devices: Sequence[jax.Device], there: float | None = None
) -> None:
    """Raises MemoryError when programs on these devices, where they are CPUs, do not fit.

    Args:
      what: the program, for the message. device_bytes: what it needs on each device.
      there: memory of the host; None: as `host_bytes` finds it.
    """
    here = [one for one in devices if one.process_index == jax.process_index()]
    needed, there = device_bytes * len(here), host_bytes() if there is None else there
    if here and here[0].platform == "cpu" and needed > there:
        raise MemoryError(
            f"{what} takes {needed / 1e9:,.1f} GB of memory; this machine has {there / 1e9:,.1f} GB"
        )


def check_program(
    what: str,
    program: jax.stages.Compiled,
    devices: Sequence[jax.Device],
    there: float | None = None,
) -> None:
    """`check_memory` of a program that is compiled for these devices, and not run yet."""
    if devices[0].platform == "cpu":
        check_memory(what, cost_of(program).peak_bytes, devices, there)
