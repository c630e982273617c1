"""Pictures of what happens: grids, labelled grids, curves. Knows no model."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from etils import epath
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

matplotlib.rcParams["svg.fonttype"] = "none"


def grid(images: np.ndarray, columns: int, gap: int = 2, least_side: int = 96) -> np.ndarray:
    """Pictures uint8 `[n, H, W, C]` in rows of `columns`, on white: uint8 `[H', W', 3]`.

    Small pictures are enlarged by a whole number, pixel by pixel, to at least `least_side` a side,
    so that what one sees is what the model made.
    """
    n, h, w, c = images.shape
    images = np.broadcast_to(images, (n, h, w, 3)) if c == 1 else images[..., :3]
    scale = max(1, -(-least_side // min(h, w)))
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    h, w = h * scale, w * scale
    rows = -(-n // columns)
    canvas = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = (i // columns) * (h + gap), (i % columns) * (w + gap)
        canvas[y : y + h, x : x + w] = image
    return canvas


def save_png(
    file: epath.PathLike, image: np.ndarray, metadata: Mapping[str, object] | None = None
) -> None:
    """Writes uint8 `[H, W, 3]`, with the settings that made it as text fields of the PNG."""
    info = PngInfo()
    for key, value in (metadata or {}).items():
        info.add_text(key, str(value))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png", pnginfo=info)
    epath.Path(file).write_bytes(buffer.getvalue())


def reconstructions(x: np.ndarray, x_hat: np.ndarray, columns: int = 8) -> np.ndarray:
    """Rows of inputs, each above its reconstructions: uint8 `[H', W', 3]`."""
    columns = min(columns, len(x))
    blank = np.full((-len(x) % columns, *x.shape[1:]), 255, np.uint8)  # fills up the last row
    x, x_hat = np.concatenate([x, blank]), np.concatenate([x_hat, blank])
    rows = []
    for start in range(0, len(x), columns):
        rows += [x[start : start + columns], x_hat[start : start + columns]]
    return grid(np.concatenate(rows), columns)


def labelled_grid(images: np.ndarray, labels: Sequence[str], columns: int = 8) -> np.ndarray:
    """Pictures with their conditions printed under them: uint8 `[H', W', 3]`."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    lines = [textwrap.wrap(label, 23)[:4] for label in labels]
    text = max((len(line) for line in lines), default=0)
    cell, inch_a_line = 1.5, 0.135
    height = cell + inch_a_line * text + 0.1
    figure = Figure(figsize=(columns * (cell + 0.1), rows * height), dpi=100)
    for i, (image, label) in enumerate(zip(images, lines, strict=True)):
        row, column = divmod(i, columns)
        axes = figure.add_axes(
            [
                (column + 0.03) / columns,
                1 - (row * height + cell + 0.03) / (rows * height),
                0.94 / columns,
                cell / (rows * height),
            ]
        )
        axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_axis_off()
        axes.text(
            0.5,
            -0.03,
            "\n".join(label),
            transform=axes.transAxes,
            ha="center",
            va="top",
            fontsize=7.5,
        )
    return _pixels(figure)


# Panels of the curves: title -> (metrics in it, logarithmic).
_PANELS = {
    "loss": (("loss",), True),
    "accuracy": (
        (
            "accuracy",
            "accuracy_least_noise",
            "accuracy_less_noise",
            "accuracy_more_noise",
            "accuracy_most_noise",
        ),
        False,
    ),
    "PSNR [dB]": (("psnr", "validation_psnr"), False),
    "loss by noise level": (
        ("loss_least_noise", "loss_less_noise", "loss_more_noise", "loss_most_noise"),
        True,
    ),
    "adversary": (("logits_real", "logits_fake", "disc_loss"), False),
    "adaptive weight": (("adaptive_weight",), True),
    "latent": (("latent_mean", "latent_std"), False),
    "KL [nats/element]": (("kl_per_element",), True),
    "share of codes in use": (("codebook_usage",), False),
    "codebook perplexity": (("codebook_perplexity",), True),
    "gradient norm": (("grad_norm",), True),
    "images/s": (("images_per_s",), False),
}


def curves(lines: Sequence[Mapping[str, object]]) -> np.ndarray:
    """The lines of metrics.jsonl as curves, one row of panels a stage: uint8 `[H', W', 3]`."""
    stages = list(dict.fromkeys(line["stage"] for line in lines))
    table = []
    for stage in stages:
        mine = [line for line in lines if line["stage"] == stage]
        here = {key for line in mine for key in line}
        panels = {t: [m for m in ms if m in here] for t, (ms, _) in _PANELS.items()}
        table.append((stage, mine, {t: ms for t, ms in panels.items() if ms}))
    columns = max((len(panels) for *_, panels in table), default=1)
    figure = Figure(figsize=(3.2 * columns, 2.6 * max(1, len(table))), layout="constrained")
    for row, (stage, mine, panels) in enumerate(table):
        for column, (title, metrics) in enumerate(panels.items()):
            axes = figure.add_subplot(len(table), columns, row * columns + column + 1)
            for metric in metrics:
                points = [(line["step"], line[metric]) for line in mine if metric in line]
                axes.plot(*zip(*points, strict=True), label=metric, linewidth=1.2)
            axes.set_title(f"{stage}: {title}", fontsize=9)
            axes.tick_params(labelsize=7)
            axes.grid(alpha=0.3)
            if _PANELS[title][1]:
                axes.set_yscale("log")
            if len(metrics) > 1:
                axes.legend(fontsize=6)
    return _pixels(figure)


def _pixels(figure: Figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB"))
