"""The subword tokenizers of published text encoders, read from a Hugging Face `tokenizer.json`.

They need the extra `[pretrained]`, whose packages are imported only when used.
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
class PublishedTokenizer:
    """A tokenizer's repository and special tokens, which `tokenizer.json` does not contain."""

    repository: str
    """Repository on huggingface.co."""
    first: str
    """Start token, before the caption."""
    last: str
    """End token, after the caption."""
    pad: str
    """Padding token."""


PUBLISHED_TOKENIZERS = {
    # The text-to-image model of App. E.2.1 (footnote 3).
    "bert": PublishedTokenizer("google-bert/bert-base-uncased", "[CLS]", "[SEP]", "[PAD]"),
    # Stable Diffusion v1. CLIP has no separate padding token.
    "clip": PublishedTokenizer(
        "openai/clip-vit-large-patch14", "<|startoftext|>", "<|endoftext|>", "<|endoftext|>"
    ),
}


@dataclass(frozen=True)
class SubwordTokenizer:
    """Encodes captions as rows of `length` subword tokens with start, end and padding tokens.

    Raises:
      UserError: when made, if the kind is unknown, the content is not a tokenizer of that kind, or
        the `tokenizers` library is missing.
    """

    content: str = field(repr=False)
    """Text of a `tokenizer.json`, which defines how a caption is normalised and split."""
    kind: str
    """A key of PUBLISHED_TOKENIZERS."""
    length: int = 77
    """Tokens in a row, including the start and end tokens."""

    def __post_init__(self):
        kind = _published(self.kind)
        for token in (kind.first, kind.last, kind.pad):
            if self._tokenizer.token_to_id(token) is None:
                raise UserError(f"this tokenizer.json is not of kind {self.kind!r}: no {token}")

    @property
    def size(self) -> int:
        """Number of tokens in the vocabulary."""
        return self._tokenizer.get_vocab_size()

    @property
    def null(self) -> np.ndarray:
        """The null condition, an empty caption: int32 `[length]`."""
        return self.encode([""])[0]

    def encode(self, captions: Sequence[str], *, strict: bool = True) -> np.ndarray:
        """Captions -> int32 `[n, length]`.

        Raises:
          UserError: `strict` and a caption is too long; otherwise the caption is truncated.
        """
        kind, token_id = PUBLISHED_TOKENIZERS[self.kind], self._tokenizer.token_to_id
        first, last = token_id(kind.first), token_id(kind.last)
        room = self.length - 2
        tokens = np.full((len(captions), self.length), token_id(kind.pad), np.int32)
        split = self._tokenizer.encode_batch(list(captions), add_special_tokens=False)
        for row, caption, encoding in zip(tokens, captions, split, strict=True):
            if strict and (n := len(encoding.ids)) > room:
                raise UserError(
                    f"caption {caption!r} has {n} tokens; the text encoder takes {room}"
                )
            ids = [first, *encoding.ids[:room], last]
            row[: len(ids)] = ids
        return tokens

    @cached_property
    def _tokenizer(self):
        library = _import_optional("tokenizers")
        try:
            tokenizer = library.Tokenizer.from_str(self.content)
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"this is not the content of a tokenizer.json: {error}") from error
        # Some files turn these on; here `length` decides.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


def read_tokenizer(file: epath.PathLike) -> str:
    """The content of a `tokenizer.json`.

    Raises:
      UserError: the file cannot be read or is not a tokenizer.json.
    """
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
      UserError: unknown kind, `huggingface_hub` is missing, or the download fails.
    """
    repository = _published(kind).repository
    hub = _import_optional("huggingface_hub")
    try:
        file = hub.hf_hub_download(repository, "tokenizer.json")
    except Exception as error:  # including those of its HTTP client, which vary
        raise UserError(
            f"cannot fetch tokenizer.json of {repository} ({type(error).__name__}); "
            "without a network, give the path of such a file instead"
        ) from error
    return read_tokenizer(file)


def _published(name: str) -> PublishedTokenizer:
    if name not in PUBLISHED_TOKENIZERS:
        raise UserError(
            f"unknown kind of tokenizer {name!r}; there are: {', '.join(PUBLISHED_TOKENIZERS)}"
        )
    return PUBLISHED_TOKENIZERS[name]


def _import_optional(name: str):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f'{name} is not installed; pip install "ldm_jax[pretrained]" brings it'
        ) from error
