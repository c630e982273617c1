"""Draws a whole source once, on all cores, and keeps the result in a cache folder.

The cores are reached by starting this package as a program: no fork (the caller runs JAX, whose
threads a fork would break), and no `multiprocessing` spawn (which runs the caller's script again,
and so needs a guard in every script). Threads gain nothing, as small NumPy calls hold the
interpreter lock: on two cores two threads draw 1.0 times as fast, two processes 1.7 times.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

import ldm_jax
from ldm_jax.data.scenes.source import ScenesSource
from ldm_jax.errors import UserError

RENDER_VERSION = 3  # raise it with any change to the images or captions: old caches are ignored

_CHUNK = 64  # images between two steps of the progress bar
_WORTH_A_PROCESS = 1_000  # images; fewer are drawn sooner than another interpreter starts


def cache_folder() -> Path:
    """Where drawn sources are kept: $LDM_JAX_CACHE/scenes, or ~/.cache/ldm_jax/scenes."""
    root = os.environ.get("LDM_JAX_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "ldm_jax") / "scenes"


def cache_file(source: ScenesSource, cache_dir=None) -> Path:
    """The file that holds (or will hold) this source drawn."""
    key = json.dumps([RENDER_VERSION, source.parameters()], sort_keys=True)
    name = hashlib.sha256(key.encode()).hexdigest()[:20]
    folder = cache_folder() if cache_dir is None else Path(cache_dir)
    return folder / f"{source.level}-{source.size}-{source.split}-{source.count}-{name}.npz"


def draw(
    source: ScenesSource, cache_dir=None, progress=True, workers=None
) -> dict[str, np.ndarray]:
    """All of `source` as one dictionary of arrays: what `source.read(range(len(source)))` returns.

    Drawn the first time and read from the cache from then on; a damaged cache file is drawn again.

    Args:
      source: what to draw.
      cache_dir: folder of the cache; by default `cache_folder()`.
      progress: show a progress bar while drawing.
      workers: number of processes; by default one per core, or none for a small source.
    Raises:
      UserError: if the cache folder cannot be written.
    """
    path = cache_file(source, cache_dir)
    found = load(path, len(source))
    if found is not None:
        return found
    _check_writable(path.parent)  # before the work, not after it
    if workers is None:
        workers = min(_cores(), len(source) // _WORTH_A_PROCESS)
    with tqdm(total=len(source), desc="drawing scenes", unit="image", disable=not progress) as bar:
        if workers > 1:
            arrays = _in_processes(source, workers, bar)
        else:
            arrays = draw_stretch(source, 0, len(source), bar.update)
    save(path, arrays)
    return arrays


def draw_stretch(source, start: int, stop: int, drawn) -> dict[str, np.ndarray]:
    """Reads images [start, stop) in chunks; `drawn(n)` hears of each chunk of n images."""
    parts = []
    for first in range(start, stop, _CHUNK):
        parts.append(source.read(np.arange(first, min(first + _CHUNK, stop))))
        drawn(len(parts[-1]["image"]))
    return _joined(parts)


def _joined(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            f"the cache folder {folder} cannot be written ({error.strerror}): "
            "set LDM_JAX_CACHE to one that can"
        ) from error


def _cores() -> int:
    # Fewer than the machine has where a container or a scheduler allows fewer.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _in_processes(source, workers, bar):
    """Each process draws one stretch into its own file and says how many images are done."""
    edges = np.linspace(0, len(source), workers + 1).astype(int).tolist()
    package = str(Path(ldm_jax.__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    processes = []
    with tempfile.TemporaryDirectory(prefix="ldm_jax_scenes_") as folder:
        files = [Path(folder) / f"{k}.npz" for k in range(workers)]
        # One pipe for all: it ends when the last process does, and they stop when nobody listens.
        listen, speak = os.pipe()
        try:
            with open(listen) as lines:
                try:
                    for k, file in enumerate(files):
                        job = json.dumps([source.parameters(), edges[k], edges[k + 1], str(file)])
                        processes.append(
                            subprocess.Popen(
                                [sys.executable, "-m", "ldm_jax.data.scenes", job],
                                stdout=speak,
                                env={**os.environ, "PYTHONPATH": paths},
                            )
                        )
                finally:
                    os.close(speak)
                for line in lines:
                    bar.update(int(line))
        except BaseException:
            for process in processes:
                process.kill()
            raise
        finally:
            codes = [process.wait() for process in processes]
        parts = [load(file, edges[k + 1] - edges[k]) for k, file in enumerate(files)]
    if any(codes) or any(part is None for part in parts):
        raise RuntimeError(f"drawing scenes failed: the processes ended with codes {codes}")
    return _joined(parts)


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes `arrays` so that the file is either whole or not there."""
    plain = {name: a.astype("S") if a.dtype == object else a for name, a in arrays.items()}
    handle, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **plain)
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise


def load(path: Path, count: int) -> dict[str, np.ndarray] | None:
    """The arrays in `path`, or None when there is no such file or it is damaged (its CRC says)."""
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        if "image" not in arrays or any(len(a) != count for a in arrays.values()):
            return None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return {
        n: a.astype(str).astype(object) if a.dtype.kind == "S" else a for n, a in arrays.items()
    }
