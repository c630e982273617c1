"""What all stages have in common: batches lie on the devices before they are asked for."""

import threading
import time

import jax
import numpy as np
import pytest

from ldm_jax.commands.train.stage import TRANSFERRED_AHEAD, _on_devices
from ldm_jax.data.loader import Loader
from ldm_jax.data.source import ArraySource


class Counted(Loader):
    """Says which batches have been taken from it."""

    def __init__(self, n):
        super().__init__(ArraySource({"i": np.arange(n)}), 4, seed=0, threads=1)
        self.taken = []

    def iterate(self, start_step=0):
        for k, batch in enumerate(super().iterate(start_step), start_step):
            self.taken.append(k)
            yield batch


def test_the_next_batches_are_transferred_before_they_are_asked_for(one_device):
    loader = Counted(16)
    batches = _on_devices(loader, 3, one_device)
    first = next(batches)
    assert isinstance(first["i"], jax.Array)
    for _ in range(500):  # in another thread, while this one asks for nothing
        if len(loader.taken) == 1 + TRANSFERRED_AHEAD:
            break
        time.sleep(0.01)
    assert loader.taken == [3, 4, 5]
    for k, batch in enumerate([first, next(batches), next(batches)], 3):
        np.testing.assert_array_equal(batch["i"], loader.batch(k)["i"])
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith(("transfer", "loader"))]


def test_an_error_of_the_data_comes_out_at_its_batch(one_device):
    class Broken(Loader):
        def batch(self, step):
            if step == 2:
                raise OSError("the disk is gone")
            return super().batch(step)

    batches = _on_devices(Broken(ArraySource({"i": np.arange(9)}), 4, 0), 0, one_device)
    assert [len(next(batches)["i"]) for _ in range(2)] == [4, 4]
    with pytest.raises(OSError, match="disk is gone"):
        next(batches)
