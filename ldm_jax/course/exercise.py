"""What an exercise of the notebooks is, and what is said of an answer.

An exercise is called with an answer, and returns an `Outcome`: right, wrong with a hint, or not
done yet. It never raises, so that a notebook runs to its end whatever the reader has typed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

State = Literal["right", "wrong", "open"]
_BEGINNINGS: dict[State, str] = {
    "right": "Right.",
    "wrong": "Not right yet.",
    "open": "Not done yet:",
}


@dataclass(frozen=True)
class Outcome:
    """What is said of an answer. A notebook shows it as one line."""

    state: State
    message: str

    def __repr__(self) -> str:
        return f"{_BEGINNINGS[self.state]} {self.message}"


@dataclass(frozen=True)
class Predict:
    """PREDICT: a number, or one of several words, that the reader writes before a cell shows it."""

    task: str
    """What is asked, in a few words."""
    right: float | str
    """The right answer."""
    mistakes: Mapping[str, float | str]
    """Hint -> the wrong answer that calls for it."""
    told: str
    """What a reader who is right should keep in mind."""
    options: Sequence[str] = ()
    """The words to choose from; empty: the answer is a number."""
    tolerance: float = 0.01
    """How far a number may be from the right one."""

    def __call__(self, answer: Any) -> Outcome:
        if answer is ... or answer is None:
            return Outcome("open", self.task)
        if self.options:
            if not isinstance(answer, str) or answer not in self.options:
                return Outcome("wrong", f"The answer is one of {', '.join(self.options)}.")
        elif not _is_number(answer):
            return Outcome("wrong", f"The answer is a number, not {answer!r}.")
        if self._same(answer, self.right):
            return Outcome("right", self.told)
        for hint, wrong in self.mistakes.items():
            if self._same(answer, wrong):
                return Outcome("wrong", hint)
        return Outcome("wrong", f"Think again: {self.task}")

    def _same(self, answer: float | str, other: float | str) -> bool:
        return answer == other if self.options else abs(answer - other) <= self.tolerance


@dataclass(frozen=True)
class Build:
    """BUILD: a function that the reader writes. It is called, and its results are compared."""

    task: str
    """The call and its result, such as `q_sample(z_0, t, eps) returns z_t`."""
    right: Callable[..., np.ndarray]
    """The right function."""
    mistakes: Mapping[str, Callable[..., np.ndarray]]
    """Hint -> the wrong function that calls for it."""
    told: str
    """What a reader who is right should keep in mind."""
    cases: Sequence[tuple[np.ndarray, ...]]
    """The arguments of each call: together they tell all mistakes from what is right."""
    tolerance: float = 1e-4
    """Largest difference from the right result, where that is about 1."""

    def __call__(self, answer: Any) -> Outcome:
        if answer is ... or answer is None:
            return Outcome("open", self.task)
        if not callable(answer):
            return Outcome("wrong", f"The answer is a function: {self.task}")
        results = self._results(answer)
        if all(result is None for result in results):
            return Outcome("open", self.task)
        if self._same(results, expected := self._results(self.right)):
            return Outcome("right", self.told)
        for hint, wrong in self.mistakes.items():
            if self._same(results, self._results(wrong)):
                return Outcome("wrong", hint)
        return Outcome("wrong", self._difference(results, expected))

    def _results(self, function: Callable[..., Any]) -> list[np.ndarray | Exception | None]:
        """What the function returns in each case, or the error that it raises there."""
        results = []
        for case in self.cases:
            try:
                result = function(*(np.array(argument) for argument in case))
                empty = result is None or result is ...
                results.append(None if empty else np.asarray(result, dtype=np.float64))
            except Exception as error:  # whatever a reader's code may raise
                results.append(error)
        return results

    def _same(self, results: Sequence[Any], others: Sequence[Any]) -> bool:
        return all(map(self._alike, results, others))

    def _alike(self, result: Any, other: Any) -> bool:
        if isinstance(result, np.ndarray) and isinstance(other, np.ndarray):
            if result.shape != other.shape:
                return False
            return np.allclose(result, other, rtol=self.tolerance, atol=self.tolerance)
        return isinstance(result, Exception) and isinstance(other, Exception)

    def _difference(self, results: Sequence[Any], expected: Sequence[np.ndarray]) -> str:
        """In the first case that is wrong: an error, a shape, a constant factor, or a distance."""
        wrong = [not self._alike(*pair) for pair in zip(results, expected, strict=True)].index(True)
        result, right = results[wrong], expected[wrong]
        shapes = " and ".join(str(np.shape(argument)) for argument in self.cases[wrong])
        called = f"Called with arguments of shape {shapes}, your function"
        if isinstance(result, Exception):
            return f"{called} raises {type(result).__name__}: {result}"
        if result is None:
            return f"{called} returns nothing."
        if result.shape != right.shape:
            return f"{called} returns the shape {result.shape}; it should be {right.shape}."
        factor = float(np.vdot(right, result) / np.vdot(right, right))
        if np.allclose(result, factor * right, rtol=self.tolerance, atol=self.tolerance):
            return f"{called} returns {factor:.3g} times what is right."
        return f"{called} is wrong by up to {np.abs(result - right).max():.3g}."


def _is_number(answer: Any) -> bool:
    try:
        return (
            not isinstance(answer, str)
            and np.ndim(answer) == 0
            and bool(np.isfinite(float(answer)))
        )
    except (TypeError, ValueError):
        return False
