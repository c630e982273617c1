"""Paths as people write them, and files that are there whole or not at all; also on `gs://`."""

from __future__ import annotations

import os

from etils import epath

from ldm_jax.errors import UserError

PART = ".part"  # ending of the name of a file that is being written


def user_path(path: epath.PathLike) -> epath.Path:
    """A path as the user wrote it, with ~ for the home folder."""
    return epath.Path(path).expanduser()


def is_remote(path: epath.PathLike) -> bool:
    """Whether it lies in a bucket (`gs://...`), not in this machine's file system."""
    return "://" in str(path)


def write_whole(path: epath.PathLike, content: str | bytes) -> None:
    """Writes a file under another name first, so that a kill leaves the old file or the new one."""
    path = user_path(path)
    part = path.with_name(path.name + PART)
    part.write_bytes(content) if isinstance(content, bytes) else part.write_text(content)
    part.replace(path)


def check_writable(folder: epath.PathLike) -> None:
    """Raises UserError when files cannot be written into a folder, which need not exist yet."""
    if is_remote(folder):  # a bucket says so only when it is written to
        return
    folder = user_path(folder).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"{folder} cannot be written to: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{folder} cannot be written to: permission denied in {existing}")


def read_text(option: str, path: epath.PathLike) -> str:
    """The text of a file that an option names. UserError where it cannot be read."""
    try:
        return user_path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option} {path} cannot be read: {error}") from error
