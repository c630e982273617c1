"""What torch.save writes, read without running anything that the file asks for.

A pickle is a program, and its author chooses what it runs in whoever reads it. PyTorch's restricted
unpickler makes tensors and plain containers from it and refuses the rest. What PyTorch Lightning
leaves beside the weights (its callbacks, NumPy scalars) becomes an empty object of ours: no name in
a file is ever looked up.
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

# Older ones can be made to run code in spite of weights_only (CVE-2025-32434, CVE-2026-24747).
_OLDEST_TORCH = "2.10"
_INERT = re.compile(r"pytorch_lightning\..*|numpy\._?core\.multiarray\.scalar|numpy\.dtype")


class Refused(Exception):
    """What is wrong with a file: the rest of a sentence that begins with its path."""


class _Nothing:
    """Takes the place of an object that is no array, whatever that was made from."""

    def __init__(self, *_):
        pass

    def __setstate__(self, _):
        pass


def import_torch():
    """The module; UserError where it is missing or too old to be safe."""
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
    """Name -> torch.Tensor of a file: of its `state_dict` entry, or of its top level without one.

    The tensors lie in the file, mapped into memory, where its format allows that: a zip file, as
    torch.save writes since version 1.6. Each can become an array (`to_array`). Raises Refused.
    """
    torch = import_torch()
    mapped = _is_mappable(file)
    inert = [(_Nothing, name) for name in _globals(file) if _INERT.fullmatch(name)]
    try:
        with torch.serialization.safe_globals(inert), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # damaged bytes raise anything
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        if forbidden:
            raise Refused(
                f"is refused: besides arrays it holds {forbidden[1]}, and to read that is to run it"
            ) from error
        raise Refused(f"is cut off, damaged or no checkpoint ({brief(error)})") from error

    top = content if isinstance(content, Mapping) else {}
    inner = top.get("state_dict", top)
    tensors = {
        name: value
        for name, value in (inner.items() if isinstance(inner, Mapping) else ())
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors and top:
        found = ", ".join(repr(key)[:40] for key in list(top)[:8])
        raise Refused(f"holds no arrays, nor a 'state_dict' of arrays, but {found}")
    for name, tensor in tensors.items():
        try:
            to_array(tensor.new_empty(0))
        except (TypeError, RuntimeError) as error:
            kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
            raise Refused(f"holds {name!r} as {kind}, which NumPy has not") from error
    return tensors


def to_array(tensor) -> np.ndarray:
    """A view of the tensor's memory; float32 for a bfloat16 one, a type that NumPy has not."""
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
    """What an exception says, in one short line."""
    lines = str(error).split("WeightsUnpickler error: ")[-1].strip().splitlines()
    return lines[0][:100] if lines else type(error).__name__


def _is_mappable(file: str) -> bool:
    """Whether arrays lie in the file as in memory; refuses what is at sight not torch.save's."""
    with open(file, "rb") as stream:
        head = stream.read(16)
    if head.startswith(b"\x80"):  # until PyTorch 1.6: pickles one after another, then the numbers
        return False
    if not head.startswith(b"PK"):
        raise Refused(f"is not a checkpoint: it begins with {str(head)[1:]}")
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except Exception as error:  # as above
        raise Refused("is cut off or damaged: its table of contents is missing") from error
    names = {Path(entry.filename).name for entry in entries}
    if "constants.pkl" in names:
        raise Refused("is a TorchScript program; torch.save its state_dict() to have its weights")
    if "data.pkl" not in names:
        raise Refused(f"is a zip file of {sorted(names)[:5]}, not a checkpoint; unpack it first")
    return all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)


def _globals(file: str) -> set[str]:
    """'module.name' of what the pickles in a file ask for, found without running them."""
    names = set()
    with contextlib.ExitStack() as stack, contextlib.suppress(Exception):  # torch.load will say
        stream = stack.enter_context(open(file, "rb"))
        if zipfile.is_zipfile(file):
            archive = stack.enter_context(zipfile.ZipFile(file))
            inner = next(name for name in archive.namelist() if Path(name).name == "data.pkl")
            stream = stack.enter_context(archive.open(inner))
        for _ in range(4):  # without zip: two versions and the machine, then the content
            for code, argument, _ in pickletools.genops(stream):
                if code.name == "GLOBAL":
                    names.add(argument.replace(" ", "."))
    return names
