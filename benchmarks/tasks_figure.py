"""The figure of `tasks.py`: condition, sample and truth of each task, labelled."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ldm_jax.fonts import font_for

CELL = 128  # pixels of an image's side: 64x64 at twice its size
GAP, LABEL, HEADER = 4, 124, 26
SIZES = (14, 12, 11, 10)  # of the letters, in pixels: the largest at which a text fits
COLUMNS = ("condition", "sample", "truth")


class Example(NamedTuple):
    """One row of a task, or a part of it."""

    condition: np.ndarray | str
    """An image uint8 `[H, W, 3]`, or a text."""
    sample: np.ndarray
    truth: np.ndarray | None
    """None where there is no true image."""


def figure(rows: dict[str, Sequence[Example]]) -> np.ndarray:
    """Tasks below each other, their examples side by side: uint8 `[H, W, 3]`.

    Pixels are enlarged as they are, so that what the model makes is seen.

    Args:
      rows: title of a task -> its examples, as many for each.
    """
    examples = len(next(iter(rows.values())))
    block = 3 * (CELL + GAP) + 2 * GAP  # of one example
    width, height = LABEL + examples * block, HEADER + len(rows) * (CELL + GAP)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for example in range(examples):
        for column, title in enumerate(COLUMNS):
            x = LABEL + example * block + column * (CELL + GAP)
            write_text(draw, title, (x, 0), (CELL, HEADER))
    for row, (title, shown) in enumerate(rows.items()):
        y = HEADER + row * (CELL + GAP)
        write_text(draw, title, (0, y), (LABEL - GAP, CELL))
        for example, cells in enumerate(shown):
            for column, cell in enumerate(cells):
                x = LABEL + example * block + column * (CELL + GAP)
                if isinstance(cell, str):
                    write_text(draw, cell, (x, y), (CELL, CELL))
                elif cell is not None:
                    image = Image.fromarray(np.broadcast_to(cell, (*cell.shape[:2], 3)).copy())
                    canvas.paste(image.resize((CELL, CELL), Image.Resampling.NEAREST), (x, y))
    return np.asarray(canvas)


def write_text(
    draw: ImageDraw.ImageDraw, text: str, corner: tuple[int, int], field: tuple[int, int]
) -> None:
    """Writes a text into the middle of a field, in as many lines as it needs."""
    width, height = field
    for size in SIZES:
        font, lines = font_for(text, size), [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            lines = [*lines[:-1], longer] if font.getlength(longer) <= width else [*lines, word]
        if len(lines) * (size + 3) <= height:
            break
    middle = corner[0] + width // 2, corner[1] + height // 2
    draw.multiline_text(
        middle, "\n".join(lines), "black", font, anchor="mm", align="center", spacing=3
    )
