"""Whose words the files beside the images are, and captions from each of their forms."""

import json

import pytest
from etils import epath

from ldm_jax.data.annotations import match_names, read_captions
from ldm_jax.errors import UserError


def written(folder, content, name="captions.json") -> epath.Path:
    path = epath.Path(folder) / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


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


def test_captions_as_coco_writes_them(tmp_path):
    coco = {
        "info": {},
        "images": [{"id": 7, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}],
        "annotations": [
            {"image_id": 3, "id": 1, "caption": "A cat.\n"},
            {"image_id": 7, "id": 2, "caption": "a  dog"},
            {"image_id": 3, "id": 3, "caption": "one more cat"},
        ],
    }
    assert read_captions(written(tmp_path, coco)) == {
        "a.jpg": ["A cat.", "one more cat"],
        "b.jpg": ["a dog"],
    }


def test_captions_by_file(tmp_path):
    path = written(tmp_path, {"./a.jpg": "a cat", "b/c.jpg": ["a dog", "a hound"]})
    assert read_captions(path) == {"a.jpg": ["a cat"], "b/c.jpg": ["a dog", "a hound"]}


def test_captions_by_line(tmp_path):
    lines = '{"file": "a.jpg", "caption": "x"}\n\n{"file_name": "a.jpg", "text": "y"}'
    assert read_captions(written(tmp_path, lines, "c.jsonl")) == {"a.jpg": ["x", "y"]}


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{", "is not JSON"),
        ([1], "expected those of COCO.*got a list"),
        ({"a.jpg": 5}, "5 is not a caption"),
        ({"a.jpg": [None]}, "not a caption"),
        ({"images": [], "annotations": [{"image_id": 1, "caption": "x"}]}, "1 is missing"),
        (
            {
                "images": [{"id": 1, "file_name": "a"}],
                "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}],
            },
            "'caption' is missing",
        ),
    ],
)
def test_other_content_is_refused_with_what_is_expected(tmp_path, content, word):
    with pytest.raises(UserError, match=word) as error:
        read_captions(written(tmp_path, content))
    assert "captions.json" in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.json cannot be read: No such file"):
        read_captions(epath.Path(tmp_path / "nowhere.json"))
