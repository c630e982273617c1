"""What may change when a run is resumed; it stands with the field, as its annotation."""

from __future__ import annotations

import enum
import typing
from typing import Annotated, Any


class OnResume(enum.Enum):
    """What becomes of a run that is resumed with another value of a field.

    A field without it decides the numbers: it stays as it is. What stands with a field of
    dataclasses holds for all fields in it.
    """

    FREE = "changes none of what is trained"
    ROUNDING = "changes results by rounding alone"
    PLACE = "where a file lies; what it holds is compared instead. From or to '' is a change"
    LENGTH = "how many steps are made; not fewer than there are"


Place = Annotated[str, OnResume.PLACE]


def on_resume(hint: Any) -> OnResume | None:
    """What the annotation of a field says, also one within another; None where it says nothing."""
    if typing.get_origin(hint) is not Annotated:
        return None
    own = (extra for extra in hint.__metadata__ if isinstance(extra, OnResume))
    return next(own, None) or on_resume(hint.__origin__)
