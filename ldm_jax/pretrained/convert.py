"""Converts published weights to parameters and back: pure functions on mappings of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from flax import traverse_util

from ldm_jax.errors import UserError
from ldm_jax.pretrained.array_layout import ArrayLayout
from ldm_jax.pretrained.match import Part, Report, Slot, averaged, check_keys, match

__all__ = ["Part", "Report", "check_keys", "read_weights", "write_compvis", "write_diffusers"]

Tree = dict
Arrays = Mapping[str, np.ndarray]


def read_weights(
    arrays: Arrays, parts: Sequence[Part], *, ema: bool = True
) -> tuple[dict[str, Tree], Report]:
    """The parameters in a published file, or in the files of a pipeline of diffusers.

    Args:
      arrays: name -> array; each is read twice, for its shape and to convert it, one at a time.
        Those of a pipeline are COMPONENT/NAME.
      parts: the networks to read.
      ema: use the averaged weights if the file has them.

    Returns:
      (part -> tree of float32 arrays, the report).

    Raises:
      UserError: the file does not fit the parts, or an array holds NaN or infinity.
    """
    report, slots = match({name: np.shape(arrays[name]) for name in arrays}, parts, ema=ema)
    return _read(arrays.__getitem__, slots, report), report


def write_compvis(
    params: Mapping[str, Tree],
    parts: Sequence[Part],
    *,
    ema: Mapping[str, Tree] | None = None,
    scale_factor: float | None = None,
    buffers: Arrays | None = None,
) -> dict[str, np.ndarray]:
    """The inverse of `read_weights`: name -> array, float32 and without a copy where possible.

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


def write_diffusers(params: Mapping[str, Tree], parts: Sequence[Part]) -> dict[str, Arrays]:
    """Folder of a pipeline of diffusers -> name -> array, float32; `read_weights` is its inverse.

    A part that diffusers does not have lies in a folder of its own name, as in a CompVis file.

    Args:
      params: part -> tree. parts: those that are not in `params` are skipped.
    """
    folders = {}
    for part in parts:
        if part.name not in params:
            continue
        flat, file = traverse_util.flatten_dict(params[part.name]), {}
        for row in part.rows:
            leaves = [np.asarray(flat[path], np.float32) for path in row.paths]
            if part.component:
                layout = ArrayLayout(transposed=row.layout.transposed)
                for name, leaf in zip(row.diffusers, leaves, strict=True):
                    file[name] = layout.write([leaf])
            else:
                file[row.compvis] = row.layout.write(leaves)
        folders[part.component or part.name] = file
    return folders


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
