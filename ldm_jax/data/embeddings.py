"""Embeddings of images that another model has computed: a .npy beside each image."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from etils import epath

from ldm_jax.data.annotations import plain_name, stem
from ldm_jax.data.images import in_threads
from ldm_jax.errors import UserError

EXTENSION = ".npy"


def embedding_files(images: Collection[str], files: Collection[str]) -> dict[str, str]:
    """{image: the .npy that has its name}, for those that have one."""
    there = {plain_name(stem(file)): file for file in files if file.lower().endswith(EXTENSION)}
    found = {image: there.get(plain_name(stem(image))) for image in images}
    return {image: file for image, file in found.items() if file is not None}


def check_embeddings(root: epath.Path, file_of: Mapping[str, str]) -> tuple[int, int]:
    """The shape (M, dim) that all embeddings have; only the headers of the files are read.

    UserError where there is none, and for the first file that is none or has another shape.
    """
    if not file_of:
        raise UserError(
            f"no image in {root} has an embedding: a {EXTENSION} of the same name beside it, with "
            "floats [dim] or [M, dim]"
        )
    files = list(file_of.values())
    shapes = in_threads(lambda file: _shape(root / file), files)
    for file, shape in zip(files, shapes, strict=True):
        if shape != shapes[0]:
            raise UserError(
                f"the embedding {root / file} is {list(shape)}, but {root / files[0]} is "
                f"{list(shapes[0])}; all must be alike"
            )
    return shapes[0]


def read_embeddings(paths: Sequence[epath.Path]) -> np.ndarray:
    """Float32 `[n, M, dim]`. UserError for a file that is damaged or holds what is no number."""
    return np.stack(in_threads(read_embedding, paths))


def read_embedding(path: epath.Path) -> np.ndarray:
    """Float32 `[M, dim]`; a single one `[dim]` is one of M = 1. UserError likewise."""
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"the embedding {path} cannot be read: {error}") from error
    array = array.reshape(_rows(array.shape, array.dtype, path)).astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"the embedding {path} holds what is no finite number")
    return array


def _shape(path: epath.Path) -> tuple[int, int]:
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read(file)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"the embedding {path} cannot be read: {error}") from error
    return _rows(shape, dtype, path)


def _rows(shape: tuple[int, ...], dtype: np.dtype, path: epath.Path) -> tuple[int, int]:
    """(M, dim) of an array of this shape."""
    if dtype.kind != "f" or len(shape) not in (1, 2) or 0 in shape:
        raise UserError(
            f"the embedding {path} is {dtype} {list(shape)}; it must be floats [dim] or [M, dim]"
        )
    return (1, *shape) if len(shape) == 1 else shape
