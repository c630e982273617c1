"""Features of sets of images, computed on all devices and kept in the cache part by part."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable

import jax
import numpy as np
from etils import epath
from jax.sharding import Sharding
from tqdm import tqdm

from ldm_jax.commands.evaluate.generated import arrays_digest
from ldm_jax.data.source import digest
from ldm_jax.errors import UserError
from ldm_jax.evaluation.features import FeatureNetwork, feature_batches
from ldm_jax.paths import cache_folder, write_whole
from ldm_jax.training.processes import on_first

PART = 1024  # images whose features are kept together
VERSION = 1  # raise it with any change to what the networks compute: old files are ignored
log = logging.getLogger(__name__)
Read = Callable[[range], np.ndarray]
"""Numbers of images -> uint8 `[n, H, W, C]`."""


class CachedFeatures:
    """The features of one network; what was computed once is read again.

    Args:
      network, params: the network and its weights.
      batch_size: at most so many images at once.
      sharding: how a batch is split over the devices.
      folder: of the files; by default `cache_folder("features")`.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        params: dict,
        batch_size: int,
        sharding: Sharding,
        folder: epath.Path | None = None,
    ):
        self.network, self.params = network, params
        self.sha256 = arrays_digest(params)
        self._batch_size, self._sharding = batch_size, sharding
        self._folder = cache_folder("features") if folder is None else folder

    def of_images(self, images: np.ndarray, title: str) -> np.ndarray:
        """Of images uint8 `[n, H, W, C]`, which their content tells from others."""
        key = arrays_digest(images)
        return self.of_source(lambda rows: images[rows.start : rows.stop], len(images), key, title)

    def of_source(self, read: Read, n: int, key: str, title: str) -> np.ndarray:
        """Of n images that are read when they are needed: float32 `[n, dimension]`.

        Of several processes the first alone gets them all; what was in the cache is 0 on the rest.

        Args:
          key: what decides the images. title: what they are, for the bar.

        Raises:
          UserError: a network that gives NaN.
        """
        name = digest([VERSION, self.network.name, self.sha256, n, key])
        folder = self._folder / f"{self.network.name}-{name}"
        parts = [range(i, min(i + PART, n)) for i in range(0, n, PART)]
        found = np.zeros((n, self.network.dimension), np.float32)

        def look() -> list[int]:
            missing = []
            for number, rows in enumerate(parts):
                part = _load(folder / f"{number:06d}.npz", (len(rows), self.network.dimension))
                if part is None:
                    missing.append(number)
                else:
                    found[rows.start : rows.stop] = part
            return missing

        missing, silent = on_first(look), jax.process_index() > 0
        total = sum(len(parts[number]) for number in missing)
        label = f"{self.network.name}: {title}"
        with tqdm(total=total, desc=label, unit="img", disable=silent or not missing) as bar:
            for number in missing:
                rows = parts[number]
                part = found[rows.start : rows.stop]
                for start, values in feature_batches(
                    self.network, self.params, read(rows), self._batch_size, self._sharding
                ):
                    part[start : start + len(values)] = values
                    bar.update(len(values))
                if not np.isfinite(part).all():
                    raise UserError(
                        f"{int((~np.isfinite(part)).any(axis=1).sum())} images ({title}) have "
                        f"{self.network.name} features that are not finite: its weights are damaged"
                    )
                if jax.process_index() == 0:
                    _save(folder / f"{number:06d}.npz", part)
        return found


def _load(file: epath.Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The features in a file; None where there is none, or it is damaged (by its CRC)."""
    try:
        with file.open("rb") as content, np.load(content, allow_pickle=False) as archive:
            features = archive["features"]
    except Exception:  # whatever the bytes are
        return None
    return features if features.shape == shape and np.isfinite(features).all() else None


def _save(file: epath.Path, features: np.ndarray) -> None:
    """Keeps features; where there is no room they are computed again the next time."""
    content = io.BytesIO()
    np.savez(content, features=features)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content.getvalue())
    except (OSError, UserError) as error:
        log.warning("the features are not kept: %s", error)
