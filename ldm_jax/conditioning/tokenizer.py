"""A word tokenizer whose vocabulary is the words of the training captions."""

from __future__ import annotations

import collections
import functools
import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ldm_jax.errors import UserError

PAD, UNKNOWN = 0, 1
WAY_OUT = (
    "--diffusion.tokenizer clip reads pieces of words instead (pip install 'ldm_jax[pretrained]')"
)
# Scripts that put no space between words: Thai to Lao, Myanmar, Khmer, kana, Han.
_UNSPACED = re.compile(
    "[\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]{2,}"
)
log = logging.getLogger(__name__)


def split_words(caption: str) -> list[str]:
    """Lower-case words of a caption, in the normal form NFC.

    A word is letters and digits, with the combining marks on them (the vowel signs of Hindi), and
    with apostrophes inside. All else separates words and is dropped: punctuation, symbols, emoji.
    """
    text = caption.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    if text.isascii():  # four times as fast, and most captions are
        return _ASCII_WORD.findall(text)
    return _word().findall(unicodedata.normalize("NFC", text))


def _pattern(letters: str) -> re.Pattern[str]:
    return re.compile(f"{letters}(?:'{letters})*")


_ASCII_WORD = _pattern(r"[^\W_]+")


@functools.cache
def _word() -> re.Pattern[str]:
    """Python's `\\w` lacks combining marks, without which a word of Hindi falls into letters."""
    # Variation selectors, which only choose between glyphs, are marks too, but of no word. The two
    # zero-width joiners stand inside words of Persian and of Indian scripts.
    marks = (chr(i) for i in range(0x300, 0x20000) if not 0xFE00 <= i <= 0xFE0F)
    joined = "".join(c for c in marks if unicodedata.category(c)[0] == "M" or c in "\u200c\u200d")
    return _pattern(rf"[^\W_]+(?:[{joined}]+[^\W_]*)*")


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

        `length` is that of the longest caption, at most `max_length`. Captions in a script without
        spaces, of which a whole phrase is one word, are warned of.

        Raises:
          UserError: no caption has a word.
        """
        captions = list(captions)
        counts, longest = collections.Counter(), 1
        for caption in captions:
            words = split_words(caption)
            counts.update(words)
            longest = max(longest, len(words))
        if not counts:
            example = repr(captions[0]) if captions else "there are none"
            raise UserError(f"the captions have no words (the first: {example}); {WAY_OUT}")
        if unspaced := [caption for caption in captions if _UNSPACED.search(caption)]:
            log.warning(
                "%d of %d captions are in a script without spaces between words, so that a phrase "
                "counts as one word (%r); %s",
                *(len(unspaced), len(captions), unspaced[0][:40], WAY_OUT),
            )
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
