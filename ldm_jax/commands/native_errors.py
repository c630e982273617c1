"""One line instead of a C++ stack where the processes of a run lose each other.

JAX's C++ part ends a process at once when another one of the run is gone: no Python runs then that
could say anything better. So what C++ writes goes through a small process beside this one, which
passes it on, but for that last cry:

    this process, file descriptor 2 (C++)  ->  python native_errors.py  ->  stderr
    this process, sys.stderr (Python)      --------------------------->     stderr
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator

LOST = (
    "another process of this run has ended, so that this one cannot go on; give the same "
    "commands again: a run goes on from its newest checkpoint"
)
# A line of C++'s log: its severity and its source file. Others continue the line before.
_LOG_LINE = re.compile(rb"([IWEF])\d{4} \S+ +\d+ ([\w.]+):\d+\] ")
_ABOUT_PROCESSES = (b"coordination_service.cc", b"coordination_service_agent.cc", b"client.h")


def say_in_one_line() -> None:
    """From now on this process, one of several, ends in one line when it loses the others."""
    stderr = os.dup(2)
    read_end, write_end = os.pipe()
    subprocess.Popen(
        [sys.executable, "-I", __file__], stdin=read_end, stdout=subprocess.DEVNULL, stderr=stderr
    )
    os.close(read_end)
    sys.stderr.flush()
    before, sys.stderr = sys.stderr, open(stderr, "w", 1, errors="backslashreplace")
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is before:
            handler.setStream(sys.stderr)
    os.dup2(write_end, 2)
    os.close(write_end)


def passed_on(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines that C++ writes, with `LOST` for all that it says about a lost process."""
    silent, lost = False, False
    for line in lines:
        if found := _LOG_LINE.match(line):
            severity, file = found.groups()
            silent = severity in b"EF" and file in _ABOUT_PROCESSES
            lost |= silent and severity == b"F"
        if not silent:
            yield line
    if lost:
        yield f"error: {LOST}\n".encode()


def main() -> None:
    """Passes on stdin to stderr, until all that write to it have ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they are for the run
        signal.signal(number, signal.SIG_IGN)
    for line in passed_on(sys.stdin.buffer):
        os.write(2, line)


if __name__ == "__main__":
    main()
