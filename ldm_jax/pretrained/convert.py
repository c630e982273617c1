"""Published weights to parameters and back: pure functions on mappings of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from flax import traverse_util

from ldm_jax.errors import UserError
from ldm_jax.pretrained.match import (
    Part,
    Report,
    Slot,
    averaged,
    check_diffusers,
    check_keys,
    match_compvis,
    match_diffusers,
)

__all__ = [
    "Part",
    "Report",
    "check_diffusers",
    "check_keys",
    "read_compvis",
    "read_diffusers",
    "write_compvis",
]

Tree = dict
Arrays = Mapping[str, np.ndarray]


def read_compvis(
    arrays: Arrays, parts: Sequence[Part], *, ema: bool = True
) -> tuple[dict[str, Tree], Report]:
    """The parameters in a CompVis state dict.

    Args:
      arrays: name -> array; one at a time is asked for, once for its shape and once to convert it.
      parts: what to read.
      ema: averaged weights are taken where the file has them.

    Returns:
      (part -> tree of float32 arrays, the report).

    Raises:
      UserError: the file does not fit: one line that says how, before anything is converted.
    """
    report, slots = match_compvis(_shapes(arrays), parts, ema=ema)
    params = _read(arrays.__getitem__, slots, report)
    if "scale_factor" in arrays:
        report = replace(report, scale_factor=np.asarray(arrays["scale_factor"]).item())
    return params, report


def read_diffusers(
    read_component: Callable[[str], Arrays], parts: Sequence[Part]
) -> tuple[dict[str, Tree], Report]:
    """`read_compvis` for a diffusers pipeline; `read_component` gives a folder's state dict."""
    folders = {part.component: read_component(part.component) for part in parts if part.component}
    shapes = {folder: _shapes(arrays) for folder, arrays in folders.items()}
    report, slots = match_diffusers(shapes, parts)

    def read(name: str) -> np.ndarray:
        folder, _, name = name.partition("/")
        return folders[folder][name]

    return _read(read, slots, report), report


def write_compvis(
    params: Mapping[str, Tree],
    parts: Sequence[Part],
    *,
    ema: Mapping[str, Tree] | None = None,
    scale_factor: float | None = None,
    buffers: Arrays | None = None,
) -> dict[str, np.ndarray]:
    """The inverse of `read_compvis`: name -> array, float32 and without a copy where possible.

    Args:
      params: part -> tree.
      parts: what to write, and under which names; those that `params` lacks are left out.
      ema: part -> averaged tree; written beside those under `model.`, the others have none there.
      scale_factor: written under this name, a scalar.
      buffers: further arrays by their names there: the schedule, `model_ema.decay` and the like.
    """
    file = {}
    averages = {p.name: ema[p.name] for p in parts if ema and p.name in ema and p.has_average}
    for trees, rename in ((params, str), (averages, averaged)):
        for part in parts:
            if part.name in trees:
                flat = traverse_util.flatten_dict(trees[part.name])
                for row in part.entries:
                    ours = [np.asarray(flat[path], np.float32) for path in row.ours]
                    file[rename(part.prefix + row.compvis)] = row.layout.write(ours)
    if scale_factor is not None:
        file["scale_factor"] = np.array(scale_factor, np.float32)
    return file | dict(buffers or {})


def _shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: np.shape(arrays[name]) for name in arrays}


def _read(
    read: Callable[[str], np.ndarray], slots: Mapping[str, Slot], report: Report
) -> dict[str, Tree]:
    """The trees of all parts, array by array; a copy, so that the file can go."""
    if report.problem:
        raise UserError(report.problem)
    flat = {part: {} for part in report.used}
    for name, slot in slots.items():
        theirs = read(name).reshape(slot.shape)
        for path, ours in zip(slot.ours, slot.layout.read(theirs), strict=True):
            flat[slot.part][path] = np.array(ours, np.float32, order="C")
    return {part: traverse_util.unflatten_dict(leaves) for part, leaves in flat.items()}
