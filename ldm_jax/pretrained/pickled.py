"""Reads what torch.save writes, without PyTorch and without running code from the file.

A pickle is a program: it names functions, which a plain unpickler imports and calls. This one
imports nothing. The few names that make an array stand for functions of this module, and every
other name, whatever it is, for an inert placeholder. So objects that programs store beside the
weights (of Lightning, OmegaConf, argparse, NumPy) do no harm, and keep nobody from the arrays.
"""

from __future__ import annotations

import functools
import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C  # begins a file of PyTorch before 1.6
LIGHTNING = "hyper_parameters"
_DEPTH = 8  # of mappings in mappings that hold arrays
# PyTorch's names of the types that NumPy has, with ml_dtypes: of storages, and of dtypes
_STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
    "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "UntypedStorage": "uint8",
}  # fmt: skip
_DTYPES = {*_STORAGES.values(), "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"}


class Refused(Exception):
    """A file cannot be read; the message continues a sentence that begins with its path."""


@dataclass(frozen=True)
class _Storage:
    """A run of bytes, which is known when the whole file has been read."""

    dtype: np.dtype
    bytes: Callable[[], np.ndarray]
    offset: int = 0
    """In elements: an old file may have a storage inside of another."""


@dataclass(frozen=True)
class StoredArray:
    """Where an array lies in a file."""

    storage: _Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In elements, as `offset`."""

    def read(self) -> np.ndarray:
        """A view of the file, mapped into memory. ValueError or TypeError outside of it."""
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        buffer, size = self.storage.bytes(), self.dtype.itemsize
        offset = (self.storage.offset + self.offset) * size
        strides = tuple(size * stride for stride in self.strides)
        return np.ndarray(self.shape, self.dtype, buffer, offset, strides)


class _Placeholder(dict):
    """Stands for anything that is not an array: takes whatever a pickle does, and does nothing.

    It keeps entries and state, in which arrays may be: an OrderedDict, the settings of a program, a
    network that was saved whole.
    """

    state = None

    def __new__(cls, *_, **__):
        return super().__new__(cls)

    def __init__(self, *_, **__):
        pass

    def __call__(self, *_, **__):
        return _Placeholder()

    def __setstate__(self, state):
        self.state = state

    def append(self, _):
        pass

    extend = add = append
    __hash__, __eq__ = object.__hash__, object.__eq__


class _Unpickler(pickle.Unpickler):
    """Makes arrays, plain containers and placeholders."""

    def __init__(self, stream, storage: Callable[..., _Storage]):
        super().__init__(stream, encoding="latin1")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "torch":
            if name in _STORAGES:
                return _Type(_STORAGES[name])
            if module == "torch" and name in _DTYPES:
                return _Type(name)
            if name in _MAKERS:
                return functools.partial(_MAKERS[name])  # a new object: the file may set its state
        return _Placeholder

    def persistent_load(self, pid: Any) -> Any:
        what, kind, *place = pid
        if what == "module":  # the source code of a class, in old files
            return kind
        if not isinstance(kind, _Type):  # of quantised numbers, which NumPy has not
            return _Placeholder()
        return self._storage(kind.dtype, *place)


class _Type:
    def __init__(self, name: str):
        self.dtype = np.dtype(getattr(ml_dtypes, name, name))


def _array(storage: _Storage, offset, shape, strides, *_) -> StoredArray:
    return StoredArray(storage, storage.dtype, offset, shape, strides)


def _array_of_type(storage, offset, shape, strides, _, __, kind: _Type, *___) -> StoredArray:
    return StoredArray(storage, kind.dtype, offset, shape, strides)


_MAKERS = {
    "_rebuild_tensor": _array,
    "_rebuild_tensor_v2": _array,
    "_rebuild_tensor_v3": _array_of_type,
    "_rebuild_parameter": lambda array, *_: array,
    "_rebuild_parameter_with_state": lambda array, *_: array,
    "_rebuild_from_type_v2": lambda make, _, arguments, *__: make(*arguments),
}


def read_arrays(file: str) -> dict[str, StoredArray]:
    """Name -> array of a file.

    Those of the entry `state_dict`, if there is one, with the averages that other entries hold; or
    else of all entries. Names of entries are joined by dots: `{"ema": {"w": ...}}` is `ema.w`.

    Raises:
      Refused: the file is damaged, not a checkpoint, or holds no arrays.
    """
    try:
        content = _unpickled(file)
        arrays = dict(_named(content))
        for name, array in arrays.items():
            try:
                array.read()
            except (ValueError, TypeError) as error:
                raise Refused(f"is damaged: {name!r} is not inside of it") from error
    except Refused:
        raise
    except Exception as error:  # damaged bytes can raise any type
        raise Refused(f"is truncated, damaged or not a checkpoint ({brief(error)})") from error
    if not arrays and isinstance(content, Mapping) and content:
        found = ", ".join(repr(key)[:40] for key in list(content)[:8])
        raise Refused(f"holds no arrays, but {found}")
    return arrays


def read_words(file: str) -> dict[str, str]:
    """Name -> text of the entries of a file that are text. Refused as `read_arrays` does.

    With `hyper_parameters.NAME` for what Lightning keeps of a model's arguments.
    """
    try:
        content = _unpickled(file)
    except Refused:
        raise
    except Exception as error:  # as above
        raise Refused(f"is truncated, damaged or not a checkpoint ({brief(error)})") from error
    words = {key: value for key, value in _entries(content) if isinstance(value, str)}
    arguments = dict(_entries(content)).get("hyper_parameters")
    return words | {f"{LIGHTNING}.{name}": text for name, text in _arguments(arguments)}


def _arguments(content: Any, depth: int = 4) -> Iterator[tuple[str, str]]:
    """(name, text) of numbers and texts, also where a configuration of OmegaConf holds them."""
    for name, value in _entries(content):
        if name in ("params", "model", "_content", "config") and depth:
            yield from _arguments(value, depth - 1)
        state = getattr(value, "state", None)
        value = state.get("_val") if isinstance(state, dict) else value
        if isinstance(value, (str, int, float)):
            yield name, str(value)


def brief(error: Exception) -> str:
    """The message of an exception, as one short line."""
    lines = str(error).strip().splitlines()
    return lines[0][:100] if lines else type(error).__name__


def _named(content: Any) -> Iterator[tuple[str, StoredArray]]:
    """(name, array) of what is in a file."""
    entries = dict(_entries(content))
    weights = dict(_flat(entries.get("state_dict")))
    if not weights:
        return _flat(content)
    averages = {key: value for key, value in entries.items() if "ema" in key.lower()}
    return iter((weights | dict(_flat(averages))).items())


def _flat(content: Any, depth: int = _DEPTH) -> Iterator[tuple[str, StoredArray]]:
    for key, value in _entries(content):
        if isinstance(value, StoredArray):
            yield key, value
        elif depth:
            # Where a network that was saved whole keeps its parts: no part of their names
            inner = "" if key in ("_parameters", "_buffers", "_modules") else f"{key}."
            for name, array in _flat(value, depth - 1):
                yield inner + name, array


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    """The named entries of a mapping, or of an object."""
    for entries in (content, getattr(content, "state", None)):
        if isinstance(entries, dict):
            yield from ((key, value) for key, value in entries.items() if isinstance(key, str))


def _unpickled(file: str) -> Any:
    with open(file, "rb") as stream:
        zipped = stream.read(2) == b"PK"
    return (_read_zip if zipped else _read_legacy)(file)


def _read_zip(file: str) -> Any:
    """The format since PyTorch 1.6: a zip of data.pkl, and of each storage as data/KEY."""
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # as above
        raise Refused("is truncated or damaged: its table of contents is missing") from error
    with archive:
        records = {entry.filename: entry for entry in archive.infolist()}
        names = {Path(name).name: name for name in records}
        if "constants.pkl" in names:
            raise Refused("is a TorchScript program; save its state_dict() with torch.save instead")
        if "data.pkl" not in names:
            found = sorted(names)[:5]
            raise Refused(f"is a zip file of {found}, not a checkpoint; unpack it first")
        root = names["data.pkl"].removesuffix("data.pkl")
        order = records.get(f"{root}byteorder")
        if order is not None and archive.read(order).strip() == b"big":
            raise Refused("was written on a big-endian machine; save it again on another")
        data = np.memmap(file, np.uint8, "r")

        @functools.cache
        def record(key: str) -> np.ndarray:
            entry = records[f"{root}data/{key}"]
            if entry.compress_type != zipfile.ZIP_STORED:
                return np.frombuffer(archive.read(entry), np.uint8)
            header = entry.header_offset
            names, extra = struct.unpack("<HH", data[header + 26 : header + 30].tobytes())
            start = header + 30 + names + extra
            return data[start : start + entry.file_size]

        def storage(dtype: np.dtype, key: str, *_) -> _Storage:
            content = record(key)
            return _Storage(dtype, lambda: content)

        return _Unpickler(io.BytesIO(archive.read(names["data.pkl"])), storage).load()


def _read_legacy(file: str) -> Any:
    """The format before PyTorch 1.6: several pickles, then the storages."""
    types, places, data = {}, {}, np.memmap(file, np.uint8, "r")

    def storage(dtype: np.dtype, key: str, _, __, view: tuple | None = None) -> _Storage:
        types[key] = dtype
        return _Storage(dtype, lambda: places[key], view[1] if view else 0)

    with open(file, "rb") as stream:
        load = lambda: _Unpickler(stream, storage).load()  # noqa: E731
        if load() != _MAGIC:
            raise Refused("is a pickle, but not one that torch.save has written")
        load(), load()  # version, system
        content = load()
        for key in load():
            if key not in types:
                raise Refused("holds quantised arrays in the old format of PyTorch: save it again")
            start = stream.tell() + 8
            size = struct.unpack("<q", stream.read(8))[0] * types[key].itemsize
            if not 0 <= size <= len(data) - start:
                raise Refused("is truncated")
            places[key] = data[start : start + size]
            stream.seek(start + size)
    return content
