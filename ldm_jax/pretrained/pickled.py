"""Reads what torch.save writes without running code from the file.

A pickle is a program that can run any code in the process that reads it. PyTorch's restricted
unpickler makes only tensors and plain containers and refuses the rest. Objects that PyTorch
Lightning stores beside the weights (callbacks, NumPy scalars) become empty placeholders: no name
in a file is ever imported.
"""

import contextlib
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from ldm_jax.errors import UserError

# Older versions can run code despite weights_only (CVE-2025-32434, CVE-2026-24747).
_OLDEST_TORCH = "2.10"
_INERT = re.compile(r"pytorch_lightning\..*|numpy\._?core\.multiarray\.scalar|numpy\.dtype")


class Refused(Exception):
    """A file cannot be read; the message continues a sentence that begins with its path."""


class _Placeholder:
    """Replaces an object that is not an array; ignores its arguments and state."""

    def __init__(self, *_):
        pass

    def __setstate__(self, _):
        pass


def import_torch():
    """The torch module; UserError if it is missing or too old to be safe."""
    try:
        import torch
    except ImportError as error:
        raise UserError('.ckpt files need PyTorch: pip install "ldm_jax[torch]"') from error
    if torch.__version__ < _OLDEST_TORCH:
        raise UserError(
            f"PyTorch {torch.__version__} cannot read files safely; {_OLDEST_TORCH} or newer does: "
            'pip install -U "ldm_jax[torch]"'
        )
    return torch


def read_tensors(file: str) -> dict:
    """Name -> torch.Tensor of a file: of its `state_dict` entry, or else of its top level.

    The tensors are memory-mapped if the format allows it: a zip file, which torch.save has written
    since version 1.6. `to_array` can convert each of them.

    Raises:
      Refused: the file is damaged, not a checkpoint, or holds forbidden objects or no arrays.
    """
    torch = import_torch()
    mapped = _is_mappable(file)
    inert = [(_Placeholder, name) for name in _globals(file) if _INERT.fullmatch(name)]
    try:
        with torch.serialization.safe_globals(inert), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # damaged bytes can raise any type
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        if forbidden:
            raise Refused(
                f"is refused: it holds {forbidden[1]}, and reading that would run code"
            ) from error
        raise Refused(f"is truncated, damaged or not a checkpoint ({brief(error)})") from error

    top = content if isinstance(content, Mapping) else {}
    inner = top.get("state_dict", top)
    tensors = {
        name: value
        for name, value in (inner.items() if isinstance(inner, Mapping) else ())
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors and top:
        found = ", ".join(repr(key)[:40] for key in list(top)[:8])
        raise Refused(f"holds no arrays and no 'state_dict' of arrays, but {found}")
    for name, tensor in tensors.items():
        try:
            to_array(tensor.new_empty(0))
        except (TypeError, RuntimeError) as error:
            kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
            raise Refused(f"holds {name!r} as {kind}, which NumPy lacks") from error
    return tensors


def to_array(tensor) -> np.ndarray:
    """A view of the tensor's memory; bfloat16, which NumPy lacks, becomes float32."""
    name = str(tensor.dtype)
    return (tensor.float() if name == "torch.bfloat16" else tensor).numpy(force=True)


def to_tensor(array: np.ndarray):
    """A torch.Tensor of the same type, also for bfloat16; a view where the array is contiguous."""
    torch = import_torch()
    array = np.asarray(array, order="C")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # JAX's are not
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
        return torch.from_numpy(array)


def brief(error: Exception) -> str:
    """The message of an exception, as one short line."""
    lines = str(error).split("WeightsUnpickler error: ")[-1].strip().splitlines()
    return lines[0][:100] if lines else type(error).__name__


def _is_mappable(file: str) -> bool:
    """Whether a file can be memory-mapped; Refused if it is not a file of torch.save."""
    with open(file, "rb") as stream:
        head = stream.read(16)
    if head.startswith(b"\x80"):  # before PyTorch 1.6: several pickles, then the numbers
        return False
    if not head.startswith(b"PK"):
        raise Refused(f"is not a checkpoint: it begins with {str(head)[1:]}")
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except Exception as error:  # as above
        raise Refused("is truncated or damaged: its table of contents is missing") from error
    names = {Path(entry.filename).name for entry in entries}
    if "constants.pkl" in names:
        raise Refused("is a TorchScript program; save its state_dict() with torch.save instead")
    if "data.pkl" not in names:
        raise Refused(f"is a zip file of {sorted(names)[:5]}, not a checkpoint; unpack it first")
    return all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)


def _globals(file: str) -> set[str]:
    """'module.name' of all globals in the pickles of a file, found without running them."""
    names = set()
    with (
        contextlib.ExitStack() as stack,
        contextlib.suppress(Exception),
    ):  # torch.load reports errors
        stream = stack.enter_context(open(file, "rb"))
        if zipfile.is_zipfile(file):
            archive = stack.enter_context(zipfile.ZipFile(file))
            inner = next(name for name in archive.namelist() if Path(name).name == "data.pkl")
            stream = stack.enter_context(archive.open(inner))
        for _ in range(4):  # not a zip file: magic number, version, system, then the content
            for code, argument, _ in pickletools.genops(stream):
                if code.name == "GLOBAL":
                    names.add(argument.replace(" ", "."))
    return names
