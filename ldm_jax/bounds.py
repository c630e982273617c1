"""Bounds of configuration fields; they stand with the field, as its annotation."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator
from typing import Annotated, Any


@dataclasses.dataclass(frozen=True)
class Bounds:
    """low <= value <= high, or value < high where that is `open`; every number is finite.

    Of a tuple each number keeps to it; `empty` says whether there may be none. low < value where
    `above`; `why` gives a reason for the message.
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
        if not all(math.isfinite(n) for n in numbers):
            return f"is {value}; it must be a finite number"
        if not all(n >= self.low for n in numbers):
            return f"is {value}; it must be at least {self.low:g}"
        if self.above and not all(n > self.low for n in numbers):
            return f"is {value}; it must be more than {self.low:g}"
        if self.open and not all(n < self.high for n in numbers):
            return f"is {value}; it must be less than {self.high:.15g}"
        if not all(n <= self.high for n in numbers):
            return f"is {value}; it must be at most {self.high:.15g}"
        return None


PositiveInt = Annotated[int, Bounds(1)]
Count = Annotated[int, Bounds(0)]
"""A whole number, 0 or more."""
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
Factors = Annotated[tuple[int, ...], Bounds(1)]
"""Whole numbers, 1 or more each; there may be none."""
Multipliers = Annotated[tuple[int, ...], Bounds(1, empty=False)]
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
