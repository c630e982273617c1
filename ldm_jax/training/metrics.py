"""metrics.jsonl: one JSON line every few steps, readable during the run.

Nothing depends on it: whatever is damaged in it is passed over.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from typing import Any

from etils import epath

from ldm_jax.paths import is_remote, naming, set_aside, write_whole

log = logging.getLogger(__name__)


class MetricsLog:
    """A file of JSON lines.

    `before_write` is called before the file is changed; it raises where it must not be. `listener`
    is called with each record that is added.
    """

    def __init__(
        self,
        path: epath.PathLike,
        before_write: Callable[[], None] = lambda: None,
        listener: Callable[[dict[str, Any]], None] = lambda record: None,
    ):
        self.path, self._before_write, self._listener = epath.Path(path), before_write, listener

    def heard_by(self, listener: Callable[[dict[str, Any]], None]) -> MetricsLog:
        """The same file; `listener` is called with each record that is added."""
        return MetricsLog(self.path, self._before_write, listener)

    def append(self, record: dict[str, Any]) -> None:
        """Adds one line and flushes it. Numbers keep 7 digits; what is not finite becomes null."""
        line = json.dumps({name: _plain(value) for name, value in record.items()})
        self._before_write()
        self._listener(record)
        if is_remote(self.path):  # what is in a bucket can be replaced, but not added to
            before = self.path.read_text() if self.path.exists() else ""
            self.path.write_text(before + line + "\n")
            return
        with naming(self.path), self.path.open("a") as file:
            file.write(line + "\n")

    def truncate_after(self, stage: str, step: int) -> None:
        """Drops the lines of `stage` after `step`: a resumed run will write them again.

        A file with damaged lines is renamed, with a warning, and its other lines are kept.
        """
        if not self.path.exists():
            return
        self._before_write()
        records, damaged = _parsed(self.path)
        if damaged:
            aside = set_aside(self.path)
            log.warning("%s was damaged; it is renamed to %s", self.path, aside.name)
        kept = [r for r in records if r["stage"] != stage or r["step"] <= step]
        write_whole(self.path, "".join(json.dumps(record) + "\n" for record in kept))


def read(path: epath.PathLike) -> list[dict[str, Any]]:
    """All whole lines of a metrics file, which have a stage and a step; [] without a file."""
    path = epath.Path(path)
    return _parsed(path)[0] if path.exists() else []


def _parsed(path: epath.Path) -> tuple[list[dict[str, Any]], bool]:
    """(whole lines, whether others are damaged; a last line that a kill cut short is not)."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:  # a folder, a bad disk
        return [], True
    read = [_record(line) for line in lines]
    damaged = any(record is None and line for record, line in zip(read[:-1], lines, strict=False))
    return [record for record in read if record is not None], damaged


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
        whole = isinstance(record["stage"], str) and isinstance(record["step"], int)
        values = (value for name, value in record.items() if name != "stage")
        return record if whole and all(math.isfinite(v) for v in values if v is not None) else None
    except Exception:  # whatever the bytes are
        return None


def _plain(value: Any) -> Any:
    if not hasattr(value, "__float__") or isinstance(value, (bool, int)):
        return value
    value = float(value)
    return float(f"{value:.7g}") if math.isfinite(value) else None
