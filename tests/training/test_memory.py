"""What a CPU's memory cannot hold is said, not left to the operating system."""

import platform
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.training.memory import (
    check_memory,
    check_program,
    host_bytes,
    return_freed,
    used_bytes,
)


def test_a_machine_has_some_memory():
    assert 2**28 < host_bytes() < 2**50


def test_a_process_has_used_some_of_it():
    held = jnp.ones(10**6)
    assert held.nbytes < used_bytes(jax.devices()) < host_bytes()


def test_what_does_not_fit_is_refused_with_both_numbers():
    devices = jax.devices()[:4]
    check_memory("a step", 2.5e9, devices, there=10e9)
    with pytest.raises(MemoryError, match="a step takes 12.0 GB of memory; this machine has 10.0"):
        check_memory("a step", 3e9, devices, there=10e9)


def test_a_compiled_program_says_what_it_takes():
    x = jax.ShapeDtypeStruct((1000, 1000), jnp.float32)  # 4 MB there, and 4 MB back
    program, devices = jax.jit(lambda x: 2 * x).lower(x).compile(), jax.devices()[:1]
    check_program("doubling", program, devices, there=9e6)
    with pytest.raises(MemoryError, match="doubling takes 0.0 GB"):
        check_program("doubling", program, devices, there=7e6)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_that_was_freed_goes_back_to_the_system():
    def pages():
        return int(Path("/proc/self/statm").read_text().split()[1])

    blocks = [np.ones(2**16, np.uint8) for _ in range(2**11)]  # 128 MiB
    del blocks[:-1]  # the last one keeps the others from going back by themselves
    before = pages()
    return_freed()
    assert (before - pages()) * 4096 > 2**26
