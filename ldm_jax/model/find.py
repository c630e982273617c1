"""What people mean by a MODEL or a RUN: a run directory, or a model that comes with the package."""

from __future__ import annotations

import difflib
from pathlib import Path

from etils import epath

from ldm_jax.errors import UserError
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.model.run_dir import RunDir
from ldm_jax.paths import user_path
from ldm_jax.shipped import FOLDER, shipped_models, zoo_models


def find_run(place: str, shipped: Path = FOLDER) -> RunDir:
    """The run in a directory, or else the shipped model of that name.

    A run directory wins: a name stands for a shipped model only where no run lies under it.

    Args:
      shipped: the folder of the shipped models.

    Raises:
      UserError: there is neither; it lists the shipped models.
    """
    if not is_run(place, shipped):
        raise UserError(no_run(place, shipped))
    return RunDir(_path(place, shipped))


def is_run(place: str, shipped: Path = FOLDER) -> bool:
    """Whether `find_run` finds one; no part of a pipeline, which may have a config.json."""
    return _holds_run(_path(place, shipped))


def no_run(place: str, shipped: Path = FOLDER) -> str:
    """Why `find_run` finds none there, and what may have been meant."""
    names, name = _names(shipped), str(place)
    said = [f"{place} is no run directory: it has no config.json"]
    if name in EXPERIMENTS and not user_path(place).exists():
        said = [
            f"{place} is an experiment, not a trained model: train it by python train.py {place}, "
            f"then give its run directory, runs/{place}"
        ]
    if names:
        close = difflib.get_close_matches(name, names, n=1)
        meant = f"; perhaps you meant {close[0]}" if close else ""
        said.append(f"models that come with the package: {', '.join(names)}{meant}")
    return "; ".join(said)


def _path(place: str, shipped: Path) -> epath.Path:
    path = user_path(place)
    if str(place) in _names(shipped) and not _holds_run(path):
        return epath.Path(shipped) / place
    return path


def _names(shipped: Path) -> list[str]:
    return [*shipped_models(shipped), *zoo_models(shipped)]


def _holds_run(path: epath.Path) -> bool:
    config = path / "config.json"
    if not config.exists():
        return False
    content = config.read_bytes()
    return b'"_class_name"' not in content and b'"architectures"' not in content
