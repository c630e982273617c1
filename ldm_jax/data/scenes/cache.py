"""Renders a whole source once, on all cores, and keeps the result in a cache folder.

The processes run `python -m ldm_jax.data.scenes` (`processes.py`): on two cores two of them render
1.7 times as fast as one, two threads 1.0 times.
"""

import dataclasses
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ldm_jax.data.scenes.source import ScenesSource
from ldm_jax.data.source import gathered
from ldm_jax.errors import UserError
from ldm_jax.paths import cache_folder, failure
from ldm_jax.processes import cores, run_in_processes

log = logging.getLogger(__name__)

RENDER_VERSION = 4  # raise it with any change to the images or captions: old caches are ignored

_CHUNK = 64  # images between two steps of the progress bar, at most
_CHUNK_PIXELS = 2**24  # likewise
RENDER_BYTES = 500  # a pixel, while an image is rendered (measured: 470 to 481)
_WORTH_A_LINE_S = 120
_IMAGES_PER_PROCESS = 1_000  # fewer are rendered sooner than another interpreter starts


def cache_file(source: ScenesSource, cache_dir=None, version: int = RENDER_VERSION) -> Path:
    """The file of the cache for this source, whether it exists or not."""
    names = ("size", "level", "count", "seed", "split", "extras", "held_out_words")
    images = {name: getattr(source, name) for name in names}  # all that decides them
    key = json.dumps([version, images], sort_keys=True)
    name = hashlib.sha256(key.encode()).hexdigest()[:20]
    folder = Path(cache_folder("scenes") if cache_dir is None else cache_dir)
    return folder / f"{source.level}-{source.size}-{source.split}-{source.count}-{name}.npz"


def render_all(
    source: ScenesSource, cache_dir=None, progress=True, workers=None
) -> dict[str, np.ndarray]:
    """All examples of `source` as a dictionary of arrays: `source.read(range(len(source)))`.

    Rendered the first time and then read from the cache; a damaged cache file is rendered again.

    Args:
      source: the scenes.
      cache_dir: folder of the cache; by default `paths.cache_folder("scenes")`.
      progress: show a progress bar while rendering.
      workers: number of processes; by default one per core, or none for a small source.
    Raises:
      UserError: if the cache folder cannot be written.
    """
    path = cache_file(source, cache_dir)
    found = load(path, len(source))
    if found is not None and _kinds(found) == _kinds(source.read([0])):
        return found
    _check_writable(path.parent)  # before the work, not after it
    if workers is None:
        workers = _workers(len(source))
    _say_how_long(source, max(1, workers))
    with tqdm(
        total=len(source), desc="rendering scenes", unit="image", disable=not progress
    ) as bar:
        if workers > 1:
            arrays = _render_in_processes(source, workers, bar)
        else:
            arrays = render_range(source, 0, len(source), bar.update)
    try:
        save(path, arrays)
    except OSError as error:
        log.warning("the rendered scenes are not kept: %s: %s", path.parent, failure(error))
    return arrays


def check_fits(source: ScenesSource, memory: float) -> None:
    """Raises UserError where the rendered scenes need more than so many bytes; renders nothing."""
    pixels = source.size**2
    each = pixels * (3 + ("semantic" in source.extras))
    # The part of a process is copied to those of the others.
    rendering = RENDER_BYTES * pixels * max(1, _workers(len(source)))
    needed = 1.5 * each * len(source) + rendering
    if needed <= memory:
        return
    most = int((memory - rendering) / (1.5 * each))
    remedy = f", or a --data.count of {most:,} at most" if most > 0 else ": not one scene fits"
    raise UserError(
        f"{len(source):,} scenes of {source.size}x{source.size} pixels take {needed / 1e9:,.1f} GB "
        f"of memory while they are rendered; this machine has {memory / 1e9:,.1f} GB: give a "
        f"smaller --data.size{remedy}"
    )


def _say_how_long(source: ScenesSource, workers: int) -> None:
    began = time.perf_counter()
    source.read([0])
    seconds = (time.perf_counter() - began) * len(source) / workers
    if seconds > _WORTH_A_LINE_S:
        log.info(
            "%d scenes of %dx%d pixels are rendered once, which takes about %.0f minutes; a "
            "smaller --data.size or --data.count takes less",
            len(source),
            source.size,
            source.size,
            seconds / 60,
        )


def _workers(count: int) -> int:
    """How many processes render so many images; below 2: this one."""
    return min(cores(), count // _IMAGES_PER_PROCESS)


def _kinds(arrays: dict[str, np.ndarray]) -> dict[str, tuple]:
    """The shape and type of one example of each array."""
    return {name: (array.shape[1:], array.dtype) for name, array in arrays.items()}


def render_range(
    source: ScenesSource, start: int, stop: int, report: Callable[[int], object]
) -> dict[str, np.ndarray]:
    """Renders images [start, stop) in chunks, and calls `report(n)` after each chunk of n."""
    chunk = max(1, min(_CHUNK, _CHUNK_PIXELS // source.size**2))

    def parts() -> Iterator[dict[str, np.ndarray]]:
        for first in range(start, stop, chunk):
            part = source.read(np.arange(first, min(first + chunk, stop)))
            report(len(part["image"]))
            yield part

    return gathered(stop - start, parts())


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            f"the cache folder {folder} cannot be written ({error.strerror}): "
            "set LDM_JAX_CACHE to a folder that can"
        ) from error


def _render_in_processes(source, workers, bar):
    """Each process renders one range into its own file and prints how many images are done."""
    edges = np.linspace(0, len(source), workers + 1).astype(int).tolist()
    arguments = dataclasses.asdict(source.config), source.split, source.seed, source.extras
    with tempfile.TemporaryDirectory(prefix="ldm_jax_scenes_") as folder:
        files = [Path(folder) / f"{k}.npz" for k in range(workers)]
        jobs = [
            json.dumps([*arguments, edges[k], edges[k + 1], str(file)])
            for k, file in enumerate(files)
        ]
        run_in_processes("ldm_jax.data.scenes", jobs, bar)
        return gathered(len(source), map(_loaded, files, np.diff(edges)))


def _loaded(file: Path, count: int) -> dict[str, np.ndarray]:
    if (part := load(file, count)) is None:
        raise RuntimeError(f"rendering scenes failed: {file} is not whole")
    return part


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes `arrays` atomically: the file is complete or does not exist."""
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
    """The arrays in `path`; None where the file is missing, or damaged according to its CRC."""
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        if "image" not in arrays or any(len(a) != count for a in arrays.values()):
            return None
        return {
            n: a.astype(str).astype(object) if a.dtype.kind == "S" else a for n, a in arrays.items()
        }
    except Exception:  # whatever the bytes are
        return None
