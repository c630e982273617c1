"""A process of several that fails tells the others, so that they end as well.

They would wait for it: a computation needs all processes, and JAX notices after minutes that one is
gone, and then ends the others from C++ (`native_errors`). What is told goes through the store of
names that `jax.distributed` keeps on process 0.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from typing import Protocol

POLL_S = 1.0
# So long others may take to find the same error themselves, and to end in their own way.
GRACE_S = 5.0
# Process 0 ends after all others: without its store they would be ended from C++.
FIRST_STAYS_S = 3.0
_FAILED, _GONE = "ldm_jax/failed/", "ldm_jax/gone/"
_LONGEST = 500


class Store(Protocol):
    """What is used of JAX's `DistributedRuntimeClient`."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None: ...
    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]: ...


class Watch:
    """Of one process over the others; `start` begins it.

    Args:
      store: the same for all. process: the number of this one, of so many `processes`.
      grace_s: see `GRACE_S`.
    """

    def __init__(self, store: Store, process: int, processes: int, grace_s: float = GRACE_S):
        self._store, self._process, self._processes = store, process, processes
        self._grace_s = grace_s + (FIRST_STAYS_S if process == 0 else 0.0)
        self._own = False  # this process has failed by itself, and says so itself
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def start(self) -> None:
        """From now on this process ends, in one line, soon after another one has failed."""
        self._thread.start()
        # Python ends a thread that is in C++ in a way that ends the process by abort().
        atexit.register(self.stop)

    def stop(self) -> None:
        """Ends the watch."""
        self._stopped.set()
        self._thread.join(timeout=2 * POLL_S)

    def failed(self) -> dict[int, str]:
        """The processes that have failed, and what they said; {} where the store is gone."""
        return self._told(_FAILED)

    def fail(self, reason: str) -> bool:
        """Tells the others that this process fails; whether it has to end without them.

        Where all fail alike, of the same bad input, they end together, as after any other run.
        """
        self._own = True
        self._tell(_FAILED, reason)
        until = time.monotonic() + self._grace_s
        while time.monotonic() < until and not self._told(_GONE):
            if len(self.failed()) == self._processes:
                return False
            time.sleep(POLL_S / 10)
        self._tell(_GONE, "")
        return True

    def _watch(self) -> None:
        while not (failed := self.failed()):
            if self._stopped.wait(POLL_S):
                return
        if self._stopped.wait(self._grace_s) or self._own:
            return
        self._tell(_GONE, "")
        sys.stdout.flush()
        print(f"error: {told(failed)}", file=sys.stderr, flush=True)
        os._exit(2)  # its main thread may wait for ever

    def _tell(self, what: str, text: str) -> None:
        with contextlib.suppress(Exception):  # process 0 is gone
            self._store.key_value_set(f"{what}{self._process}", text[:_LONGEST] or "-", True)

    def _told(self, what: str) -> dict[int, str]:
        with contextlib.suppress(Exception):  # as above
            rows = self._store.key_value_dir_get(what)
            return {int(key.rpartition("/")[2]): text for key, text in rows}
        return {}


_watch: Watch | None = None  # there is one a process


def watch_others() -> None:
    """Starts the watch of this process, once `jax.distributed` knows the others."""
    global _watch
    from jax._src import distributed  # JAX's store has no other name

    state = distributed.global_state
    _watch = Watch(state.client, state.process_id, state.num_processes)
    _watch.start()


def fail(reason: str) -> bool:
    """`Watch.fail` where this is one of several processes; a single one ends as it always does."""
    return _watch is not None and _watch.fail(reason)


def told(failed: dict[int, str]) -> str:
    """A sentence about processes that have failed."""
    said = "; ".join(f"process {process}: {text}" for process, text in sorted(failed.items()))
    return f"another process of this run has failed, so that this one ends as well ({said})"


def failed_others() -> dict[int, str]:
    """`Watch.failed`; {} where this is a single process."""
    return {} if _watch is None else _watch.failed()
