"""The subword tokenizers of published text encoders, read from files of Hugging Face.

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


def read_tokenizer(path: epath.PathLike) -> str:
    """The content of a `tokenizer.json`, from this file or from what came before it.

    Args:
      path: the file; or a folder that holds it, or else the files of an older tokenizer, vocab.json
        and merges.txt (CLIP) or vocab.txt (BERT), as in pipelines of diffusers; or one of these.

    Raises:
      UserError: nothing of that kind, or a file cannot be read or is something else.
    """
    path = epath.Path(path).expanduser()
    folder = path if path.is_dir() else path.parent
    if path.is_dir() or path.name in ("vocab.json", "merges.txt", "vocab.txt"):
        if path.is_dir() and (folder / "tokenizer.json").exists():
            return read_tokenizer(folder / "tokenizer.json")
        if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
            return _clip_tokenizer(folder)
        if (folder / "vocab.txt").exists():
            return _bert_tokenizer(folder)
        raise UserError(
            f"{folder} holds no tokenizer: neither tokenizer.json, nor vocab.json and merges.txt, "
            "nor vocab.txt"
        )
    content, data = _json(path)
    if not (isinstance(data, dict) and isinstance(data.get("model"), dict)):
        raise UserError(f"{path} is not a tokenizer.json: it has no 'model'")
    return content


def _clip_tokenizer(folder: epath.Path) -> str:
    """CLIP's byte-level BPE of vocab.json and merges.txt."""
    library = _import_optional("tokenizers")
    end = PUBLISHED_TOKENIZERS["clip"].last
    _, vocabulary = _json(folder / "vocab.json")
    lines = [line for line in _text(folder / "merges.txt").split("\n") if line.strip()]
    merges = [tuple(line.split()) for line in lines if not line.startswith("#version")]
    try:
        model = library.models.BPE(
            vocabulary, merges, unk_token=end, end_of_word_suffix="</w>", fuse_unk=False
        )
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{folder} has no vocab.json and merges.txt that fit: {error}") from error
    tokenizer = library.Tokenizer(model)
    normalise, split = library.normalizers, library.pre_tokenizers
    tokenizer.normalizer = normalise.Sequence(
        [normalise.NFC(), normalise.Replace(library.Regex(r"\s+"), " "), normalise.Lowercase()]
    )
    words = library.Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = split.Sequence(
        [split.Split(words, "removed", invert=True), split.ByteLevel(add_prefix_space=False)]
    )
    return _with_special_tokens(tokenizer, "clip")


def _bert_tokenizer(folder: epath.Path) -> str:
    """BERT's WordPiece of vocab.txt, a token a line."""
    library = _import_optional("tokenizers")
    settings = folder / "tokenizer_config.json"
    lower = _json(settings)[1].get("do_lower_case", True) if settings.exists() else True
    tokens = _text(folder / "vocab.txt").rstrip("\n").split("\n")
    vocabulary = {token.rstrip("\r"): i for i, token in enumerate(tokens)}
    tokenizer = library.Tokenizer(library.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    return _with_special_tokens(tokenizer, "bert")


def _with_special_tokens(tokenizer, kind: str) -> str:
    frame = PUBLISHED_TOKENIZERS[kind]
    special = dict.fromkeys((frame.first, frame.last, frame.pad))
    tokenizer.add_special_tokens([t for t in special if tokenizer.token_to_id(t) is not None])
    return tokenizer.to_str()


def _text(file: epath.Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8
        raise UserError(f"cannot read the tokenizer {file}: {error}") from error


def _json(file: epath.Path):
    """(text, content) of a JSON file."""
    text = _text(file)
    try:
        return text, json.loads(text)
    except ValueError as error:
        raise UserError(f"cannot read the tokenizer {file}: {error}") from error


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
