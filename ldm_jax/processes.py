"""Work of NumPy on all cores: processes that run a module, and count what they have done.

No fork (the caller runs JAX, whose threads a fork would break), and no `multiprocessing` spawn
(which runs the caller's script again, and so needs a guard in every script). Threads gain nothing,
as small NumPy calls hold the interpreter lock.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

import ldm_jax


def cores() -> int:
    """How many cores this process may use: a container or a scheduler may allow not all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def print_count(count: int) -> None:
    """Tells the caller of `run_in_processes` that so many items more are done.

    In one write: the processes share a pipe, and lines must not mix.
    """
    os.write(sys.stdout.fileno(), b"%d\n" % count)


def run_in_processes(module: str, jobs: Sequence[str], bar: tqdm) -> None:
    """Runs `python -m MODULE JOB` for each job at once, and returns when all have ended.

    They leave their results in files and print numbers alone (`print_count`), which move the bar.
    Where this process is interrupted or fails they are killed.

    Raises:
      RuntimeError: one of them failed.
    """
    package = str(Path(ldm_jax.__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    processes = []
    # One pipe for all: it ends with the last process, and they stop when it is closed.
    read_end, write_end = os.pipe()
    try:
        with open(read_end) as lines:
            try:
                for job in jobs:
                    processes.append(
                        subprocess.Popen(
                            [sys.executable, "-m", module, job],
                            stdout=write_end,
                            env={**os.environ, "PYTHONPATH": paths},
                        )
                    )
            finally:
                os.close(write_end)
            for line in lines:
                bar.update(int(line))
    except BaseException:
        for process in processes:
            process.kill()
        raise
    finally:
        codes = [process.wait() for process in processes]
    if any(codes):
        raise RuntimeError(f"python -m {module} failed: the processes ended with codes {codes}")
