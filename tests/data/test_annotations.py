"""Which image an entry of a file of annotations belongs to, and entries that are left out."""

import unicodedata

import pytest
from etils import epath

from ldm_jax.data.annotations import LeftOut, match_names, plain_id, read_json
from ldm_jax.errors import UserError


def test_an_image_goes_by_its_path_or_by_the_end_of_either():
    names = ["a.jpg", "train/b.jpg", "c.jpg", "d.jpg"]
    keys = ["a.jpg", "b.jpg", "val2017/c.jpg", "other/x.jpg"]
    assert match_names(names, keys, "list") == {
        "a.jpg": "a.jpg",
        "train/b.jpg": "b.jpg",
        "c.jpg": "val2017/c.jpg",
    }
    assert match_names(["0.jpg", "cat/0.jpg"], ["0.jpg"], "list") == {"0.jpg": "0.jpg"}


@pytest.mark.parametrize(
    ("names", "keys", "word"),
    [
        (["cat/0.jpg", "dog/0.jpg"], ["0.jpg"], "name its folder"),
        (["0.jpg"], ["cat/0.jpg", "dog/0.jpg"], "could both be '0.jpg'"),
        (["cat/0.jpg"], ["dog/0.jpg"], "list names none of the images: there 'dog/0.jpg'"),
        (["a.jpg"], ["aa.jpg"], "names none"),
        (["a.jpg"], [], "names none"),
    ],
)
def test_what_could_be_meant_for_two_images_or_for_none_is_refused(names, keys, word):
    with pytest.raises(UserError, match=word):
        match_names(names, keys, "list")


@pytest.mark.parametrize(
    "key", ["./b/é.jpg", "b\\é.jpg", "C:\\data\\b\\é.jpg", "/data/b/é.jpg", "é.jpg"]
)
def test_names_match_across_systems(key):
    for form in ("NFC", "NFD"):
        for other in ("NFC", "NFD"):
            key, name = unicodedata.normalize(form, key), unicodedata.normalize(other, "b/é.jpg")
            assert match_names([name, "c.jpg"], [key], "list") == {name: key}


@pytest.mark.parametrize("text", ["{", "[" * 100_000, ""])
def test_what_is_not_json_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match="a.json is not JSON"):
        read_json(epath.Path(tmp_path / "a.json"))


def test_numbers_are_the_same_as_texts():
    assert [plain_id(x) for x in (5, "5", 5.0, "05")] == [5] * 4
    others = ["a", "1_2", "-1", -1, None, 2.5, float("nan"), True, [1]]
    assert [plain_id(x) for x in others] == [str(x) for x in others]


def test_rows_that_are_left_out_are_counted_by_reason_and_the_first_is_named():
    left_out = LeftOut()
    assert left_out.summary(9, "rows") == ""
    for entry, reason in (("line 2", "no box"), ("line 5", "a crowd"), ("line 7", "a crowd")):
        left_out.add(entry, reason)
    assert left_out.summary(9, "rows") == (
        "3 of 9 rows are left out: 2 x a crowd, 1 x no box; the first is line 2: no box"
    )
