"""The word tokenizer: its vocabulary, its round numbers, its strict errors."""

import unicodedata

import numpy as np
import pytest

from ldm_jax.conditioning.tokenizer import PAD, UNKNOWN, Tokenizer, split_words
from ldm_jax.errors import UserError

CAPTIONS = ["A red cube.", "a red, red ball!", "Two cubes on a table"]
TOKENIZER = Tokenizer.from_captions(CAPTIONS, max_words=100)


def test_words_are_lower_case_without_punctuation():
    assert split_words("A dog's RED-ish ball, no_2 (über)!") == [
        "a", "dog's", "red", "ish", "ball", "no", "2", "über",
    ]  # fmt: skip
    assert split_words(" ...! ") == []
    assert split_words("the dog\u2019s ball") == ["the", "dog's", "ball"]


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("लाल गेंद, किताब।", ["लाल", "गेंद", "किताब"]),  # vowel signs are combining marks
        ("சிவப்பு பந்து", ["சிவப்பு", "பந்து"]),
        ("שָׁלוֹם עוֹלָם", ["שָׁלוֹם", "עוֹלָם"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),  # one word, with a zero-width non-joiner
        ("cafe\u0301 CAFÉ", ["café", "café"]),  # NFD and NFC are one word
        ("\u0301 ❤\ufe0f ball❤\ufe0f 🔴 👩\u200d🚀", ["ball"]),  # marks alone are no word
    ],
)
def test_combining_marks_belong_to_their_word(caption, words):
    assert split_words(caption) == [unicodedata.normalize("NFC", word) for word in words]
    assert split_words(unicodedata.normalize("NFD", caption)) == split_words(caption)


def test_captions_without_words_are_refused_with_the_way_out():
    for captions in (["🔴", "🔵 ..."], ["", ""], []):
        with pytest.raises(UserError, match="have no words.*--diffusion.tokenizer clip"):
            Tokenizer.from_captions(captions, max_words=10)


@pytest.mark.parametrize("caption", ["红色的球在地板上", "赤いボール", "ลูกบอลสีแดง", "បាល់ក្រហម"])
def test_captions_in_a_script_without_spaces_are_warned_of(caption, caplog):
    Tokenizer.from_captions(["a red ball", "लाल गेंद", "빨간 공", "красный шар"], max_words=10)
    assert not caplog.text
    Tokenizer.from_captions(["a red ball", caption], max_words=10)
    assert "1 of 2 captions" in caplog.text and "--diffusion.tokenizer clip" in caplog.text


def test_vocabulary_is_the_split_words_the_captions_in_order():
    assert TOKENIZER.vocabulary == ("a", "ball", "cube", "cubes", "on", "red", "table", "two")
    assert TOKENIZER.length == 5  # the longest caption
    assert TOKENIZER.size == 8 + 2


def test_the_most_frequent_words_are_kept():
    assert Tokenizer.from_captions(CAPTIONS, max_words=2).vocabulary == ("a", "red")
    # Which of the equally frequent ones does not depend on the order of the captions.
    assert Tokenizer.from_captions(CAPTIONS, max_words=4) == Tokenizer.from_captions(
        CAPTIONS[::-1], max_words=4
    )


def test_length_is_bounded_and_never_zero():
    assert Tokenizer.from_captions(["word " * 100], max_words=10).length == 77
    assert Tokenizer.from_captions(["one two three"], max_words=10, max_length=2).length == 2
    assert Tokenizer.from_captions(["", "a"], max_words=10).length == 1


def test_captions_become_padded_rows_of_different_words():
    tokens = TOKENIZER.encode(["a red ball", "Red: A BALL", "two cubes on a table"])
    assert tokens.dtype == np.int32 and tokens.shape == (3, 5)
    assert tokens[0].tolist() == [2, 7, 3, PAD, PAD]
    assert sorted(tokens[1]) == sorted(tokens[0])
    assert set(tokens.ravel()) <= {PAD, *range(2, TOKENIZER.size)}


def test_the_null_caption_is_the_empty_one():
    np.testing.assert_array_equal(TOKENIZER.encode([""])[0], TOKENIZER.null)


def test_unknown_words_are_named_with_the_vocabulary():
    with pytest.raises(UserError) as error:
        TOKENIZER.encode(["a red ball", "a green ball of cheese"])
    said = str(error.value)
    assert "'a green ball of cheese' has unknown words: green, of, cheese;" in said
    assert said.endswith("a ball cube cubes on red table two")


def test_a_long_vocabulary_is_cut_in_the_error():
    tokenizer = Tokenizer(tuple(f"w{i}" for i in range(500)), 3)
    with pytest.raises(UserError, match=r"w98 w99 \.\.\.$"):
        tokenizer.encode(["hello"])


def test_a_caption_that_is_too_long_is_refused():
    with pytest.raises(UserError, match="has 6 words; this model takes 5"):
        TOKENIZER.encode(["a red ball on a table"])


def test_training_captions_are_cut_and_their_unknown_words_marked():
    tokens = TOKENIZER.encode(["a green ball on a table"], strict=False)
    assert tokens.tolist() == [[2, UNKNOWN, 3, 6, 2]]
