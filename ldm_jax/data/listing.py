"""The files below a folder: without hidden ones, clutter of systems, and links in circles."""

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from ldm_jax.paths import is_remote

# Folders that file servers and systems put between one's own: thumbnails, bins, snapshots.
_CLUTTER = {
    *("@eadir", "@synoresource", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
    *("__macosx", "$recycle.bin", "recycler", "system volume information", "lost+found"),
    "__pycache__",
}


def visible_files(root: epath.Path) -> set[str]:
    """The names of all files below `root`, relative to it with '/'.

    Left out are hidden files, what is in hidden folders and in those that systems make, and links
    to a folder that contains them. Other links are followed.
    """
    if not is_remote(root):
        return set(_local_files(os.fspath(root), "", (Path(root).resolve(),)))
    names = set()
    for folder, _, files in root.walk():
        inner = epath.Path(folder).relative_to(root).as_posix()
        names |= {posixpath.normpath(f"{inner}/{file}") for file in files}
    return {name for name in names if all(map(_is_visible, name.split("/")))}


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in _CLUTTER


def _local_files(folder: str, inner: str, above: tuple[Path, ...]) -> Iterator[str]:
    """inner: the folder's name within the root; above: real paths of it and of those it is in."""
    with os.scandir(folder) as entries:
        for entry in filter(lambda entry: _is_visible(entry.name), entries):
            if not os.path.isdir(entry.path):  # entry.is_dir() raises for a link to itself
                yield inner + entry.name
                continue
            real = Path(entry.path).resolve()
            if not (entry.is_symlink() and any(one.is_relative_to(real) for one in above)):
                yield from _local_files(entry.path, f"{inner}{entry.name}/", (*above, real))
