"""Held-out combinations of words: does a model compose what it never saw together?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ldm_jax.data.scenes.combinations import has_combination, parse_combination
from ldm_jax.errors import UserError


class Share(NamedTuple):
    """A share of n, with its binomial standard error, sqrt(p (1 - p) / n)."""

    share: float
    standard_error: float
    n: int


class HeldOutReport(NamedTuple):
    """Shares of samples read as asked."""

    held_out: Share
    """Where the condition has at least one of the combinations."""
    seen: Share
    """Where it has none."""
    combinations: dict[str, Share]
    """Of each combination that was asked for."""

    @property
    def difference(self) -> tuple[float, float]:
        """How much less of the held-out ones are right, and its standard error."""
        error = math.hypot(self.held_out.standard_error, self.seen.standard_error)
        return self.seen.share - self.held_out.share, error


def held_out_report(
    asked: Sequence, correct: np.ndarray, combinations: Sequence[str]
) -> HeldOutReport:
    """How often samples of held-out combinations are read as asked, and how often the others.

    Args:
      asked: the condition of each sample: a `Scene`, or what a caption says (`objects`, `floor`,
        `sky`).
      correct: bool [n], whether a sample was read as asked.
      combinations: such as 'cyan cone at night', which training images never had together.
    Raises:
      UserError: for a wrong combination, other lengths, no sample of a kind.
    """
    correct = np.asarray(correct)
    if correct.shape != (len(asked),) or correct.dtype != bool:
        raise UserError(
            f"{len(asked)} conditions need as many readings, right or wrong: bool [{len(asked)}], "
            f"not {correct.dtype} {list(correct.shape)}"
        )
    if not combinations:
        raise UserError("no combination is held out: name some, such as 'cyan cone at night'")
    words = {text: parse_combination(text) for text in combinations}
    having = {
        text: np.array([has_combination(one, own) for one in asked], bool)
        for text, own in words.items()
    }
    held_out = np.any(list(having.values()), axis=0)
    for name, chosen in (("of a held-out combination", held_out), ("of a seen one", ~held_out)):
        if not chosen.any():
            raise UserError(f"none of the {len(asked)} samples is {name}")
    return HeldOutReport(
        held_out=share_of(correct[held_out]),
        seen=share_of(correct[~held_out]),
        combinations={text: share_of(correct[own]) for text, own in having.items() if own.any()},
    )


def share_of(correct: np.ndarray) -> Share:
    """The share of true values of bool [n], n > 0."""
    p, n = float(correct.mean()), len(correct)
    return Share(p, math.sqrt(p * (1 - p) / n), n)
