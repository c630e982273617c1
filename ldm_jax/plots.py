"""Image grids, labelled grids, boxes and training curves, independent of any model."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib
import matplotlib.colors
import numpy as np
from etils import epath
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from ldm_jax.fonts import font_for
from ldm_jax.paths import write_whole

if TYPE_CHECKING:  # Matplotlib's figures take a third of a second to import; grids do without
    from matplotlib.figure import Figure

MOST_LINES = 8  # of the label under an image


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
      rows: uint8 `[n, h, w, C]` each, such as inputs and reconstructions; see `alike`.

    Returns:
      uint8 `[H', W', 3]`.
    """
    n, columns = len(rows[0]), min(columns, len(rows[0]))
    blank = -n % columns  # images missing in the last row
    rows = [np.pad(row, ((0, blank), *[(0, 0)] * 3), constant_values=255) for row in alike(rows)]
    parts = [row[i : i + columns] for i in range(0, n, columns) for row in rows]
    return grid(np.concatenate(parts), columns)


def alike(rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Images `[n, h, w, C]` of several sizes, made equally large: uint8 `[n, H, W, 3]` each.

    Small ones are enlarged by an integer factor, and get a white border where that is too little.
    """
    high = max(row.shape[1] for row in rows)
    rows = [enlarged(row, high) for row in rows]
    h, w = (max(row.shape[axis] for row in rows) for axis in (1, 2))

    def bordered(row: np.ndarray) -> np.ndarray:
        y, x = h - row.shape[1], w - row.shape[2]
        sides = ((0, 0), (y // 2, y - y // 2), (x // 2, x - x // 2), (0, 0))
        return np.pad(row, sides, constant_values=255)

    return [bordered(row) for row in rows]


def enlarged(images: np.ndarray, height: int) -> np.ndarray:
    """Images `[n, H, W, C]`, enlarged by an integer factor, without interpolation.

    They are as high as that allows, but no higher than `height` unless they were.
    """
    scale = max(1, height // images.shape[1])
    images = np.broadcast_to(images[..., :3], (*images.shape[:3], 3))
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
    """`grid` with a label of at most `MOST_LINES` lines under each: uint8 `[H', W', 3]`."""
    columns, gap = min(columns, len(images)), 6
    cell = grid(images[:1], 1, least_side=least_side)
    h, w = cell.shape[:2]
    size = min(max(min(w, h) // 12, 11), 24)  # of the font, in pixels
    fonts = [font_for(label, size) for label in labels]
    lines = [
        _wrapped(label, font, w, MOST_LINES) for label, font in zip(labels, fonts, strict=True)
    ]
    below = round(1.3 * size) * max(map(len, lines), default=0) + gap
    rows = -(-len(images) // columns)
    canvas = Image.new("RGB", (columns * (w + gap) - gap, rows * (h + below)), "white")
    draw = ImageDraw.Draw(canvas)
    for i, (image, text) in enumerate(zip(images, lines, strict=True)):
        x, y = i % columns * (w + gap), i // columns * (h + below)
        canvas.paste(Image.fromarray(grid(image[None], 1, least_side=least_side)), (x, y))
        for number, line in enumerate(text):
            middle = (x + w // 2, y + h + round(1.3 * size) * number + round(0.65 * size))
            draw.text(middle, line, "black", fonts[i], anchor="mm")
    return np.asarray(canvas)


def labelled_groups(images: np.ndarray, labels: Sequence[str], columns: int = 8) -> np.ndarray:
    """Images uint8 `[p, n, H, W, C]`, n to each of p labels: uint8 `[H', W', 3]`.

    A group of several images has rows of at most `columns`, and its label once, in a line as wide.
    """
    if images.shape[1] == 1:
        return labelled_grid(images[:, 0], labels, columns)
    groups = [grid(group, columns, gap=6, least_side=144) for group in images]
    return labelled_grid(np.stack(groups), labels, 1)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    """Wraps a text into at most `most` lines of `width` pixels; what is left out shows as '…'."""

    def fits(line: str) -> bool:
        return font.getlength(line) <= width

    lines: list[str] = []
    for word in text.split():
        if lines and fits(f"{lines[-1]} {word}"):
            lines[-1] += f" {word}"
            continue
        while len(word) > 1 and not fits(word):  # between letters: not all languages have spaces
            part = next((n for n in range(len(word) - 1, 1, -1) if fits(word[:n])), 1)
            lines.append(word[:part])
            word = word[part:]
        lines.append(word)
    if len(lines) > most:
        lines = [*lines[: most - 1], _shortened(f"{lines[most - 1]} …", font, width)]
    return lines


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """A text of at most `width` pixels, which ends with '…' where that is not all of it."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


_OUTLINES = ("#d62728", "#ff7f0e", "#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#17797f")
_NAME_SIZE, _NAME_HEIGHT = 10, 14  # of the letters, and of the field that a name fills: pixels


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
    draw = ImageDraw.Draw(canvas)
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
        font = font_for(name, _NAME_SIZE)
        name = _shortened(name, font, w - 4)
        width = math.ceil(font.getlength(name)) + 4
        x = max(0, min(left, w - width))
        place = _free_place((x, top), (width, _NAME_HEIGHT), bottom, (w, h), taken)
        taken.append(place)
        tags.append((place, colour, name, font))
    for place, colour, name, font in tags:
        draw.rectangle(place, fill=colour)
        draw.text((place[0] + 2, place[1] + _NAME_HEIGHT // 2), name, "white", font, anchor="lm")
    return np.asarray(canvas)


def _free_place(
    corner: tuple[int, int],
    name: tuple[int, int],
    bottom: int,
    image: tuple[int, int],
    taken: Sequence[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """Where in the image a name stands without covering another, if that can be.

    Above the box of this left upper corner, or inside of it, which ends at `bottom`; or else as
    near to the corner as there is room. Sizes are (width, height); all in pixels.
    """
    (x, top), (width, height), (w, h) = corner, name, image
    anywhere = [(x + dx, y) for dx in range(-w, w, 8) for y in range(0, h, height // 2)]
    anywhere.sort(key=lambda place: abs(place[0] - x) + abs(place[1] - top))
    best = [(x, y) for y in (top - height, *range(top, bottom, height))]
    places = [
        (left, upper, left + width - 1, upper + height - 1)
        for left, upper in [*best, *anywhere, (0, 0)]
        if 0 <= left <= max(0, w - width) and 0 <= upper <= max(0, h - height)
    ]
    return next((p for p in places if not any(_overlap(p, one) for one in taken)), places[0])


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


# Panels of `curves`: title -> (metrics, logarithmic scale).
_PANELS = {
    "loss": (("loss", "held_out_loss"), True),
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
    "PSNR [dB]": (("psnr", "held_out_psnr"), False),
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


_COLUMNS = 4  # panels of `curves` side by side
_PANEL = (3.5, 2.6)  # inches; four are 1400 pixels wide


def curves(lines: Sequence[Mapping[str, object]]) -> np.ndarray:
    """Plots the lines of metrics.jsonl, the panels of each stage in rows: uint8 `[H', W', 3]`.

    At most 1400 pixels wide.
    """
    return as_pixels(curves_figure(lines))


def as_pixels(figure: Figure) -> np.ndarray:
    """A figure of Matplotlib as an image, uint8 `[H', W', 3]`, 100 pixels an inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return np.asarray(Image.open(buffer).convert("RGB"))


def curves_figure(lines: Sequence[Mapping[str, object]]) -> Figure:
    """What `curves` plots, as a figure of Matplotlib."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    table = []
    for stage in dict.fromkeys(line["stage"] for line in lines):
        stage_lines = [line for line in lines if line["stage"] == stage]
        recorded = {key for line in stage_lines for key in line}
        panels = {t: [m for m in ms if m in recorded] for t, (ms, _) in _PANELS.items()}
        items = [(t, ms) for t, ms in panels.items() if ms]
        starts = range(0, len(items), _COLUMNS)
        table += [(stage, stage_lines, items[start : start + _COLUMNS]) for start in starts]
    columns = max((len(items) for *_, items in table), default=1)
    width, height = _PANEL
    size = w, h = width * columns, height * max(1, len(table))
    figure = Figure(figsize=size)
    for row, (stage, stage_lines, items) in enumerate(table):
        for column, (title, metrics) in enumerate(items):
            # Margins are given: to fit them to the texts takes longer than to draw.
            left, bottom = width * column + 0.6, h - height * (row + 1) + 0.5
            axes = figure.add_axes((left / w, bottom / h, (width - 0.7) / w, (height - 0.8) / h))
            for metric in metrics:
                points = [(line["step"], line[metric]) for line in stage_lines if metric in line]
                label = metric.replace("_", " ")
                if metric.startswith("held_out"):
                    axes.plot(*zip(*points, strict=True), "o-", ms=3, color="C1", label=label)
                else:
                    axes.plot(*zip(*points, strict=True), label=label, linewidth=1.2)
            axes.set_title(f"{stage}: {title}", fontsize=11)
            axes.tick_params(labelsize=9)
            axes.set_xlabel("step", fontsize=9)
            axes.grid(alpha=0.3)
            if _PANELS[title][1]:
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7), numticks=6))
                axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axes.yaxis.set_minor_formatter(NullFormatter())
            if len(metrics) > 1:
                axes.legend(fontsize=8)
    return figure


def bars(values: Mapping[str, tuple[float, float]], title: str) -> np.ndarray:
    """Horizontal bars with their standard errors, the first at the top: uint8 `[H', W', 3]`.

    Args:
      values: name -> (value, standard error).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 0.9 + 0.4 * len(values)), layout="constrained")
    axes = figure.add_subplot()
    names, numbers = list(values), np.array(list(values.values()))
    axes.barh(names, numbers[:, 0], xerr=numbers[:, 1], color=[f"C{i}" for i in range(len(names))])
    right = np.max(numbers.sum(axis=1), initial=1e-6)
    for row, (value, error) in enumerate(numbers):
        text = f" {value:.4f} ± {error:.4f}"
        axes.text(max(value + error, 0), row, text, va="center", fontsize=9)
    axes.set_xlim(min(0, numbers[:, 0].min() * 1.1), right * 1.35)
    axes.invert_yaxis()
    axes.axvline(0, color="black", lw=0.8)
    axes.set_title(title, fontsize=10)
    axes.tick_params(labelsize=9)
    return as_pixels(figure)
