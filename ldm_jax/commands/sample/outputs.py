"""Where drawn images go: the ending of --out decides.

    samples.png   one image: a grid of all
    samples.gif   an animation: the estimates of z_0, step by step
    samples.npz   all in one array, as the evaluation of ADM (Dhariwal and Nichol, 2021) reads them
    samples       a folder of single images

Folders and archives are for thousands of images. What is drawn is written at once, and the same
command, given again after it was stopped, draws what is missing.
"""

from __future__ import annotations

import io
import json
import logging
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import numpy as np
from etils import epath
from PIL import Image

from ldm_jax import plots
from ldm_jax.commands.sample.plan import Request
from ldm_jax.errors import UserError
from ldm_jax.lock import LOCK, Lock
from ldm_jax.paths import PART, naming, user_path, write_whole
from ldm_jax.training.processes import on_first

log = logging.getLogger(__name__)
OutputKind = Literal["grid", "animation", "archive", "folder"]
ENDINGS: dict[str, OutputKind] = {
    ".png": "grid",
    ".gif": "animation",
    ".npz": "archive",
    "": "folder",
}
SETTINGS = "settings.json"


def output_kind(out: str) -> OutputKind:
    """By the ending of a file. UserError for an ending that has no meaning."""
    ending = user_path(out).suffix.lower()
    if ending not in ENDINGS:
        raise UserError(
            f"--out is {out!r}; it ends with .png (a grid), .gif (an animation), .npz (an array), "
            "or is a folder, for single images"
        )
    return ENDINGS[ending]


class ImageFolder:
    """Single images 000000.png, 000001.png, ..., with their settings in the metadata of each.

    Beside them lies settings.json: what the images are, but for how many.

    Args:
      settings: what an image depends on; it is the same for all images of a folder.
      names: of the files that were read, as they were given. They go to the metadata alone: a
        file that is moved, or whose path is spelled in another way, is still the same file.

    Raises:
      UserError: the folder holds images that were made in another way, or does not say how.
    """

    def __init__(
        self,
        path: epath.Path,
        settings: Mapping[str, object],
        names: Mapping[str, object] | None = None,
    ):
        self.path, self.settings = path, {name: str(value) for name, value in settings.items()}
        self._names = dict(names or {})
        file = path / SETTINGS
        if file.exists():
            before = _read_settings(file)
            if differ := [
                n for n in self.settings | before if before.get(n) != self.settings.get(n)
            ]:
                was, now = before.get(differ[0]), self.settings.get(differ[0])
                raise UserError(
                    f"{path} has images of another kind: {differ[0].replace('_', '-')} was "
                    f"{was}, and is {now} now; give another --out, or remove it"
                )
        elif path.exists() and any(f.suffix != PART and f.name != LOCK for f in path.iterdir()):
            raise UserError(f"{path} has other files in it; --out is a new folder")

    def file(self, number: int) -> epath.Path:
        """Of this image."""
        return self.path / f"{number:06d}.png"

    def missing(self, n: int) -> np.ndarray:
        """The numbers below n whose images are not there yet."""
        there = {f.name for f in self.path.iterdir()} if self.path.exists() else set()
        return np.array([i for i in range(n) if self.file(i).name not in there], int)

    def write(self, numbers: Sequence[int], images: np.ndarray, labels: Sequence[str]) -> None:
        """Writes images uint8 `[b, H, W, C]`; each is there whole, or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / SETTINGS).exists():
            write_whole(self.path / SETTINGS, json.dumps(self.settings, indent=2))
        for number, image, label in zip(numbers, images, labels, strict=True):
            image = image[..., 0] if image.shape[-1] == 1 else image
            made_by = self.settings | self._names | {"number": number, "condition": label}
            plots.save_png(self.file(number), image, made_by)

    def read(self, number: int) -> np.ndarray:
        """The image: uint8 `[H, W, C]`. UserError for a file that is damaged."""
        try:
            with self.file(number).open("rb") as content:
                image = np.asarray(Image.open(content))
        except Exception as error:  # Pillow raises whatever a damaged file leads to
            raise UserError(
                f"{self.file(number)} is damaged; remove it, then give the same command"
            ) from error
        return image[..., None] if image.ndim == 2 else image


def _read_settings(file: epath.Path) -> dict[str, str]:
    try:
        return dict(json.loads(file.read_bytes()))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{file} is damaged, and says no longer how the images there are made; give another "
            "--out, or remove the folder"
        ) from error


def pack(folder: ImageFolder, n: int, file: epath.Path, labels: np.ndarray | None) -> None:
    """Makes the archive of a folder's images 0 to n - 1, and removes the folder.

    `arr_0` are the images, uint8 `[n, H, W, 3]`; `arr_1` the classes int64 `[n]`, if there are.
    One image is in memory at a time.
    """
    first = folder.read(0)
    part = file.with_name(file.name + PART)
    with naming(file), part.open("wb") as raw, zipfile.ZipFile(raw, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as array:
            np.lib.format.write_array_header_1_0(
                array, {"descr": "|u1", "fortran_order": False, "shape": (n, *first.shape[:2], 3)}
            )
            for number in range(n):
                array.write(np.broadcast_to(folder.read(number), (*first.shape[:2], 3)).tobytes())
        if labels is not None:
            content = io.BytesIO()
            np.save(content, np.asarray(labels, np.int64))
            archive.writestr("arr_1.npy", content.getvalue())
    part.replace(file)
    folder.path.rmtree()


class ManyImages:
    """Writes images one by one as they are sampled, and samples those that are missing.

    Process 0 looks what is there, and writes. `with ManyImages(...) as writer:` keeps all other
    commands from writing there.
    """

    def __init__(
        self,
        out: epath.Path,
        kind: OutputKind,
        request: Request,
        settings: Mapping[str, object],
        names: Mapping[str, object],
    ):
        settings = dict(settings) | {"conditions": "\n".join(request.labels)}
        arrays = request.conditions or {}
        if arrays.keys() - {"condition"}:  # read from a file, whose content counts
            content = b"".join(rows.tobytes() for _, rows in sorted(arrays.items()))
            settings["content"] = f"{zlib.crc32(content):08x}"
        if len(request.labels) > 1:  # or else the images of a larger number begin with these
            settings["num_images"] = request.images_per_prompt
        self.request, self.out, self.packs = request, out, kind == "archive"
        self.n = len(request.all_labels)
        path = out.with_name(out.name + ".parts") if self.packs else out
        self._lock = Lock(path, "--out")

        def missing() -> list[int]:
            if self.packs and out.exists():
                raise UserError(f"{out} is there already; give another --out, or remove it")
            self.folder = ImageFolder(path, settings, names)
            return self.folder.missing(self.n).tolist()

        def alone() -> list[int]:
            missing()  # or else the lock would be the first to come into a folder of other files
            self._lock.acquire()
            return missing()

        self.missing = np.array(on_first(alone), int)
        if 0 < len(self.missing) < self.n:
            log.info("%d of %d images are there already", self.n - len(self.missing), self.n)

    def __enter__(self) -> ManyImages:
        return self

    def __exit__(self, *exception) -> None:
        if jax.process_index() == 0:
            self._lock.release()

    def write(self, first: int, images: np.ndarray) -> None:
        """Writes images `missing[first]` and following, as they are sampled."""
        if jax.process_index() == 0:
            self._lock.check()
            ids, request = self.missing[first : first + len(images)], self.request
            labels = [request.labels[i // request.images_per_prompt] for i in ids]
            self.folder.write(ids, images, labels)

    def write_all(self, images: np.ndarray) -> None:
        """Writes images that were made together."""
        self.n, labels = len(images), self.request.all_labels
        labels = labels if len(labels) == len(images) else [""] * len(images)
        if jax.process_index() == 0:
            self._lock.check()
            self.folder.write(range(self.n), images, labels)

    def finish(self) -> str:
        """Makes the archive, if that is wanted; returns a line about it."""
        if self.packs and jax.process_index() == 0:
            classes = None
            if self.request.model.info.condition == "class":
                classes = self.request.conditions["condition"]
                classes = np.repeat(classes, self.request.images_per_prompt)
            pack(self.folder, self.n, self.out, classes)
        return f"{self.n} images in {self.out}"
