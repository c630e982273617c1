"""Processes of a run that fail, with a store as `jax.distributed` has one."""

import threading
import time

import pytest

from ldm_jax.commands.watch import FIRST_STAYS_S, Watch, told

GRACE_S = 0.5


class Store(dict):
    """A store of names in one process."""

    def key_value_set(self, key, value, allow_overwrite=False):
        self[key] = value

    def key_value_dir_get(self, key):
        return [row for row in self.items() if row[0].startswith(key)]


class Gone:
    """The store of a process 0 that has ended."""

    def key_value_set(self, *_):
        raise RuntimeError("UNAVAILABLE")

    key_value_dir_get = key_value_set


def test_where_all_fail_alike_they_end_together():
    store, alone = Store(), {}
    watches = [Watch(store, i, 3, 30.0) for i in range(3)]

    def fail(i):
        alone[i] = watches[i].fail("bad input")

    threads = [threading.Thread(target=fail, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert alone == {0: False, 1: False, 2: False}
    assert watches[0].failed() == dict.fromkeys(range(3), "bad input")


@pytest.mark.parametrize("process", [0, 1])
def test_where_one_fails_it_ends_without_the_others_process_0_after_them(process):
    store, began = Store(), time.monotonic()
    assert Watch(store, process, 2, GRACE_S).fail("a full disk")
    assert time.monotonic() - began >= GRACE_S + (FIRST_STAYS_S if process == 0 else 0)
    assert Watch(store, 1 - process, 2).failed() == {process: "a full disk"}


def test_one_that_has_ended_is_not_waited_for():
    store = Store({"ldm_jax/gone/1": ""})
    began = time.monotonic()
    assert Watch(store, 0, 2, 600.0).fail("late")
    assert time.monotonic() - began < 60


def test_without_process_0_nothing_is_told():
    watch = Watch(Gone(), 1, 2, GRACE_S)
    assert watch.fail("a full disk") and watch.failed() == {}


def test_the_sentence_names_the_process_and_its_reason():
    assert told({1: "a full disk", 0: "late"}).endswith("(process 0: late; process 1: a full disk)")
