"""Paths as people write them, and files that are there whole or not at all; also on `gs://`."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import tempfile
from collections.abc import Iterator

from etils import epath

from ldm_jax.errors import UserError

LONGEST_NAME = 255  # bytes, in all common file systems
PART = ".part"  # ending of the name of a file that is being written
DAMAGED = ".damaged"  # ending of the name of what was set aside


def user_path(path: epath.PathLike) -> epath.Path:
    """A path as the user wrote it, with ~ for the home folder.

    Raises:
      UserError: there is no home folder, or no way to reach a path like `gs://...`.
    """
    scheme, mark, _ = str(path).partition("://")
    try:
        expanded = epath.Path(path).expanduser()
        if mark and importlib.util.find_spec("tensorflow") is None:  # which could open gs:// too
            import fsspec  # etils[epath] brings it; paths of this machine need it not

            fsspec.get_filesystem_class(scheme)
    except KeyError as error:
        raise UserError(
            f"{path}: paths that begin with {scheme}:// are not known; it is a folder or file of "
            "this machine, or gs://BUCKET/..."
        ) from error
    except ImportError as error:
        raise UserError(
            f'{path}: {error}; for buckets of Google Cloud: pip install "ldm_jax[gcs]"'
        ) from error
    if expanded.parts[:1] == ("~",):
        raise UserError(f"{path}: there is no home folder; set HOME, or write the path in full")
    return expanded


def cache_folder(name: str) -> epath.Path:
    """The folder of files that could be made again: $LDM_JAX_CACHE/name, or ~/.cache/ldm_jax/name.

    Raises:
      UserError: neither is there, or it is in a bucket.
    """
    if root := os.environ.get("LDM_JAX_CACHE"):
        if is_remote(root):
            raise UserError(
                f"LDM_JAX_CACHE is {root}; it must be a folder of this machine. To share compiled "
                "programs between hosts: JAX_COMPILATION_CACHE_DIR=gs://BUCKET/xla"
            )
        return user_path(root) / name
    try:
        return user_path("~") / ".cache" / "ldm_jax" / name
    except UserError as error:
        raise UserError(
            "there is no home folder for the cache: set LDM_JAX_CACHE to a folder"
        ) from error


def is_remote(path: epath.PathLike) -> bool:
    """Whether it lies in a bucket (`gs://...`), not in this machine's file system."""
    return "://" in str(path)


def write_whole(path: epath.PathLike, content: str | bytes, sync: bool = False) -> None:
    """Writes a file under another name first, so that a kill leaves the old file or the new one.

    Text is UTF-8. With `sync` the same holds for a power cut.

    Raises UserError when it cannot be written: a full disk, a folder that is gone.
    """
    path = user_path(path)
    part = path.with_name(path.name + PART)
    with naming(path):
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        if sync:
            sync_to_disk(part)
        part.replace(path)
        if sync:
            sync_to_disk(path.parent)


@contextlib.contextmanager
def naming(path: epath.PathLike) -> Iterator[None]:
    """Inside, a failure of the file system becomes a UserError that names the path."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written: {failure(error)}") from error


def failure(error: Exception) -> str:
    """Why something could not be written, and what to do where the reason is known.

    A library may have wrapped the error of the file system in one of its own.
    """
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # what does not fit
        reason = os.strerror(code)
        if getattr(error, "errno", None) == code or reason in str(error):
            return f"{reason}; free some space there, then give the same command"
    return getattr(error, "strerror", None) or text[:200]


def changed_at(path: epath.Path) -> int:
    """When a file was last changed, in seconds; OSError where it is missing.

    `epath` looks up the name of its owner, who need not have one (`docker run --user`, a shared
    disk).
    """
    return path.stat().mtime if is_remote(path) else int(os.stat(path).st_mtime)


def set_aside(path: epath.PathLike) -> epath.Path:
    """Renames what is damaged, so that it never stands in the way of a new one; the new path."""
    path = epath.Path(path)
    aside = path.with_name(path.name + DAMAGED)
    if aside.is_dir():
        aside.rmtree()
    else:
        aside.unlink(missing_ok=True)
    return path.rename(aside)


def sync_to_disk(path: epath.PathLike) -> None:
    """Returns when a file, or the list of files of a folder, would outlive a power cut."""
    if is_remote(path):  # a bucket has what it has taken
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:  # a file system that has no such call, as some for a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(number)


def check_output(file: epath.PathLike) -> None:
    """Raises UserError when a file, or a folder of files, cannot be written; before the work."""
    path = user_path(file)
    check_writable(path.parent)
    if is_remote(path):
        return
    _check_names(path)
    if path.suffix and path.is_dir():
        raise UserError(f"{path} is a folder; it is to be a file")
    if not path.suffix:
        check_writable(path)
    elif path.exists() and not os.access(path, os.W_OK):
        raise UserError(f"{path} cannot be written to: permission denied")


def check_writable(folder: epath.PathLike) -> None:
    """Raises UserError when files cannot be written into a folder, which need not exist yet."""
    if is_remote(folder):  # a bucket says so only when it is written to
        return
    folder = user_path(folder).absolute()
    _check_names(folder)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"{folder} cannot be written to: {existing} is not a folder")
    try:  # permissions do not tell of disks that are full, or mounted to be read alone
        with tempfile.TemporaryFile(dir=existing) as trial:
            trial.write(b"trial")
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to: {(error.strerror or str(error)).lower()} in {existing}"
        ) from error


def check_utf8(path: epath.PathLike) -> None:
    """Raises UserError when the name of a file or folder is not UTF-8 on the disk."""
    if is_remote(path):
        return
    full = str(user_path(path).absolute())
    try:
        is_utf8 = os.fsencode(full) == full.encode()
    except UnicodeEncodeError:
        is_utf8 = False
    if not is_utf8:
        shown = os.fsencode(full).decode(errors="backslashreplace")
        raise UserError(
            f"the name {shown} is not UTF-8; give another one, or set PYTHONUTF8=1 where it is "
            "the locale that is not"
        )


def _check_names(path: epath.Path) -> None:
    if too_long := [part for part in path.parts if len(os.fsencode(part)) > LONGEST_NAME]:
        raise UserError(f"a name of {len(too_long[0])} letters is too long: {path}")
