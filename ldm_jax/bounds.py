"""Bounds of configuration fields; they stand with the field, as its annotation."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator
from typing import Annotated, Any

LARGEST_INT = 2**31 - 1  # of int32, in which steps and indices are counted
LARGEST_FLOAT = 3.4028234e38  # of float32


@dataclasses.dataclass(frozen=True)
class Bounds:
    """low <= value <= high, or value < high where that is `open`; every number is finite.

    Without limits of its own a number fits into an int32 or a float32. Of a tuple each number keeps
    to it; `empty` says whether there may be none. low < value where `above`; `why` gives a reason
    for the message.
    """

    low: float = -math.inf
    high: float = math.inf
    open: bool = False
    empty: bool = True
    above: bool = False
    why: str = ""

    def violation(self, value: Any) -> str | None:
        """What `value` must be and is not; None where nothing is wrong."""
        wrong = self._violation(value)
        return f"{wrong}: {self.why}" if wrong and self.why else wrong

    def _violation(self, value: Any) -> str | None:
        numbers = value if isinstance(value, tuple) else (value,)
        if not numbers and not self.empty:
            return "takes one or more numbers"
        if not all(isinstance(n, int) or math.isfinite(n) for n in numbers):
            return f"is {value}; it must be a finite number"
        largest = LARGEST_INT if all(isinstance(n, int) for n in numbers) else LARGEST_FLOAT
        low, high = max(self.low, -largest), self.high if self.high < math.inf else largest
        if not all(n >= low for n in numbers):
            return f"is {value}; it must be at least {_text(low)}"
        if self.above and not all(n > low for n in numbers):
            return f"is {value}; it must be more than {_text(low)}"
        if self.open and not all(n < high for n in numbers):
            return f"is {value}; it must be less than {_text(high)}"
        if not all(n <= high for n in numbers):
            return f"is {value}; it must be at most {_text(high)}"
        return None


def _text(limit: float) -> str:
    return f"{limit:.8g}" if abs(limit) > 2**53 else f"{limit:.15g}"


PositiveInt = Annotated[int, Bounds(1)]
Count = Annotated[int, Bounds(0)]
"""A whole number, 0 or more."""
LARGEST_SIDE = 2**14
Side = Annotated[int, Bounds(1, LARGEST_SIDE)]
"""Of an image, in pixels."""
Width = Annotated[int, Bounds(1, 2**16)]
"""Channels, or other things that layers have side by side."""
Depth = Annotated[int, Bounds(1, 1000)]
"""Layers one after another."""
BatchSize = Annotated[int, Bounds(1, 2**20)]
Seed = Annotated[int, Bounds(0, 2**32, open=True)]
Fraction = Annotated[float, Bounds(0, 1, open=True)]
"""0 <= value < 1."""
UnitFloat = Annotated[float, Bounds(0, 1)]
"""0 <= value <= 1."""
PositiveFraction = Annotated[float, Bounds(0, 1, above=True)]
"""0 < value <= 1."""
PositiveFloat = Annotated[float, Bounds(0, above=True)]
NonNegative = Annotated[float, Bounds(0)]
Finite = Annotated[float, Bounds()]
Factors = Annotated[tuple[int, ...], Bounds(1, 1024)]
"""Whole numbers, 1 or more each; there may be none."""
Multipliers = Annotated[tuple[int, ...], Bounds(1, 1024, empty=False)]
"""One or more whole numbers, 1 or more each."""


def violations(config: Any, prefix: str = "") -> Iterator[str]:
    """One text for each field of nested dataclasses that is out of its bounds.

    It begins with the option that sets the field: `--diffusion.batch-size is 0; it must be ...`.
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), f"{prefix}.{field.name}".lstrip(".")
        if dataclasses.is_dataclass(value):
            yield from violations(value, path)
            continue
        for bounds in _bounds_of(hints[field.name]):
            if value is not None and (wrong := bounds.violation(value)):
                yield f"--{path.replace('_', '-')} {wrong}"


def _bounds_of(hint: Any) -> list[Bounds]:
    """Those that an annotation carries, also inside of `X | None`."""
    if typing.get_origin(hint) is Annotated:
        return [extra for extra in hint.__metadata__ if isinstance(extra, Bounds)]
    return [bounds for part in typing.get_args(hint) for bounds in _bounds_of(part)]
