"""How the figures of the notebooks look: letters of 12 points, readable on a phone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.0  # inches; 700 pixels, which a telephone shows at half of that


def style() -> None:
    """Sets the style of all figures that follow."""
    import matplotlib.pyplot as plt

    names = ("font.size", "axes.titlesize", "axes.labelsize", "legend.fontsize")
    plt.rcParams.update(dict.fromkeys((*names, "xtick.labelsize", "ytick.labelsize"), 12))
    plt.rcParams.update({"figure.dpi": 100, "figure.constrained_layout.use": True})
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    plt.rcParams.update({"legend.frameon": False, "lines.linewidth": 2})


def image_rows(
    rows: Sequence[np.ndarray], names: Sequence[str], columns: Sequence[str] = ()
) -> Figure:
    """Images in rows, with a name at the left of each row and a label over each column.

    Args:
      rows: `[n, H, W, 3]` each: uint8, or floats in [-1, 1], which are clipped to it.
      names: of the rows; "" for none.
      columns: of the first row's images; empty: no labels.
    """
    import matplotlib.pyplot as plt

    across = max(len(row) for row in rows)
    ratio = rows[0].shape[1] / rows[0].shape[2]
    left = 1.1 if any(names) else 0.0
    height = (WIDTH - left) / across * ratio
    figure, axes = plt.subplots(
        len(rows),
        across,
        figsize=(WIDTH, len(rows) * (height + 0.04) + (0.35 if columns else 0)),
        squeeze=False,
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for line, row, name in zip(axes, rows, names, strict=True):
        for axis, image in zip(line, row, strict=False):
            axis.imshow(_pixels(image), interpolation="nearest")
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8)
    for axis, label in zip(axes[0], columns, strict=False):
        axis.set_title(label)
    return figure


def point_panels(titles: Sequence[str], reach: float) -> Sequence[Axes]:
    """Square panels side by side, for points (x, y) from -reach to reach, without ticks."""
    import matplotlib.pyplot as plt

    side = WIDTH / len(titles)
    _, axes = plt.subplots(1, len(titles), figsize=(WIDTH, side + 0.4), squeeze=False)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
        axis.spines[:].set(visible=True, color="0.8")
        axis.set_title(title)
    return axes[0]


def _pixels(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype == np.uint8:
        return image
    return np.rint(np.clip(image * 127.5 + 127.5, 0, 255)).astype(np.uint8)
