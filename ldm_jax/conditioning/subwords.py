"""The sub-word tokenizers of published text encoders, as a Hugging Face `tokenizer.json` has them.

They need the extra `[pretrained]`; nothing of it is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from etils import epath

from ldm_jax.errors import UserError


@dataclass(frozen=True)
class Kind:
    """What a `tokenizer.json` does not tell: where it is published, what stands around a text."""

    repository: str
    """On huggingface.co."""
    first: str
    """Token before the caption."""
    last: str
    """Token after the caption."""
    pad: str
    """Token that fills the rest of the row."""


KINDS = {
    # The text-to-image model of App. E.2.1 (footnote 3).
    "bert": Kind("google-bert/bert-base-uncased", "[CLS]", "[SEP]", "[PAD]"),
    # Stable Diffusion v1. CLIP has no token of its own for padding.
    "clip": Kind(
        "openai/clip-vit-large-patch14", "<|startoftext|>", "<|endoftext|>", "<|endoftext|>"
    ),
}


@dataclass(frozen=True)
class SubwordTokenizer:
    """Captions as rows of `length` sub-word numbers, framed and padded as the encoder knows it.

    Raises:
      UserError: when made, for an unknown kind, for content that is no tokenizer of that kind, and
        without the `tokenizers` library.
    """

    content: str = field(repr=False)
    """Text of a `tokenizer.json`; how a caption is normalised and split is its business."""
    kind: str
    """A name in KINDS."""
    length: int = 77
    """Tokens a row, the first and the last one included."""

    def __post_init__(self):
        kind = _kind(self.kind)
        for token in (kind.first, kind.last, kind.pad):
            if self._tokenizer.token_to_id(token) is None:
                raise UserError(f"this tokenizer.json is not of kind {self.kind!r}: no {token}")

    @property
    def size(self) -> int:
        """Number of different tokens."""
        return self._tokenizer.get_vocab_size()

    @property
    def null(self) -> np.ndarray:
        """The empty caption, which asks for nothing: int32 `[length]`."""
        return self.encode([""])[0]

    def encode(self, captions: Sequence[str], *, strict: bool = True) -> np.ndarray:
        """Captions -> int32 `[n, length]`.

        Raises:
          UserError: `strict`, and a caption is too long. Otherwise it is cut before its last token.
        """
        kind, number = KINDS[self.kind], self._tokenizer.token_to_id
        first, last = number(kind.first), number(kind.last)
        room = self.length - 2
        tokens = np.full((len(captions), self.length), number(kind.pad), np.int32)
        split = self._tokenizer.encode_batch(list(captions), add_special_tokens=False)
        for row, caption, found in zip(tokens, captions, split, strict=True):
            if strict and (n := len(found.ids)) > room:
                raise UserError(
                    f"caption {caption!r} has {n} tokens; the text encoder takes {room}"
                )
            framed = [first, *found.ids[:room], last]
            row[: len(framed)] = framed
        return tokens

    @cached_property
    def _tokenizer(self):
        library = _optional("tokenizers")
        try:
            tokenizer = library.Tokenizer.from_str(self.content)
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"this is not the content of a tokenizer.json: {error}") from error
        # Some files ask for these; `length` decides here.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


def read_tokenizer(file: epath.PathLike) -> str:
    """The content of a `tokenizer.json`; a UserError if the file cannot be read or is none."""
    try:
        content = epath.Path(file).read_text(encoding="utf-8")
        data = json.loads(content)
    except (OSError, ValueError) as error:  # ValueError: neither UTF-8 nor JSON
        raise UserError(f"cannot read the tokenizer {file}: {error}") from error
    if not (isinstance(data, dict) and isinstance(data.get("model"), dict)):
        raise UserError(f"{file} is not a tokenizer.json: it has no 'model'")
    return content


def fetch_tokenizer(kind: str) -> str:
    """The published `tokenizer.json` of a kind, from the cache of huggingface_hub or downloaded.

    Raises:
      UserError: for an unknown kind, without `huggingface_hub`, and where nothing can be fetched.
    """
    repository = _kind(kind).repository
    hub = _optional("huggingface_hub")
    try:
        file = hub.hf_hub_download(repository, "tokenizer.json")
    except Exception as error:  # those of its HTTP client too, and that is not always the same
        raise UserError(
            f"cannot fetch tokenizer.json of {repository} ({type(error).__name__}); "
            "without a network, give the path of such a file instead"
        ) from error
    return read_tokenizer(file)


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise UserError(f"unknown kind of tokenizer {name!r}; there are: {', '.join(KINDS)}")
    return KINDS[name]


def _optional(name: str):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f'{name} is not installed; pip install "ldm_jax[pretrained]" brings it'
        ) from error
