"""metrics.jsonl: one JSON line every few steps, readable during the run."""

import json
import math
from collections.abc import Callable
from typing import Any

from etils import epath

from ldm_jax.paths import is_remote, naming, write_whole


class MetricsLog:
    """A file of JSON lines. A line cut short by a kill is passed over by every method.

    `before_write` is called before the file is changed; it raises where it must not be.
    """

    def __init__(self, path: epath.PathLike, before_write: Callable[[], None] = lambda: None):
        self.path, self._before_write = epath.Path(path), before_write

    def append(self, record: dict[str, Any]) -> None:
        """Adds one line and flushes it. Numbers keep 7 digits; what is not finite becomes null."""
        line = json.dumps({name: _plain(value) for name, value in record.items()})
        self._before_write()
        if is_remote(self.path):  # what is in a bucket can be replaced, but not added to
            before = self.path.read_text() if self.path.exists() else ""
            self.path.write_text(before + line + "\n")
            return
        with naming(self.path), self.path.open("a") as file:
            file.write(line + "\n")

    def truncate_after(self, stage: str, step: int) -> None:
        """Drops the lines of `stage` after `step`: a resumed run will write them again."""
        if not self.path.exists():
            return
        self._before_write()
        kept = [r for r in read(self.path) if r.get("stage") != stage or r.get("step", 0) <= step]
        write_whole(self.path, "".join(json.dumps(record) + "\n" for record in kept))


def read(path: epath.PathLike) -> list[dict[str, Any]]:
    """All whole lines of a metrics file; [] when there is no file yet."""
    path = epath.Path(path)
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # cut short by a kill
        if isinstance(record, dict):
            records.append(record)
    return records


def _plain(value: Any) -> Any:
    if not hasattr(value, "__float__") or isinstance(value, (bool, int)):
        return value
    value = float(value)
    return float(f"{value:.7g}") if math.isfinite(value) else None
