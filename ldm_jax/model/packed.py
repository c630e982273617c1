"""A packed run: what sampling needs of a run, small enough to be shared.

Beside its config.json lies a file of weights for each stage, in place of checkpoints:

    autoencoder.npz  diffusion.npz  classifier.npz

They hold the weights that sampling uses (averaged ones, where there is an average) in bfloat16, as
the upper halves of the bits of float32. NumPy reads them, without pickles.
"""

from __future__ import annotations

import io
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from ldm_jax.errors import UserError
from ldm_jax.paths import write_whole

_STEP = "step"
DECODER = ("decoder", "post_quant_conv")  # parts of an autoencoder


def packed_file(run: epath.Path, stage: str) -> epath.Path | None:
    """The file of a stage's weights in a run directory; None where there is none."""
    file = run / f"{stage}.npz"
    return file if file.exists() else None


def write_packed(file: epath.Path, step: int, tree: dict[str, Any]) -> bool:
    """Writes nested dicts of arrays; those of float32 `[...]` become bfloat16, but for scalars.

    The same weights give the same bytes, and a file that has them stays as it is.

    Returns:
      Whether the file has changed.
    """
    leaves = jax.tree.leaves_with_path(tree)
    arrays = {jax.tree_util.keystr(p, simple=True, separator="/"): _packed(a) for p, a in leaves}
    content = io.BytesIO()
    np.savez(content, **{_STEP: np.int64(step)}, **dict(sorted(arrays.items())))
    changed = not file.exists() or file.read_bytes() != content.getvalue()
    if changed:
        write_whole(file, content.getvalue())
    return changed


def read_packed(file: epath.Path) -> dict[str, Any]:
    """The tree that `write_packed` was given, in float32. UserError for a file that is damaged."""
    tree: dict[str, Any] = {}
    for name, array in _read(file).items():
        if name == _STEP:
            continue
        *path, last = [int(key) if key.isdigit() else key for key in name.split("/")]
        place = tree
        for key in path:
            place = place.setdefault(key, {})
        place[last] = _unpacked(array)
    return tree


def packed_step(file: epath.Path) -> int:
    """The step of the training at which these weights were the newest."""
    return int(_read(file, [_STEP])[_STEP])


def encoder_digest(autoencoder: dict[str, Any]) -> np.uint32:
    """A number that tells the encoder of these packed parameters from others.

    A diffusion model is trained on the latents of one encoder. What decodes them is left out: it
    may be trained further.
    """
    encoder = {name: p for name, p in autoencoder.items() if name not in DECODER}
    total = 0
    for path, leaf in jax.tree.leaves_with_path(encoder):
        total = zlib.crc32(jax.tree_util.keystr(path).encode(), total)
        total = zlib.crc32(np.ascontiguousarray(_packed(leaf)), total)
    return np.uint32(total)


def _packed(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    if array.dtype == np.float32 and array.ndim:
        return array.astype(jnp.bfloat16).view(np.uint16)
    return array


def _unpacked(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def _read(file: epath.Path, names: list[str] | None = None) -> dict[str, np.ndarray]:
    try:
        with file.open("rb") as content, np.load(content, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names or arrays.files}
    except Exception as error:  # NumPy and zipfile raise whatever a damaged file leads to
        raise UserError(f"{file} cannot be read as an .npz of arrays: {error}") from error
