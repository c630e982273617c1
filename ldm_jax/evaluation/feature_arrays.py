"""Features as the distances take them: float64 [N, d], checked, in blocks that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ldm_jax.bounds import Bounds
from ldm_jax.errors import UserError

# Of an absolute value. Kernels of degree 3 and their variances stay finite up to here, and no
# network gives as much.
LARGEST = 1e20
# Values of one block of a matrix of pairs: 64 MB in float64.
BLOCK = 2**23
# Squared distances are |x|^2 + |y|^2 - 2 x.y; what is left of equal x and y is rounding, smaller
# than this times |x|^2 + |y|^2 for any width in use. It counts as 0, so a copy is at distance 0.
_ROUNDING = 1e-12


def checked(features: ArrayLike, *, name: str, least: int, measure: str) -> np.ndarray:
    """`features` as float64 `[N, d]`.

    Args:
      features: one row for each image.
      name: what the rows are, such as "generated".
      least: the smallest N that `measure` is defined for.
      measure: its name, for the message.

    Raises:
      UserError: not numbers, not two axes, fewer than `least` rows, or a value that is not finite.
    """
    array = real_numbers(features, name=f"{name} features")
    if array.ndim != 2 or array.shape[1] == 0:
        raise UserError(
            f"the {name} features have the shape {array.shape}; it must be [N, d]: "
            "a row of d numbers for each image"
        )
    if len(array) < least:
        raise UserError(f"{measure} needs at least {least} {name} images, got {len(array)}")
    wrong = ~(np.abs(array) <= LARGEST).all(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        value = array[row][~(np.abs(array[row]) <= LARGEST)][0]
        raise UserError(
            f"{wrong.sum()} of the {len(array)} {name} features have a value that is not finite, "
            f"or out of range; the first is row {row} with {value:g}"
        )
    return array


class SquaredDistance(NamedTuple):
    """A squared distance between two sets, and the numbers of images on which it depends.

    `caution` is empty, or says in one line that there are too few of them.
    """

    distance: float
    num_real: int
    num_generated: int
    caution: str = ""


def real_numbers(values: ArrayLike, *, name: str) -> np.ndarray:
    """`values` as float64 of any shape; raises UserError, with their `name`, if they are not."""
    try:
        array = np.asarray(values)
        if array.dtype.kind in "biufV":  # V: bfloat16 and other small floats of ml_dtypes
            return array.astype(np.float64)
    except (ValueError, TypeError):  # rows of different lengths; a structured array
        pass
    raise UserError(f"the {name} are not an array of real numbers")


def checked_pair(
    *, real: ArrayLike, generated: ArrayLike, least: int, measure: str
) -> tuple[np.ndarray, np.ndarray]:
    """Both sets, each as `checked` gives it, and of the same width; raises UserError as it does."""
    real = checked(real, name="real", least=least, measure=measure)
    generated = checked(generated, name="generated", least=least, measure=measure)
    check_widths(real=real, generated=generated)
    return real, generated


def check_widths(**features: np.ndarray) -> None:
    """Raises UserError unless all have as many columns; the keywords are the names to print."""
    widths = {name: array.shape[1] for name, array in features.items()}
    if len(set(widths.values())) > 1:
        text = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise UserError(f"features have different widths ({text}); take all from one network")


def check_at_least(low: int, **options: int) -> None:
    """Raises UserError for the first option that is less than `low`."""
    for name, value in options.items():
        if wrong := Bounds(low).violation(value):
            raise UserError(f"{name} {wrong}")


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of the rows of a matrix `[rows, columns]`: of at most `BLOCK` values, or one row."""
    step = max(1, BLOCK // columns)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x_i - y_j|^2 of all pairs: float64 `[n, d]` and `[m, d]` -> `[n, m]`; 0 for equal rows."""
    centre = y.mean(axis=0)  # so that a large mean of all costs no digits
    x, y = x - centre, y - centre
    norms = np.sum(x**2, axis=1)[:, None] + np.sum(y**2, axis=1)
    squared = norms - 2 * (x @ y.T)
    squared[squared <= _ROUNDING * norms] = 0
    return squared
