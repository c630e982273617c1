"""TensorBoard logs of a stage: what metrics.jsonl says, and previews. Optional: tensorboardX."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from ldm_jax.errors import UserError


def check_installed() -> None:
    """Raises UserError where tensorboardX, which writes the logs, cannot be imported."""
    try:
        import tensorboardX  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'--tensorboard True needs tensorboardX ({error}): pip install "ldm_jax[tensorboard]"'
        ) from error


class TensorBoard:
    """Event files in a folder, which TensorBoard shows as one run."""

    def __init__(self, folder: epath.PathLike, start: int):
        """start: the step that training goes on from; what was logged after it does not count."""
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(
            str(folder),
            purge_step=start + 1,
            flush_secs=30,
            filename_suffix=f".{start}",  # the name has the second, which two starts may share
        )

    def record(self, record: Mapping[str, Any]) -> None:
        """Logs the finite numbers of a line of metrics.jsonl, each under its name."""
        for name, value in record.items():
            is_number = name not in ("stage", "step") and hasattr(value, "__float__")
            if is_number and math.isfinite(value):
                self._writer.add_scalar(name, float(value), record["step"])

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Logs an image, uint8 `[H, W, 3]`."""
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Writes what is still in memory."""
        self._writer.close()
