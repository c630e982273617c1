"""The figures of a report: the measures as bars, with images; nearest training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ldm_jax import plots
from ldm_jax.evaluation.nearest import Nearest

# Row of the report: (title, colour)
ROWS = {
    "samples": ("samples", "#d62728"),
    "bicubic": ("bicubic", "#ff7f0e"),
    "mean_fill": ("mean fill", "#ff7f0e"),
    "blurred": ("blurred renders", "#2ca02c"),
    "reconstructions": ("reconstructions", "#1f77b4"),
    "held_out": ("held-out images", "#7f7f7f"),
}
SHARES = {
    "precision": "precision_recall",
    "recall": "precision_recall",
    "density": "density_coverage",
    "coverage": "density_coverage",
}
SHOWN = 16  # images of each set
PAIRS = 12  # of an image with its nearest training image, of each kind
COLUMNS = 4  # of pairs


def evaluation_figure(report: Mapping[str, Any], images: Mapping[str, np.ndarray]) -> np.ndarray:
    """Bars of each network above some images of each set: uint8 `[H, W, 3]`, 1300 pixels wide.

    Args:
      report: as evaluation.json holds it.
      images: title of a set -> uint8 `[n, H, W, C]`.
    """
    networks = report["features"]
    columns = max(3, len(images))
    lines = -(-max(min(len(some), SHOWN) for some in images.values()) // 4)
    heights = [2.5] * len(networks) + [13 / columns * lines / 4 + 0.2]
    figure = Figure(figsize=(13, sum(heights) + 0.2), dpi=100, layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights)
    for part, (name, one) in zip(parts, networks.items(), strict=False):
        part.suptitle(f"{name} features", fontsize=12, x=0.01, ha="left", weight="bold")
        distance, shares, table = part.subplots(1, 3, width_ratios=(4, 4, 5))
        shown = {row: one["rows"][row] for row in ROWS if row in one["rows"]}
        _kid_bars(distance, shown)
        _share_bars(shares, shown)
        _table(table, one)
    for axes, (title, some) in zip(parts[-1].subplots(1, columns), images.items(), strict=False):
        grid = plots.grid(np.broadcast_to(some, (*some.shape[:3], 3))[:SHOWN], 4)
        axes.imshow(grid, interpolation="nearest")
        axes.set_title(title.replace("_", " "), fontsize=11)
    for axes in parts[-1].axes:
        axes.axis("off")
    return plots.as_pixels(figure)


def _kid_bars(axes: Axes, rows: Mapping[str, Any]) -> None:
    for place, (row, measures) in enumerate(reversed(rows.items())):
        title, colour = ROWS[row]
        kid = measures["kid"]
        axes.barh(place, kid["mean"], xerr=kid["standard_error"], color=colour, capsize=3)
        end = max(kid["mean"] + kid["standard_error"], 0)
        digits = ".4f" if abs(kid["mean"]) < 10 else ".0f"
        text = f" {kid['mean']:{digits}} ± {kid['standard_error']:{digits}}"
        axes.text(end, place, text, va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [ROWS[row][0] for row in reversed(rows)])
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.55 * (high - low))
    axes.axvline(0, color="black", lw=0.8)
    axes.set_title("KID (0: equal distributions)", fontsize=10)
    axes.tick_params(labelsize=9)
    axes.locator_params(axis="x", nbins=5)
    axes.spines[["top", "right"]].set_visible(False)


def _share_bars(axes: Axes, rows: Mapping[str, Any]) -> None:
    width = 0.8 / len(rows)
    for number, (row, measures) in enumerate(rows.items()):
        values = [measures[of][name] for name, of in SHARES.items()]
        places = np.arange(len(SHARES)) + (number - (len(rows) - 1) / 2) * width
        axes.bar(places, values, width, color=ROWS[row][1], label=ROWS[row][0])
    axes.set_xticks(range(len(SHARES)), SHARES)
    axes.axhline(1, color="black", lw=0.8, ls=":")
    axes.set_title("shares (as held-out images: best)", fontsize=10)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _table(axes: Axes, network: Mapping[str, Any]) -> None:
    """The other distances, with the numbers of images on which they depend."""
    axes.axis("off")
    name = network["frechet_distance_is"]
    header = ["", name, "sliced W2", "N, N real", "IS"]
    cells, few = [], False
    for row in [*ROWS, "reconstructions_paired"]:
        if row not in network["rows"]:
            continue
        measures = network["rows"][row]
        frechet, sliced = measures["frechet_distance"], measures["sliced_wasserstein"]
        score = measures.get("inception_score")
        title = "the same, paired" if row not in ROWS else ROWS[row][0]
        marks = ["*" if "caution" in one else "" for one in (frechet, sliced, score or {})]
        few |= any(marks)
        cells.append(
            [
                title,
                f"{frechet['distance']:.4g}{marks[0]}",
                f"{sliced['distance']:.4g}{marks[1]}",
                f"{frechet['num_generated']}, {frechet['num_real']}",
                "" if score is None else f"{score['mean']:.2f}{marks[2]}",
            ]
        )
    shown = 5 if any(row[-1] for row in cells) else 4  # only some networks have classes
    table = axes.table(
        [row[:shown] for row in cells],
        colLabels=header[:shown],
        loc="center",
        colWidths=(0.33, 0.27, 0.18, 0.2, 0.12)[:shown],
        edges="B",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1, 1.5)
    if few:
        axes.set_title("* biased by too few images: compare at equal N", fontsize=9, y=-0.14)


def nearest_figure(
    sets: Mapping[str, tuple[np.ndarray, Nearest]], training: Mapping[int, np.ndarray]
) -> np.ndarray:
    """Pairs of an image and its nearest training image, the closest first: uint8 `[H, W, 3]`.

    Args:
      sets: what the images are -> (images `[n, H, W, C]`, their nearest training images).
      training: number -> training image `[H, W, C]`, for at least those of `closest_numbers`.
    """
    cells, labels = [], []
    for name, (own, nearest) in sets.items():
        for i in closest(nearest):
            number = int(nearest.index[i])
            c = max(own.shape[-1], training[number].shape[-1])
            pair = [np.broadcast_to(x, (*x.shape[:2], c)) for x in (own[i], training[number])]
            gap = np.full((len(own[i]), max(1, len(own[i]) // 32), c), 255, np.uint8)
            cells.append(np.concatenate([pair[0], gap, pair[1]], axis=1))
            labels.append(f"{name} {i}, training {number}: distance {nearest.distance[i]:.3g}")
        while len(cells) % COLUMNS:
            cells.append(np.full_like(cells[0], 255))
            labels.append("")
    return plots.labelled_grid(np.stack(cells), labels, COLUMNS)


def closest(nearest: Nearest) -> Sequence[int]:
    """The numbers of the images that `nearest_figure` shows."""
    return np.argsort(nearest.distance, kind="stable")[:PAIRS].tolist()
