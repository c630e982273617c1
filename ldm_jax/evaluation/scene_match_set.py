"""Matches a whole set of images with their nearest true renders, on all cores.

`python -m ldm_jax.evaluation.scene_match_set FILE` matches one part of it.
"""

from __future__ import annotations

import pickle
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ldm_jax.data.scenes.world import Scene
from ldm_jax.errors import UserError
from ldm_jax.evaluation.scene_match import Match, check, match
from ldm_jax.processes import cores, print_count, run_in_processes

_IMAGES_PER_PROCESS = 20  # fewer are matched sooner than another interpreter starts


def match_set(
    images: np.ndarray,
    guesses: Sequence[Scene],
    objects: np.ndarray | None = None,
    level: str = "single",
    *,
    workers: int | None = None,
    progress: bool = False,
) -> list[Match]:
    """`scene_match.match` of each image; all are checked before the first is matched.

    Args:
      images: uint8 [n, H, H, 3], H = 32 or 64.
      guesses: a scene for each.
      objects: bool [n, H, H], or None.
      level: of all scenes.
      workers: number of processes; by default one per core, or none for a small set.
      progress: show a bar.
    Raises:
      UserError: as `match`, with the number of the image; not one guess and mask for each image.
    """
    masks = [None] * len(images) if objects is None else objects
    if not len(images) == len(guesses) == len(masks):
        raise UserError(
            f"{len(images)} images need a scene each and a mask each, not {len(guesses)} scenes "
            f"and {len(masks)} masks"
        )
    for number, one in enumerate(zip(images, guesses, masks, strict=True)):
        try:
            check(*one, level)
        except UserError as error:
            raise UserError(f"image {number} of {len(images)}: {error}") from error
    if workers is None:
        workers = min(cores(), len(images) // _IMAGES_PER_PROCESS)
    with tqdm(
        total=len(images), desc="nearest true renders", unit="image", disable=not progress
    ) as bar:
        if workers < 2:
            return _match_part(images, guesses, masks, level, bar.update)
        with tempfile.TemporaryDirectory(prefix="ldm_jax_match_") as folder:
            files = []
            for k, part in enumerate(np.array_split(np.arange(len(images)), workers)):
                files.append(Path(folder) / f"{k}")
                own = [[values[i] for i in part] for values in (images, guesses, masks)]
                files[k].write_bytes(pickle.dumps((*own, level)))
            run_in_processes(__name__, [str(file) for file in files], bar)
            # These processes alone write the folder, so what it holds is safe to unpickle.
            return [one for file in files for one in pickle.loads(file.read_bytes())]


def _match_part(images, guesses, masks, level, report: Callable[[int], object]) -> list[Match]:
    found = []
    for image, guess, mask in zip(images, guesses, masks, strict=True):
        found.append(match(image, guess, mask, level))
        report(1)
    return found


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_bytes(pickle.dumps(_match_part(*pickle.loads(file.read_bytes()), print_count)))
