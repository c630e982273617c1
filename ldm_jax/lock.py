"""One writer at a time: a lock file with a heartbeat, also on a shared disk.

The file says who writes to its folder, and its time of modification is the heartbeat. Only the
file system's own clock is read, so that machines whose clocks differ agree.

In a bucket (`gs://`) nothing can be created exclusively: of two starts within SETTLE_S seconds both
may believe they hold the lock, until the first of them calls `check`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Any

from etils import epath

from ldm_jax.errors import UserError
from ldm_jax.paths import PART, changed_at, failure, is_remote

LOCK = "writer.lock"
BEAT_S = 10.0  # seconds from one heartbeat to the next
SILENT_S = 60.0  # without a heartbeat for so long, a lock is taken over
SETTLE_S = 1.0  # after writing over a lock: the time in which another start may do the same

log = logging.getLogger(__name__)


class Lock:
    """The right to write to a folder.

    Args:
      folder: is made by `acquire`, and removed by `release` where nothing else came into it.
      option: what the user would change to write elsewhere, such as --run-dir.
      beat_s, silent_s, settle_s: see the constants.
    """

    def __init__(
        self,
        folder: epath.Path,
        option: str,
        *,
        beat_s: float = BEAT_S,
        silent_s: float = SILENT_S,
        settle_s: float = SETTLE_S,
    ):
        self.folder, self.file = folder, folder / LOCK
        self._option = option
        self._beat_s, self._silent_s, self._settle_s = beat_s, silent_s, settle_s
        self._mine = {
            "id": secrets.token_hex(8),
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            "machine": _machine(),
            "started": _started(os.getpid()),
        }
        self._made: list[epath.Path] = []
        self._released = threading.Event()

    def acquire(self) -> None:
        """Takes the lock, and keeps up its heartbeat in a thread until `release`.

        A lock that was left behind is taken over: at once when its process ran on this machine and
        is gone, otherwise when it shows no heartbeat for `silent_s`, for which this waits.

        Raises UserError, saying who it is, when another process holds it.
        """
        if is_remote(self.file):
            log.info("%s: a bucket has no locks; two starts at once are noticed later", self.folder)
        else:
            self._made = [p for p in (self.folder, *self.folder.parents) if not p.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        first_beat = None
        while not self._create():
            holder, beat = self._read()
            if holder is None:  # released just now
                continue
            is_running = _is_running(holder)
            if is_running or (first_beat is not None and beat != first_beat):
                raise UserError(
                    f"{self.folder} is in use by {_name(holder)}; one command at a time "
                    f"writes to it: stop that one, or choose another {self._option}"
                )
            if is_running is False or self._age(beat) > self._silent_s:
                if self._take_over():
                    log.warning("%s: taken over from %s", self.folder, _name(holder))
                    break
                continue
            if first_beat is None:
                log.warning(
                    "%s was in use by %s: waiting up to %.0f s for a sign of life from it",
                    self.folder,
                    _name(holder),
                    self._silent_s,
                )
                first_beat = beat
            time.sleep(min(1.0, self._beat_s))
        threading.Thread(target=self._keep_up, name="lock", daemon=True).start()

    def check(self) -> None:
        """Raises UserError unless this process still holds the lock: call it before writing."""
        holder, _ = self._read()
        if holder is None:
            raise UserError(
                f"{self.folder} was moved or removed while this command wrote to it; "
                "give the place where it is now, or start anew"
            )
        if holder.get("id") != self._mine["id"]:
            raise UserError(
                f"{self.folder} was taken over by {_name(holder)}, as this process had "
                f"shown no sign of life for {self._silent_s:.0f} s"
            )

    def release(self) -> None:
        """Gives the lock back; whatever became of the folder, nothing is raised."""
        self._released.set()
        with contextlib.suppress(OSError):
            if self._is_mine():
                self.file.unlink()
            for folder in self._made:
                os.rmdir(folder)  # fails when there is something in it

    def _create(self) -> bool:
        if is_remote(self.file):
            return not self.file.exists() and self._take_over()
        try:
            file = open(self.file, "x")
        except FileExistsError:
            return False
        try:
            with file:
                file.write(json.dumps(self._mine))
        except OSError as error:
            self.file.unlink(missing_ok=True)
            raise UserError(f"{self.file} cannot be written: {failure(error)}") from error
        return True

    def _take_over(self) -> bool:
        """Writes over the lock, if there is one; whether it is ours then."""
        if is_remote(self.file):
            self.file.write_text(json.dumps(self._mine))
        else:
            part = self.file.with_name(f"{self._mine['id']}{PART}")
            part.write_text(json.dumps(self._mine))
            part.replace(self.file)
        time.sleep(self._settle_s)
        return self._is_mine()

    def _read(self) -> tuple[dict[str, Any] | None, int]:
        """(who holds the lock, time of the last heartbeat); None: nobody, {}: it is damaged."""
        try:
            content = self.file.read_bytes()  # a shared disk looks anew when a file is opened
            beat = changed_at(self.file)
        except (FileNotFoundError, NotADirectoryError):
            return None, 0
        try:
            holder = json.loads(content)
        except Exception:  # whatever it is
            holder = {}
        return (holder if isinstance(holder, dict) else {}), beat

    def _is_mine(self) -> bool:
        return (self._read()[0] or {}).get("id") == self._mine["id"]

    def _age(self, beat: int) -> float:
        """Seconds since a heartbeat, by the clock of the file system."""
        probe = self.file.with_name(f"{self._mine['id']}{PART}")
        probe.write_text("")
        now = changed_at(probe)
        probe.unlink()
        return now - beat

    def _keep_up(self) -> None:
        while not self._released.wait(self._beat_s):
            with contextlib.suppress(Exception):  # a disk that is away for a moment
                if not self._is_mine():
                    continue
                if is_remote(self.file):
                    self.file.write_text(json.dumps(self._mine))
                else:
                    os.utime(self.file)  # works on a full disk, too


def _name(holder: dict[str, Any]) -> str:
    host, process, since = (holder.get(key, "?") for key in ("host", "process", "since"))
    return f"process {process} on {host} (since {since})"


def _machine() -> str:
    """The same for two processes exactly if they can see each other by their number.

    Until the next boot; two containers on one machine differ.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def _started(process: int) -> str | None:
    """When a process of this machine was started, in the kernel's clock; None if it is gone.

    Numbers of processes are used again: both together are unique. "" where it is not known.
    """
    if not Path("/proc/self/stat").exists():
        if os.name == "posix":
            try:
                os.kill(process, 0)
            except ProcessLookupError:
                return None
            except PermissionError:
                pass
        return ""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]  # dead, but its parent has not looked yet


def _is_running(holder: dict[str, Any]) -> bool | None:
    """Whether the process that holds a lock runs; None where that cannot be known from here."""
    process = holder.get("process")
    if holder.get("machine") != _machine() or not isinstance(process, int):
        return None
    return _started(process) is not None and _started(process) == holder.get("started")
