"""Converts published weights to parameters and back: pure functions on mappings of arrays."""

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
      arrays: name -> array; each is read twice, for its shape and to convert it, one at a time.
      parts: the networks to read.
      ema: use the averaged weights if the file has them.

    Returns:
      (part -> tree of float32 arrays, the report).

    Raises:
      UserError: the file does not fit the parts; nothing is converted then.
    """
    report, slots = match_compvis(_shapes(arrays), parts, ema=ema)
    params = _read(arrays.__getitem__, slots, report)
    if "scale_factor" in arrays:
        report = replace(report, scale_factor=np.asarray(arrays["scale_factor"]).item())
    return params, report


def read_diffusers(
    read_component: Callable[[str], Arrays], parts: Sequence[Part]
) -> tuple[dict[str, Tree], Report]:
    """`read_compvis` for a diffusers pipeline; `read_component` returns a folder's state dict."""
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
      parts: the networks and their names; those that are not in `params` are skipped.
      ema: part -> averaged tree; only the parts under `model.` are written.
      scale_factor: written as the scalar `scale_factor`.
      buffers: further arrays by name, such as the schedule and `model_ema.decay`.
    """
    file = {}
    averages = {p.name: ema[p.name] for p in parts if ema and p.name in ema and p.has_average}
    for trees, rename in ((params, str), (averages, averaged)):
        for part in parts:
            if part.name in trees:
                flat = traverse_util.flatten_dict(trees[part.name])
                for row in part.rows:
                    leaves = [np.asarray(flat[path], np.float32) for path in row.paths]
                    file[rename(part.prefix + row.compvis)] = row.layout.write(leaves)
    if scale_factor is not None:
        file["scale_factor"] = np.array(scale_factor, np.float32)
    return file | dict(buffers or {})


def _shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: np.shape(arrays[name]) for name in arrays}


def check_finite(name: str, array: np.ndarray) -> None:
    """Raises UserError for weights that are no numbers: all that follows from them would be NaN."""
    if wrong := array.size - np.isfinite(array).sum():
        raise UserError(
            f"{name} holds NaN or infinity, {wrong} of {array.size} numbers: the file is damaged, "
            "or its weights did not fit into the type that they were saved in"
        )


def _read(
    read: Callable[[str], np.ndarray], slots: Mapping[str, Slot], report: Report
) -> dict[str, Tree]:
    """The trees of all parts; copies, so that the file can be closed."""
    if report.problem:
        raise UserError(report.problem)
    flat = {part: {} for part in report.used}
    for name, slot in slots.items():
        array = np.asarray(read(name), np.float32).reshape(slot.shape)
        check_finite(name, array)
        for path, leaf in zip(slot.paths, slot.layout.read(array), strict=True):
            flat[slot.part][path] = np.array(leaf, np.float32, order="C")
    return {part: traverse_util.unflatten_dict(leaves) for part, leaves in flat.items()}
