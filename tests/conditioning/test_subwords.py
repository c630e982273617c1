"""Sub-word tokenizers: real, small files of both kinds, against rows written by hand."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from ldm_jax.conditioning import subwords
from ldm_jax.conditioning.subwords import SubwordTokenizer, fetch_tokenizer, read_tokenizer
from ldm_jax.errors import UserError

tokenizers = pytest.importorskip("tokenizers")

PAD, UNKNOWN, CLS, SEP = range(4)
BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "cube", "##s", "."]
A, RED, CUBE, S, DOT = range(4, 9)

LETTERS = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
MERGES = [("r", "e"), ("re", "d</w>"), ("c", "u"), ("b", "e</w>"), ("cu", "be</w>")]
CLIP_WORDS = [
    *LETTERS,
    *(letter + "</w>" for letter in LETTERS),
    *("".join(pair) for pair in MERGES),
    "<|startoftext|>",
    "<|endoftext|>",
]
START, END = len(CLIP_WORDS) - 2, len(CLIP_WORDS) - 1


def bert_file():
    """Lower case, words and punctuation, WordPiece, [CLS] ... [SEP]."""
    tok = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(
            {word: i for i, word in enumerate(BERT_WORDS)}, unk_token="[UNK]"
        )
    )
    tok.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tok.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tok.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    tok.add_special_tokens(BERT_WORDS[:4])
    return tok


def clip_file():
    """Lower case, byte-level pairs with a mark at the end of a word, as in ViT-L/14."""
    tok = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            {word: i for i, word in enumerate(CLIP_WORDS)},
            MERGES,
            unk_token="<|endoftext|>",
            end_of_word_suffix="</w>",
        )
    )
    tok.normalizer = tokenizers.normalizers.Lowercase()
    tok.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(
                tokenizers.Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), "removed", invert=True
            ),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tok.post_processor = tokenizers.processors.RobertaProcessing(
        ("<|endoftext|>", END), ("<|startoftext|>", START), add_prefix_space=False
    )
    tok.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    return tok


FILES = {"bert": bert_file(), "clip": clip_file()}
PADDING = {"bert": "[PAD]", "clip": "<|endoftext|>"}


def tokenizer(kind, length=8):
    return SubwordTokenizer(FILES[kind].to_str(), kind, length)


def clip_numbers(*words):
    return [CLIP_WORDS.index(word) for word in words]


def test_bert_rows():
    rows = tokenizer("bert").encode(["A red cube.", "red  CUBES", "a zebra"])
    assert rows.dtype == np.int32
    assert rows.tolist() == [
        [CLS, A, RED, CUBE, DOT, SEP, PAD, PAD],
        [CLS, RED, CUBE, S, SEP, PAD, PAD, PAD],
        [CLS, A, UNKNOWN, SEP, PAD, PAD, PAD, PAD],
    ]


def test_clip_rows():
    rows = tokenizer("clip").encode(["A red cube.", "reed", "ü"])
    assert rows.dtype == np.int32
    assert rows.tolist() == [
        [START, *clip_numbers("a</w>", "red</w>", "cube</w>", ".</w>"), END, END, END],
        [START, *clip_numbers("re", "e", "d</w>"), END, END, END, END],
        [START, *clip_numbers("Ã", "¼</w>"), END, END, END, END, END],  # two bytes, none unknown
    ]


def test_the_null_caption_is_the_empty_one():
    assert tokenizer("bert").null.tolist() == [CLS, SEP, *[PAD] * 6]
    assert tokenizer("clip").null.tolist() == [START, *[END] * 7]
    null = SubwordTokenizer(FILES["clip"].to_str(), "clip").null
    assert null.shape == (77,) and null.dtype == np.int32


@pytest.mark.parametrize("kind", FILES)
def test_size_counts_the_whole_vocabulary(kind):
    assert tokenizer(kind).size == len({"bert": BERT_WORDS, "clip": CLIP_WORDS}[kind])
    assert tokenizer(kind).encode([]).shape == (0, 8)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("words", range(9))
def test_rows_equal_those_of_the_library_with_its_own_framing(kind, words):
    """The same, where the file's own post-processor adds, cuts and pads."""
    theirs = tokenizers.Tokenizer.from_str(FILES[kind].to_str())
    theirs.enable_truncation(8)
    pad = theirs.token_to_id(PADDING[kind])
    theirs.enable_padding(length=8, pad_id=pad, pad_token=PADDING[kind])
    caption = " ".join(["red", "cube", "a"] * 3)[: 4 * words]
    expected = theirs.encode(caption).ids
    assert tokenizer(kind).encode([caption], strict=False).tolist() == [expected]
    # What a file says about lengths does not matter.
    from_it = SubwordTokenizer(theirs.to_str(), kind, 10).encode([caption], strict=False)[0]
    assert from_it.tolist() == tokenizer(kind, 10).encode([caption], strict=False)[0].tolist()


@pytest.mark.parametrize("kind", FILES)
def test_a_caption_that_is_too_long_is_refused_or_keeps_its_last_token(kind):
    fits, too_long = " ".join(["red"] * 6), " ".join(["red"] * 9)
    tok = tokenizer(kind)
    tok.encode([fits])
    with pytest.raises(UserError, match=f"'{too_long}' has 9 tokens; the text encoder takes 6$"):
        tok.encode([fits, too_long])
    np.testing.assert_array_equal(tok.encode([too_long], strict=False), tok.encode([fits]))
    assert tok.encode([fits])[0, -1] == {"bert": SEP, "clip": END}[kind]


def test_equal_ones_are_one_key_and_show_no_vocabulary():
    assert len({tokenizer("bert"), tokenizer("bert"), tokenizer("bert", 9)}) == 2
    assert repr(tokenizer("bert")) == "SubwordTokenizer(kind='bert', length=8)"


@pytest.mark.parametrize(
    "content, kind, message",
    [
        (FILES["bert"].to_str(), "t5", "unknown kind of tokenizer 't5'; there are: bert, clip$"),
        (FILES["bert"].to_str(), "clip", "not of kind 'clip': no <|startoftext|>"),
        (FILES["clip"].to_str(), "bert", r"not of kind 'bert': no \[CLS\]"),
        ("{}", "bert", "not the content of a tokenizer.json"),
    ],
)
def test_what_is_no_tokenizer_of_the_kind_is_refused_at_once(content, kind, message):
    with pytest.raises(UserError, match=message.replace("|", r"\|")):
        SubwordTokenizer(content, kind)


def test_a_file_is_read(tmp_path):
    file = tmp_path / "tokenizer.json"
    FILES["clip"].save(str(file))
    content = read_tokenizer(file)
    assert json.loads(content) == json.loads(FILES["clip"].to_str())
    assert SubwordTokenizer(content, "clip", 8).null[0] == START


@pytest.mark.parametrize(
    "content", [None, b"", b"\xff\xfe", b"hello", b"[1]", b'{"model": "bert"}', b'{"bert": {}}']
)
def test_a_file_that_is_none_is_named(content, tmp_path):
    file = tmp_path / "tokenizer.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match="tokenizer.json") as error:
        read_tokenizer(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", FILES)
def test_the_published_file_is_fetched(kind, tmp_path, monkeypatch):
    FILES[kind].save(str(tmp_path / "tokenizer.json"))
    asked = []

    def hf_hub_download(repository, file):
        asked.append((repository, file))
        return str(tmp_path / file)

    hub = SimpleNamespace(hf_hub_download=hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert SubwordTokenizer(fetch_tokenizer(kind), kind, 8) == SubwordTokenizer(
        (tmp_path / "tokenizer.json").read_text(encoding="utf-8"), kind, 8
    )
    repository = {"bert": "google-bert/bert-base-uncased", "clip": "openai/clip-vit-large-patch14"}
    assert asked == [(repository[kind], "tokenizer.json")]


def test_without_a_network_a_path_is_asked_for(tmp_path):
    pytest.importorskip("huggingface_hub")
    code = "from ldm_jax.conditioning.subwords import *\nfetch_tokenizer('clip')"
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True)
    said = done.stderr.strip().splitlines()[-1]
    assert "UserError: cannot fetch tokenizer.json of openai/clip-vit-large-patch14 (" in said
    assert said.endswith("give the path of such a file instead")


def test_a_missing_library_is_named_with_how_to_get_it(monkeypatch):
    for module, use in (
        ("tokenizers", lambda: tokenizer("bert")),
        ("huggingface_hub", lambda: fetch_tokenizer("bert")),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UserError, match=rf'^{module} .* pip install "ldm_jax\[pretrained\]"'):
            use()


def test_an_unknown_kind_is_not_fetched():
    with pytest.raises(UserError, match="unknown kind of tokenizer 't5'"):
        fetch_tokenizer("t5")


def test_published_kinds_pad_as_their_models_were_trained():
    assert {name: kind.pad for name, kind in subwords.PUBLISHED_TOKENIZERS.items()} == PADDING


CAPTIONS = ["A red cube.", "reed  ü\t42!", "a zebra cubes", ""]


def test_the_older_files_of_clip_give_the_same_rows(tmp_path):
    vocabulary = {word: i for i, word in enumerate(CLIP_WORDS)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = ["#version: 0.2", *map(" ".join, MERGES), ""]
    (tmp_path / "merges.txt").write_text("\n".join(merges), encoding="utf-8")
    expected = tokenizer("clip", 24).encode(CAPTIONS)
    for path in (tmp_path, tmp_path / "vocab.json", tmp_path / "merges.txt"):
        rows = SubwordTokenizer(read_tokenizer(path), "clip", 24).encode(CAPTIONS)
        np.testing.assert_array_equal(rows, expected)
    possessive = SubwordTokenizer(read_tokenizer(tmp_path), "clip", 5).encode(["a's"])
    assert possessive[0, 1:4].tolist() == clip_numbers("a</w>", "'", "s</w>")
    (tmp_path / "merges.txt").write_text("no merge\n")
    with pytest.raises(UserError, match="that fit"):
        read_tokenizer(tmp_path)


def test_the_older_file_of_bert_gives_the_same_rows(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(BERT_WORDS) + "\n", encoding="utf-8")
    for path in (tmp_path, tmp_path / "vocab.txt"):
        rows = SubwordTokenizer(read_tokenizer(path), "bert", 16).encode(CAPTIONS)
        np.testing.assert_array_equal(rows, tokenizer("bert", 16).encode(CAPTIONS))
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    rows = SubwordTokenizer(read_tokenizer(tmp_path), "bert", 16).encode(["A red"])
    assert rows[0, 1] == UNKNOWN


def test_a_folder(tmp_path):
    with pytest.raises(UserError, match="holds no tokenizer"):
        read_tokenizer(tmp_path)
    FILES["bert"].save(str(tmp_path / "tokenizer.json"))
    assert read_tokenizer(tmp_path) == (tmp_path / "tokenizer.json").read_text()
