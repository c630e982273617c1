"""What benchmarks that train for long have in common: whatever is killed goes on.

Commands of ldm_jax are started as processes, and what is made once is kept in JSON files.
"""

import datetime
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ldm_jax.errors import UserError
from ldm_jax.paths import write_whole
from ldm_jax.processes import cores

REPOSITORY = Path(__file__).resolve().parents[1]


def start(log: Path, *words: object) -> None:
    """A command of ldm_jax, to its end; what it says is added to a file. UserError if it fails."""
    command = [sys.executable, "-m", "ldm_jax", *map(str, words)]
    with log.open("a") as file:
        code = subprocess.run(command, stdout=file, stderr=file).returncode
    if code in (130, 143):  # stopped from outside, and so is this
        raise SystemExit(code)
    if code:
        raise UserError(f"exit code {code}, see {log}")


def settled(file: Path, make: Callable[[], Any]) -> Any:
    """What a JSON file holds; made and written first where there is none."""
    if not file.exists():
        write_whole(file, json.dumps(make(), indent=2) + "\n")
    return json.loads(file.read_text())


def circumstances() -> dict[str, str]:
    """On which machine, from which commit and when numbers were measured."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True
    ).stdout.strip()
    return {
        "machine": f"{cores()} cores, {platform.machine()}",
        "commit": commit,
        "date": datetime.date.today().isoformat(),
    }
