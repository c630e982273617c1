"""Sets of images in files: an `.npz` as ADM writes it, or a folder of images of one size."""

from __future__ import annotations

import numpy as np
from etils import epath
from PIL import Image

from ldm_jax.data.folder_index import EXTENSIONS
from ldm_jax.errors import UserError
from ldm_jax.evaluation.measures import FEWEST
from ldm_jax.paths import user_path


def read_images(option: str, path: str) -> np.ndarray:
    """All images of a file or folder: uint8 `[n, H, W, C]`, C 1 or 3.

    Raises:
      UserError: there is none, it cannot be read, images of several sizes or types, or too few;
        `option` is what named it.
    """
    place = user_path(path)
    if place.is_dir():
        images = _of_folder(option, place)
    elif place.suffix.lower() == ".npz" and place.exists():
        images = _of_archive(option, place)
    elif place.exists():
        raise UserError(f"{option} {path}: it is a FILE.npz, or a folder of images")
    else:
        raise UserError(f"{option} {path}: there is no such file or folder")
    if len(images) < FEWEST:
        raise UserError(
            f"{option} {path} has {len(images)} images; the measures need at least {FEWEST}"
        )
    return images


def _of_archive(option: str, file: epath.Path) -> np.ndarray:
    try:
        with file.open("rb") as content, np.load(content, allow_pickle=False) as archive:
            if "arr_0" not in archive.files:
                raise UserError(
                    f"{option} {file} has no array arr_0, which holds the images in ADM's format; "
                    f"it has: {', '.join(archive.files) or 'none'}"
                )
            images = archive["arr_0"]
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise any type
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{option} {file} cannot be read as an .npz of arrays: {reason}") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise UserError(
            f"{option} {file}: arr_0 is {images.dtype} {list(images.shape)}; images are uint8 "
            "[n, height, width, 3 or 1]"
        )
    return images


def _of_folder(option: str, folder: epath.Path) -> np.ndarray:
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in EXTENSIONS)
    if not files:
        raise UserError(f"{option} {folder}: there is no image in this folder")
    images: list[np.ndarray] = []
    for file in files:
        try:
            with file.open("rb") as content, Image.open(content) as image:
                images.append(np.asarray(image.convert("RGB")))
        except Exception as error:  # Pillow raises whatever a damaged file leads to
            raise UserError(f"{option} {file} cannot be read as an image") from error
        if images[-1].shape != images[0].shape:
            (h, w), (height, width) = images[-1].shape[:2], images[0].shape[:2]
            raise UserError(
                f"{option} {folder} has images of several sizes: {files[0].name} is "
                f"{width}x{height}, {file.name} is {w}x{h}; resize them to one size, or give the "
                "folder as --data.path, which crops and resizes them as in training"
            )
    return np.stack(images)
