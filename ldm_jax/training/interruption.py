"""SIGTERM and Ctrl-C: finish the step, save, then leave."""

import signal
import threading


class Interrupted(Exception):
    """The run was asked to stop, and has saved. `exit_code` is 128 + the signal: 143 or 130."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StopSignals:
    """Inside `with StopSignals() as stop`, the first signal only sets `stop.received`.

    A second Ctrl-C (or SIGTERM) kills at once. The handlers from before are put back at the end.
    Outside the main thread, where Python allows no handlers, nothing changes.
    """

    received: signal.Signals | None = None

    def __enter__(self) -> "StopSignals":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame) -> None:
        self.received = signal.Signals(number)
        for handled in self._before:
            signal.signal(handled, signal.SIG_DFL)

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
