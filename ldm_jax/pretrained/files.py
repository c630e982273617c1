"""Reads and writes checkpoint files of other projects as mappings of names to arrays."""

import contextlib
import json
import os
import re
import tempfile
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from etils import epath

from ldm_jax.errors import UserError
from ldm_jax.pretrained.pickled import (
    Refused,
    brief,
    import_torch,
    read_tensors,
    to_array,
    to_tensor,
)

# File names of weights in diffusers and transformers, the preferred first.
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_ENDINGS = (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin")


class _Arrays(Mapping):
    """Name -> array; an array is read or converted on each access and not cached."""

    def __init__(self, names: Iterable[str], read: Callable[[str], np.ndarray]):
        self._names, self._read = dict.fromkeys(names), read

    def __getitem__(self, name):
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __contains__(self, name):  # the inherited method would read the array
        return name in self._names

    def __iter__(self):
        return iter(self._names)

    def __len__(self):
        return len(self._names)


def read_state_dict(file: epath.PathLike) -> Mapping[str, np.ndarray]:
    """Name -> array of a checkpoint file, in the layout of the project that wrote it.

    `.safetensors` is read by safetensors; any other file (`.ckpt`, `.pth`, `.pt`, `.bin`) is read
    as an output of torch.save, from its `state_dict` entry if it has one (PyTorch Lightning). What
    is not an array is skipped. No code in the file is executed.

    Arrays are read from the disk on access (torch.save's format before version 1.6 is read at
    once), so do not change the file meanwhile. They may be views of shared memory: do not write
    into them. Data types are kept, except that bfloat16 becomes float32. A remote file (`gs://`)
    is copied to this machine first.

    Raises:
      UserError: the file does not exist, is a folder, empty, truncated or not a checkpoint, has no
        arrays or forbidden objects, or the package that reads it is not installed.
    """
    path = epath.Path(file)
    if not path.exists():
        raise UserError(f"there is no file {path}")
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a checkpoint file")
    try:
        with _on_this_machine(path) as local:
            if os.stat(local).st_size == 0:
                raise Refused("is empty")
            if path.suffix == ".safetensors":
                arrays = _read_safetensors(local)
            else:
                tensors = read_tensors(local)
                arrays = _Arrays(tensors, lambda name: to_array(tensors[name]))
        if not arrays:
            raise Refused("holds no arrays")
        return arrays
    except Refused as error:
        # The reason may quote names from the file; control characters must not reach a terminal.
        reason = "".join(c if c.isprintable() else "?" for c in str(error))
        raise UserError(f"{path} {reason}") from error


def read_component(folder: epath.PathLike, name: str) -> Mapping[str, np.ndarray]:
    """`read_state_dict` of a part of a pipeline folder of diffusers: 'unet', 'vae', 'text_encoder'.

    The weights may be one file or several with an index, safetensors (preferred) or pickle, of full
    or half precision.

    Raises:
      UserError: there are none; it lists the file names that were tried.
    """
    inside = epath.Path(folder) / name
    files = [f"{stem}{ending}" for stem in _STEMS for ending in _ENDINGS]
    for file in files:
        if (inside / file).exists():
            return read_state_dict(inside / file)
    indices = list(inside.glob("*.index*.json")) if inside.is_dir() else []
    if indices:
        return _read_shards(min(indices, key=lambda i: ("safetensors" not in i.name, len(i.name))))
    raise UserError(f"{inside} has no weights: it needs one of {', '.join(files)}, *.index.json")


def write_ckpt(file: epath.PathLike, arrays: Mapping[str, np.ndarray], **extra) -> None:
    """Writes `{'state_dict': arrays, **extra}` as torch.save does, atomically.

    `extra` holds plain values (`global_step=1000`). bfloat16 stays bfloat16.
    """
    torch = import_torch()
    with _replacing(file) as part, open(part, "wb") as out:
        tensors = {name: to_tensor(array) for name, array in arrays.items()}
        torch.save({"state_dict": tensors, **extra}, out)


def write_safetensors(file: epath.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes name -> array as safetensors, atomically."""
    save_file = _import_safetensors().numpy.save_file
    with _replacing(file) as part:
        # safetensors writes the memory as it is and ignores strides
        save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, part)


def _import_safetensors():
    try:
        import safetensors.numpy
    except ImportError as error:
        raise UserError(
            '.safetensors files need safetensors: pip install "ldm_jax[pretrained]"'
        ) from error
    return safetensors


def _read_safetensors(file: str) -> _Arrays:
    safetensors = _import_safetensors()
    try:
        handle = safetensors.safe_open(file, framework="np")
    except safetensors.SafetensorError as error:
        raise Refused(
            f"is truncated, damaged or not a safetensors file ({brief(error)})"
        ) from error
    names = list(handle.keys())
    for name in names:
        kind = handle.get_slice(name).get_dtype()
        if not re.fullmatch("BOOL|[IU](8|16|32|64)|B?F16|F32|F64|C64", kind):
            raise Refused(f"holds {name!r} as {kind}, a type that NumPy lacks")

    def read(name):
        array = handle.get_tensor(name)
        return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array

    return _Arrays(names, read)


def _read_shards(index: epath.Path) -> Mapping[str, np.ndarray]:
    """The arrays of several files, listed by an index: {'weight_map': {name: file}}."""
    try:
        files = json.loads(index.read_text())["weight_map"]
        if not all(Path(file).name == file for file in files.values()):
            raise ValueError("a file outside of the folder")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is not an index of weights ({brief(error)})") from error
    arrays = ChainMap(*(read_state_dict(index.parent / file) for file in sorted({*files.values()})))
    missing = files.keys() - arrays.keys()
    if missing:
        raise UserError(f"{index} names {min(missing)!r}, which none of its files holds")
    return arrays


@contextlib.contextmanager
def _on_this_machine(path: epath.Path) -> Iterator[str]:
    """The file itself, or a temporary copy of a remote one (mapped memory outlives the copy)."""
    if not _is_remote(path):
        yield os.fspath(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield os.fspath(path.copy(Path(folder) / path.name))


@contextlib.contextmanager
def _replacing(file: epath.PathLike) -> Iterator[str]:
    """Yields a local file to write, which replaces `file` if no error occurs."""
    path = epath.Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    if _is_remote(path):  # a remote copy is atomic
        with tempfile.TemporaryDirectory() as folder:
            part = epath.Path(folder) / path.name
            yield os.fspath(part)
            part.copy(path, overwrite=True)
        return
    part = path.with_name(f"{path.name}.part")
    try:
        yield os.fspath(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _is_remote(path: epath.Path) -> bool:
    return "://" in os.fspath(path)
