"""Image grids, labelled grids, boxes and training curves, independent of any model."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import matplotlib.colors
import numpy as np
from etils import epath
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from ldm_jax.paths import write_whole


def grid(images: np.ndarray, columns: int, gap: int = 2, least_side: int = 96) -> np.ndarray:
    """Images uint8 `[n, H, W, C]` in rows of at most `columns`, on white: uint8 `[H', W', 3]`.

    Small images are enlarged by an integer factor to at least `least_side` pixels a side, without
    interpolation, so that the pixels of the model are visible.
    """
    n, h, w, _ = images.shape
    columns = min(columns, n)
    scale = max(1, -(-least_side // min(h, w)))
    images = enlarged(images[..., :3], h * scale)
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
    """Writes uint8 `[H, W, 3]` or `[H, W]` as a PNG, with `metadata` as its text fields."""
    info = PngInfo()
    for key, value in (metadata or {}).items():
        info.add_text(key, str(value))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png", pnginfo=info)
    write_whole(file, buffer.getvalue())


def save_gif(
    file: epath.PathLike,
    frames: np.ndarray,
    metadata: Mapping[str, object] | None = None,
    seconds: float = 3.0,
    most: int = 60,
) -> None:
    """Writes frames uint8 `[n, H, W, 3]` as an endless animation that pauses on the last frame.

    It shows at most `most` frames, evenly spaced, in 256 common colours.
    """
    chosen = np.rint(np.linspace(0, len(frames) - 1, min(most, len(frames)))).astype(int)
    colours = Image.fromarray(np.concatenate(frames[chosen])).quantize(256)
    images = [Image.fromarray(frames[i]).quantize(palette=colours) for i in chosen]
    duration = round(1000 * seconds / len(images))  # of a frame, in milliseconds
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        format="gif",
        save_all=True,
        append_images=images[1:],
        duration=[duration] * (len(images) - 1) + [2000],
        loop=0,
        comment="\n".join(f"{key}: {value}" for key, value in (metadata or {}).items()),
    )
    write_whole(file, buffer.getvalue())


def stacked(rows: Sequence[np.ndarray], columns: int = 8) -> np.ndarray:
    """Puts corresponding images below each other, `columns` side by side, on white.

    Args:
      rows: uint8 `[n, h, w, C]` each, such as inputs and reconstructions. Smaller images are
        enlarged by an integer factor, without interpolation.

    Returns:
      uint8 `[H', W', 3]`.
    """
    n, columns = len(rows[0]), min(columns, len(rows[0]))
    side = max(row.shape[1] for row in rows)
    blank = -n % columns  # images missing in the last row
    rows = [
        np.pad(enlarged(row, side), ((0, blank), *[(0, 0)] * 3), constant_values=255)
        for row in rows
    ]
    parts = [row[i : i + columns] for i in range(0, n, columns) for row in rows]
    return grid(np.concatenate(parts), columns)


def enlarged(images: np.ndarray, height: int) -> np.ndarray:
    """Images `[n, H, W, C]`, enlarged by an integer factor, without interpolation, to `height`."""
    scale = height // images.shape[1]
    images = np.broadcast_to(images, (*images.shape[:3], 3))
    return images.repeat(scale, axis=1).repeat(scale, axis=2)


def reconstructions(x: np.ndarray, x_hat: np.ndarray, columns: int = 8) -> np.ndarray:
    """Inputs, each above its reconstruction: uint8 `[H', W', 3]`."""
    return stacked([x, x_hat], columns)


def coloured(maps: np.ndarray) -> np.ndarray:
    """Class indices `[...]` -> uint8 `[..., 3]`, a different colour for each class."""
    # Golden-ratio steps in hue: the colours of neighbouring classes always differ.
    classes = np.arange(int(maps.max(initial=0)) + 1)
    h, s, v = classes * 0.618 % 1, 0.45 + 0.4 * (classes % 2), 0.95 - 0.3 * (classes % 3 == 2)
    palette = matplotlib.colors.hsv_to_rgb(np.stack([h, s, v], axis=-1))
    return np.rint(255 * palette).astype(np.uint8)[maps]


def labelled_grid(
    images: np.ndarray, labels: Sequence[str], columns: int = 8, least_side: int = 144
) -> np.ndarray:
    """`grid` with a label of at most four lines under each image: uint8 `[H', W', 3]`."""
    columns, gap = min(columns, len(images)), 6
    cell = grid(images[:1], 1, least_side=least_side)
    h, w = cell.shape[:2]
    size = min(max(w // 12, 11), 24)  # of the font, in pixels
    font = ImageFont.load_default(size)
    lines = [_wrapped(label, font, w)[:4] for label in labels]
    below = round(1.3 * size) * max(map(len, lines), default=0) + gap
    rows = -(-len(images) // columns)
    canvas = Image.new("RGB", (columns * (w + gap) - gap, rows * (h + below)), "white")
    draw = ImageDraw.Draw(canvas)
    for i, (image, text) in enumerate(zip(images, lines, strict=True)):
        x, y = i % columns * (w + gap), i // columns * (h + below)
        canvas.paste(Image.fromarray(grid(image[None], 1, least_side=least_side)), (x, y))
        for number, line in enumerate(text):
            middle = (x + w // 2, y + h + round(1.3 * size) * number + round(0.65 * size))
            draw.text(middle, line, "black", font, anchor="mm")
    return np.asarray(canvas)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Wraps a text into lines of at most `width` pixels (a longer word gets its own line)."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


_OUTLINES = ("#d62728", "#ff7f0e", "#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#17797f")
_NAME_HEIGHT = 13  # pixels


def with_boxes(
    image: np.ndarray | None,
    boxes: np.ndarray,
    names: Sequence[str],
    scale: int = 4,
    size: tuple[int, int] = (64, 64),
) -> np.ndarray:
    """An image with outlined boxes and their names: uint8 `[scale * H, scale * W, 3]`.

    Args:
      image: uint8 `[H, W, C]`; None: a light grey one of `size` (H, W).
      boxes: `[k, 4]`, left, top, right, bottom, in [0, 1].
      names: one for each box.
      scale: the factor by which the image is enlarged.
    """
    image = np.full((*size, 3), 224, np.uint8) if image is None else image
    h, w = (scale * side for side in image.shape[:2])
    large = np.broadcast_to(image, (*image.shape[:2], 3)).repeat(scale, 0).repeat(scale, 1)
    canvas = Image.fromarray(np.ascontiguousarray(large))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(10)
    taken: list[tuple[int, int, int, int]] = []
    tags = []  # names, drawn after all outlines
    for number, (box, name) in enumerate(zip(boxes, names, strict=True)):
        colour = _OUTLINES[number % len(_OUTLINES)]
        left, top, right, bottom = (
            round(float(edge) * side) for edge, side in zip(box, (w, h, w, h), strict=True)
        )
        left, top = min(left, w - 1), min(top, h - 1)
        right, bottom = max(right - 1, left), max(bottom - 1, top)
        draw.rectangle((left, top, right, bottom), outline=colour, width=2)
        width = math.ceil(font.getlength(name)) + 4
        x = max(0, min(left, w - width))
        # Above the box if there is room, else inside; if possible without covering another name.
        places = [y for y in (top - _NAME_HEIGHT, *range(top, bottom, _NAME_HEIGHT)) if y >= 0]
        places = [(x, y, x + width - 1, y + _NAME_HEIGHT - 1) for y in places or [top]]
        place = next(
            (p for p in places if not any(_overlap(p, other) for other in taken)), places[0]
        )
        taken.append(place)
        tags.append((place, colour, name))
    for place, colour, name in tags:
        draw.rectangle(place, fill=colour)
        draw.text((place[0] + 2, place[1] + _NAME_HEIGHT // 2), name, "white", font, anchor="lm")
    return np.asarray(canvas)


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


# Panels of `curves`: title -> (metrics, logarithmic scale).
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
    """Plots the lines of metrics.jsonl, one row of panels per stage: uint8 `[H', W', 3]`."""
    buffer = io.BytesIO()
    curves_figure(lines).savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB"))


def curves_figure(lines: Sequence[Mapping[str, object]]) -> Figure:
    """What `curves` plots, as a figure of Matplotlib."""
    stages = list(dict.fromkeys(line["stage"] for line in lines))
    table = []
    for stage in stages:
        stage_lines = [line for line in lines if line["stage"] == stage]
        recorded = {key for line in stage_lines for key in line}
        panels = {t: [m for m in ms if m in recorded] for t, (ms, _) in _PANELS.items()}
        table.append((stage, stage_lines, {t: ms for t, ms in panels.items() if ms}))
    columns = max((len(panels) for *_, panels in table), default=1)
    figure = Figure(figsize=(3.2 * columns, 2.6 * max(1, len(table))), layout="constrained")
    for row, (stage, stage_lines, panels) in enumerate(table):
        for column, (title, metrics) in enumerate(panels.items()):
            axes = figure.add_subplot(len(table), columns, row * columns + column + 1)
            for metric in metrics:
                points = [(line["step"], line[metric]) for line in stage_lines if metric in line]
                axes.plot(*zip(*points, strict=True), label=metric, linewidth=1.2)
            axes.set_title(f"{stage}: {title}", fontsize=9)
            axes.tick_params(labelsize=7)
            axes.grid(alpha=0.3)
            if _PANELS[title][1]:
                axes.set_yscale("log")
            if len(metrics) > 1:
                axes.legend(fontsize=6)
    return figure
