"""The figure of `zoo.py`: what each autoencoder makes of the same scenes, labelled."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from tasks_figure import write_text

CELL = 96  # pixels of an image's side: 32x32 at three times its size
GAP, HEAD, LABEL, LINE, FOOT, BETWEEN = 4, 26, 34, 16, 36, 16
NOISE = "decoded standard normal noise"


class Column(NamedTuple):
    """What one autoencoder makes, or the truth."""

    title: str
    images: np.ndarray
    """uint8 `[n, H, W, 3]`."""
    foot: tuple[str, ...] = ()
    """Lines under the images."""
    noise: np.ndarray | None = None
    """One image uint8 `[H, W, 3]`, decoded from noise."""


def figure(rows: Sequence[dict[str, Sequence[Column]]]) -> np.ndarray:
    """Blocks of columns, titled, in rows: uint8 `[H, W, 3]`.

    Pixels are enlarged as they are, so that what the model makes is seen.
    """
    drawn = [[block(title, columns) for title, columns in blocks.items()] for blocks in rows]
    width = max(sum(one.width + BETWEEN for one in blocks) for blocks in drawn) - BETWEEN
    height = sum(max(one.height for one in blocks) + BETWEEN for blocks in drawn) - BETWEEN
    canvas, y = Image.new("RGB", (width, height), "white"), 0
    for blocks in drawn:
        x = 0
        for one in blocks:
            canvas.paste(one, (x, y))
            x += one.width + BETWEEN
        y += max(one.height for one in blocks) + BETWEEN
    return np.asarray(canvas)


def block(title: str, columns: Sequence[Column]) -> Image.Image:
    """The same scenes in each column; below them, where there is any, an image of noise."""
    step, with_noise = CELL + GAP, any(one.noise is not None for one in columns)
    width, top = len(columns) * step - GAP, HEAD + LABEL
    foot = top + len(columns[0].images) * step
    canvas = Image.new("RGB", (width, foot + FOOT + with_noise * CELL), "white")
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((0, 0, width, HEAD - 4), fill=(232, 232, 232))
    write_text(draw, title, (0, 0), (width, HEAD - 4))
    for column, one in enumerate(columns):
        x = column * step
        write_text(draw, one.title, (x, HEAD), (CELL, LABEL - 2))
        for number, line in enumerate(one.foot):
            write_text(draw, line, (x, foot - GAP + number * LINE), (CELL, LINE + 1))
        for row, image in enumerate(one.images):
            canvas.paste(_enlarged(image), (x, top + row * step))
        if one.noise is not None:
            canvas.paste(_enlarged(one.noise), (x, foot + FOOT))
        elif with_noise and column == 0:
            write_text(draw, NOISE, (x, foot + FOOT), (CELL, CELL))
    return canvas


def _enlarged(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image).resize((CELL, CELL), Image.Resampling.NEAREST)
