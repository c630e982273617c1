"""SIGTERM, SIGHUP, Ctrl-C: finish the step, save, then leave; all processes of a run together."""

import os
import signal
import threading
from collections import deque

import jax

from ldm_jax.training.processes import largest

# Windows has no SIGHUP.
SIGNALS = [
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
]


class StopSignals:
    """Inside `with StopSignals() as stop`, the first signal only sets `stop.received`.

    A second Ctrl-C (or SIGTERM) kills at once. The handlers from before are put back at the end.
    Outside the main thread, where Python allows no handlers, nothing changes. SIGHUP, the end of a
    terminal or an ssh connection, is obeyed like SIGTERM; not where it is ignored, as by nohup.

    Args:
      delay: this many steps later the processes of a run agree on the signals that they received.
    """

    received: signal.Signals | None = None

    def __init__(self, delay: int = 0):
        self._delay = delay
        self._on_its_way: deque[jax.Array] = deque()

    def agreed(self, wait: bool = False) -> signal.Signals | None:
        """The signal that all processes obey now, the largest of any; they call it at every step.

        One process obeys at once. Several compare what they have received with each step, and look
        at the result `delay` steps later, when it has long been there: no step waits for it. Or
        they do `wait`, and know of all that has come so far.
        """
        if jax.process_count() == 1:
            return self.received
        self._on_its_way.append(largest(self.received or 0))
        if wait:
            newest = self._on_its_way[-1]
        elif len(self._on_its_way) > self._delay:
            newest = self._on_its_way.popleft()
        else:
            return None
        return signal.Signals(int(newest)) if int(newest) else None

    def __enter__(self) -> "StopSignals":
        self._before = {}
        self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame) -> None:
        self.received = signal.Signals(number)
        if self.received.name == "SIGHUP":
            _silence(self._terminals)
        for handled in self._before:
            signal.signal(handled, signal.SIG_DFL)

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _silence(terminals: list[int]) -> None:
    """The terminal is gone: writing to it would fail, and the state be lost. Files stay open."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in terminals:
        os.dup2(nowhere, stream)
