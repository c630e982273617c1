"""Reads and writes checkpoint files of other projects as mappings of names to arrays."""

import contextlib
import json
import os
import re
import tempfile
import warnings
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from ldm_jax.errors import UserError
from ldm_jax.paths import PART, is_remote, write_whole
from ldm_jax.pretrained.pickled import Refused, brief, read_arrays, read_words

# How the weights of a part may be called in a folder of diffusers or transformers, the preferred
# first: whole or in several files, of full or half precision.
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_VARIANTS = ("", ".bf16", ".fp16")
_RAW, _AVERAGE = ".non_ema", ".ema"
_SUFFIXES = (".safetensors", ".bin")
METADATA = "ldm_jax.json"  # of a pipeline that this program wrote
INDEX = "model_index.json"
# What a file is that holds no weights -> how it begins
_NO_WEIGHTS = {
    "is a pointer of git-lfs to the weights, not these: run `git lfs pull`, or download the file "
    "itself": rb"version https://git-lfs",
    "is a web page: download the file itself": rb"\s*<(!doctype|html|\?xml)",
    "is an HDF5 file (Keras); give a .safetensors or .ckpt file": rb"\x89HDF",
    "is compressed; unpack it first": rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd",
}


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

    What a file is decides its content, not its name: safetensors, or an output of torch.save
    (`pickled.read_arrays` says which of its entries). What is not an array is skipped. No code in
    the file is executed.

    Arrays are read from the disk on access, so do not change the file meanwhile. They may be views
    of it: do not write into them. Data types are kept, except that bfloat16 and float8 become
    float32. A remote file (`gs://`) is copied to this machine first.

    Raises:
      UserError: the file does not exist, is a folder, empty, truncated or not a checkpoint, has no
        arrays, or the package that reads it is not installed.
    """
    path = epath.Path(file)
    if not path.exists():
        raise UserError(f"there is no file {path}")
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a checkpoint file")
    try:
        with _on_this_machine(path) as local:
            arrays = _read(local)
        if not arrays:
            raise Refused("holds no arrays")
        return arrays
    except Refused as error:
        # The reason may quote names from the file; control characters must not reach a terminal.
        reason = "".join(c if c.isprintable() else "?" for c in str(error))
        raise UserError(f"{path} {reason}") from error


def read_metadata(file: epath.PathLike) -> dict[str, str]:
    """What a checkpoint says of itself, in words: the metadata of safetensors, entries of a pickle.

    Of the folder of a pipeline: those of `write_pipeline`. UserError for what is no checkpoint.
    """
    path = epath.Path(file)
    if path.is_dir():
        return _read_json(path / METADATA)
    read_state_dict(path)  # it says what is wrong with a file
    with _on_this_machine(path) as local:
        if _is_safetensors(_head(local)):
            return _import_safetensors().safe_open(local, framework="np").metadata() or {}
        return read_words(local)


def read_configs(path: epath.PathLike) -> dict[str, dict[str, Any]]:
    """Folder ('' for the one that is given) -> its configuration, of a pipeline of diffusers."""
    path = epath.Path(path)
    if not path.is_dir():
        return {}
    folders = [path, *sorted(inside for inside in path.iterdir() if inside.is_dir())]
    found = {}
    for folder in folders:
        config = _read_json(folder / "scheduler_config.json") or _read_json(folder / "config.json")
        if config:
            found["" if folder == path else folder.name] = config
    return found


def read_checkpoint(path: epath.PathLike, *, ema: bool = True) -> Mapping[str, np.ndarray]:
    """`read_state_dict` of a file, or of the folder of a pipeline of diffusers or of a part of one.

    Names of a pipeline are COMPONENT/NAME, such as `unet/conv_in.weight`. A component may be one
    file or several, safetensors (preferred) or a pickle, of full (preferred) or half precision.

    Args:
      ema: prefer averaged weights, where there are also others.

    Raises:
      UserError: there are none; it lists the file names that were tried.
    """
    path = epath.Path(path)
    if not path.is_dir():
        return read_state_dict(path)
    folders = [path, *sorted(inside for inside in path.iterdir() if inside.is_dir())]
    found = {"" if f == path else f"{f.name}/": _read_component(f, ema) for f in folders}
    arrays = {
        prefix + name: (inside, name)
        for prefix, inside in found.items()
        if inside is not None
        for name in inside
    }
    if not arrays:
        names = ", ".join(stem + suffix for stem in _STEMS for suffix in _SUFFIXES)
        raise UserError(
            f"{path} has no weights, neither itself nor in its subfolders: a pipeline of diffusers "
            f"has in each of them {names} or *.index.json; a checkpoint is given as a file"
        )
    return _Arrays(arrays, lambda name: arrays[name][0][arrays[name][1]])


def write_ckpt(
    file: epath.PathLike,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes `{'state_dict': arrays, **metadata}` as torch.save does, atomically.

    bfloat16 stays bfloat16. Needs PyTorch.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            'writing a .ckpt needs PyTorch: pip install "ldm_jax[torch]"; .safetensors does not'
        ) from error

    def tensor(array: np.ndarray):
        array = np.asarray(array, order="C")
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    with _replacing(file) as part, open(part, "wb") as out, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # JAX's are not
        tensors = {name: tensor(array) for name, array in arrays.items()}
        torch.save({"state_dict": tensors, **(metadata or {})}, out)


def write_safetensors(
    file: epath.PathLike,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes name -> array as safetensors, atomically."""
    save_file = _import_safetensors().numpy.save_file
    with _replacing(file) as part:
        # safetensors writes the memory as it is and ignores strides
        contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        save_file(contiguous, part, None if metadata is None else dict(metadata))


def write_pipeline(
    folder: epath.PathLike,
    components: Mapping[str, Mapping[str, np.ndarray]],
    configs: Mapping[str, Mapping[str, Any]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes the folder of a pipeline of diffusers; the last file makes it one.

    Args:
      components: folder -> name -> array.
      configs: file, such as `unet/config.json` -> its content.
      metadata: words, of this program.
    """
    folder = epath.Path(folder)
    for name, arrays in components.items():
        stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        write_safetensors(folder / name / f"{stem}.safetensors", arrays, {"format": "pt"})
    files = {**configs, **({METADATA: metadata} if metadata else {})}
    for name, content in sorted(files.items(), key=lambda item: item[0] == INDEX):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_whole(folder / name, json.dumps(content, indent=2) + "\n")


def _read_json(file: epath.Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file."""
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text())
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
    except ValueError as error:
        raise UserError(f"{file} is damaged: {brief(error)}") from error
    return content


def _head(file: str) -> bytes:
    with open(file, "rb") as stream:
        return stream.read(64)


def _is_safetensors(head: bytes) -> bool:
    """It begins with the length of a JSON object, and with that."""
    return head[8:9] == b"{" and not head.startswith(b"PK")


def _read(file: str) -> _Arrays:
    head = _head(file)
    if not head:
        raise Refused("is empty")
    if _is_safetensors(head):
        return _read_safetensors(file)
    if head.startswith((b"PK", b"\x80")):
        arrays = read_arrays(file)
        return _Arrays(arrays, lambda name: _with_common_type(arrays[name].read()))
    for what, start in _NO_WEIGHTS.items():
        if re.match(start, head, re.IGNORECASE):
            raise Refused(what)
    raise Refused(f"is not a checkpoint: it begins with {str(head[:16])[1:]}")


def _with_common_type(array: np.ndarray) -> np.ndarray:
    """bfloat16 and float8, which NumPy lacks, as float32; others as they are."""
    return array.astype(np.float32) if array.dtype.kind == "V" else array


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
        return _with_common_type(handle.get_tensor(name))

    return _Arrays(names, read)


def _read_component(folder: epath.Path, ema: bool) -> Mapping[str, np.ndarray] | None:
    """The weights in a folder; None if there are none."""
    files = {path.name: path for path in folder.iterdir() if path.is_file()}
    kinds = [_AVERAGE, "", _RAW] if ema else [_RAW, "", _AVERAGE]
    for variant in [kind + half for half in _VARIANTS for kind in kinds]:
        for stem in _STEMS:
            for suffix in _SUFFIXES:
                if file := files.get(f"{stem}{variant}{suffix}"):
                    return read_state_dict(file)
                for index in (f"{stem}{suffix}.index{variant}.json",
                              f"{stem}{variant}{suffix}.index.json"):  # fmt: skip
                    if index in files:
                        return _read_shards(files[index])
                shards = re.compile(re.escape(stem + variant) + r"-\d+-of-(\d+)" + suffix)
                found = {name: m for name in files if (m := shards.fullmatch(name))}
                if found:  # without an index
                    n = {int(match[1]) for match in found.values()}
                    if n != {len(found)}:
                        raise UserError(f"{folder} has {len(found)} of {max(n)} files of weights")
                    return ChainMap(*(read_state_dict(files[name]) for name in sorted(found)))
    return None


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
    if not is_remote(path):
        yield os.fspath(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield os.fspath(path.copy(Path(folder) / path.name))


@contextlib.contextmanager
def _replacing(file: epath.PathLike) -> Iterator[str]:
    """Yields a local file to write, which replaces `file` if no error occurs."""
    path = epath.Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_remote(path):  # a remote copy is atomic
        with tempfile.TemporaryDirectory() as folder:
            part = epath.Path(folder) / path.name
            yield os.fspath(part)
            part.copy(path, overwrite=True)
        return
    part = path.with_name(path.name + PART)
    try:
        yield os.fspath(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
