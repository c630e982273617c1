"""Is a checkpoint what was saved? A checksum of every file, sealed in with the checkpoint.

Orbax notices a file that is missing or cut short, but not one whose bytes have changed: training
would continue, silently, from wrong weights.

The seal covers every file of the folder that holds the arrays. It leaves out two files that Orbax
puts beside that folder later, `_CHECKPOINT_METADATA` (times) and `commit_success.txt`: nothing
here reads them, and a checkpoint without them is whole.
"""

import json
import zlib
from collections.abc import Iterator

from etils import epath

from ldm_jax.paths import sync_to_disk, write_whole

SEAL = "checksums.json"
CHUNK_BYTES = 16 * 2**20


def seal(directory: epath.Path) -> None:
    """Writes the checksum of every file below `directory` into a file beside them.

    All of it outlives a power cut when this returns.
    """
    write_whole(directory / SEAL, json.dumps(_checksums(directory), indent=1), sync=True)
    for path in (path for _, path in _files(directory, "")):
        sync_to_disk(path)
    for path in {path.parent for _, path in _files(directory, "")} | {directory.parent}:
        sync_to_disk(path)


def check(directory: epath.Path) -> None:
    """Raises ValueError, naming the file, unless `directory` holds exactly what was sealed."""
    sealed = json.loads((directory / SEAL).read_bytes())
    if not isinstance(sealed, dict) or not sealed:
        raise ValueError(f"{SEAL} has changed")
    found = _checksums(directory)
    for name in sealed:
        if sealed[name] != found.get(name):
            raise ValueError(f"{name} {'has changed' if name in found else 'is missing'}")


def _checksums(directory: epath.Path) -> dict[str, str]:
    return {name: _checksum(path) for name, path in sorted(_files(directory, ""))}


def _files(directory: epath.Path, prefix: str) -> Iterator[tuple[str, epath.Path]]:
    for path in directory.iterdir():
        if path.is_dir():
            yield from _files(path, f"{prefix}{path.name}/")
        elif path.name != SEAL:
            yield prefix + path.name, path


def _checksum(path: epath.Path) -> str:
    """Size and CRC-32; a few megabytes at a time, as one file may be larger than the memory."""
    size, crc = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return f"{size} bytes, crc32 {crc:08x}"
