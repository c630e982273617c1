"""What a CPU's memory cannot hold is said, not left to the operating system."""

import jax
import pytest

from ldm_jax.training.memory import check_memory, host_bytes


def test_a_machine_has_some_memory():
    assert 2**28 < host_bytes() < 2**50


def test_what_does_not_fit_is_refused_with_both_numbers():
    devices = jax.devices()[:4]
    check_memory("a step", 2.5e9, devices, there=10e9)
    with pytest.raises(MemoryError, match="a step takes 12.0 GB of memory; this machine has 10.0"):
        check_memory("a step", 3e9, devices, there=10e9)
