"""A word tokenizer whose vocabulary is the words of the training captions."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ldm_jax.errors import UserError

PAD, UNKNOWN = 0, 1
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def split_words(caption: str) -> list[str]:
    """Lower-case words of a caption; punctuation separates and is dropped."""
    return _WORD.findall(caption.lower())


@dataclass(frozen=True)
class Tokenizer:
    """Encodes captions as rows of `length` tokens: 0 is padding, 1 is an unknown word."""

    vocabulary: tuple[str, ...]
    length: int

    @classmethod
    def from_captions(
        cls, captions: Iterable[str], max_words: int, max_length: int = 77
    ) -> Tokenizer:
        """A tokenizer of the `max_words` most frequent words.

        `length` is that of the longest caption, at most `max_length`.
        """
        counts, longest = collections.Counter(), 1
        for caption in captions:
            words = split_words(caption)
            counts.update(words)
            longest = max(longest, len(words))
        kept = sorted(counts, key=lambda word: (-counts[word], word))[:max_words]
        return cls(tuple(sorted(kept)), min(longest, max_length))

    @property
    def size(self) -> int:
        """Number of tokens in the vocabulary."""
        return len(self.vocabulary) + 2

    @property
    def null(self) -> np.ndarray:
        """The null condition, an empty caption: int32 `[length]`."""
        return np.zeros(self.length, np.int32)

    def encode(self, captions: Sequence[str], *, strict: bool = True) -> np.ndarray:
        """Captions -> int32 `[n, length]`.

        Raises:
          UserError: `strict` and a caption is too long or has an unknown word; otherwise the
            caption is truncated and the word becomes UNKNOWN.
        """
        ids = {word: i for i, word in enumerate(self.vocabulary, start=2)}
        tokens = np.full((len(captions), self.length), PAD, np.int32)
        for row, caption in zip(tokens, captions, strict=True):
            words = split_words(caption)
            if strict:
                self._raise_if_invalid(caption, words, ids)
            words = words[: self.length]
            row[: len(words)] = [ids.get(word, UNKNOWN) for word in words]
        return tokens

    def _raise_if_invalid(self, caption: str, words: list[str], ids: dict[str, int]) -> None:
        unknown = [word for word in words if word not in ids]
        if unknown:
            shown = " ".join(self.vocabulary[:100]) + (" ..." if len(self.vocabulary) > 100 else "")
            raise UserError(
                f"caption {caption!r} has unknown words: {', '.join(unknown)}; "
                f"this model was trained on the words: {shown}"
            )
        if len(words) > self.length:
            raise UserError(
                f"caption {caption!r} has {len(words)} words; this model takes {self.length}"
            )
