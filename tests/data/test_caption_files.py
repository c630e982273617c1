"""Captions from each of the forms of file that they come in."""

import json

import pytest
from etils import epath

from ldm_jax.data.caption_files import read_captions
from ldm_jax.errors import UserError


def written(folder, content, name="captions.json") -> epath.Path:
    path = epath.Path(folder) / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


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
    assert read_captions(written(tmp_path, coco)).texts == {
        "a.jpg": ["A cat.", "one more cat"],
        "b.jpg": ["a dog"],
    }


def test_captions_by_file(tmp_path):
    path = written(tmp_path, {"./a.jpg": "a cat", "b/c.jpg": ["a dog", "a hound"]})
    assert read_captions(path).texts == {"a.jpg": ["a cat"], "b/c.jpg": ["a dog", "a hound"]}


def test_captions_by_line(tmp_path):
    lines = '{"file": "a.jpg", "caption": "x"}\n\n{"file_name": "a.jpg", "text": "y"}'
    assert read_captions(written(tmp_path, lines, "c.jsonl")).texts == {"a.jpg": ["x", "y"]}


@pytest.mark.parametrize("value", ['"a \u2028 b"', '"a \x85\x0b\x0c b"', '"a  b\\n"'])
def test_a_line_ends_at_a_line_feed_alone(tmp_path, value):
    lines = f'{{"file": "a.jpg", "caption": {value}}}\r\n{{"file": "b.jpg", "caption": "c"}}\r\n'
    if "\x0b" in value:  # which JSON wants escaped
        lines = lines.replace("\x0b\x0c", "")
    assert read_captions(written(tmp_path, lines, "c.jsonl")).texts == {
        "a.jpg": ["a b"],
        "b.jpg": ["c"],
    }


VALUES = [
    ("x", ["x"]),
    (["x", "y"], ["x", "y"]),
    (None, []),
    ([], []),
    (["", None, " x "], ["x"]),
    ("half an emoji \ud83d", ["half an emoji"]),
    ("", []),
]


@pytest.mark.parametrize(("value", "texts"), VALUES)
def test_a_list_is_several_captions_and_null_is_none(tmp_path, value, texts):
    line = json.dumps({"file": "a.jpg", "caption": value})
    assert read_captions(written(tmp_path, line, "c.jsonl")).texts == {"a.jpg": texts}
    assert read_captions(written(tmp_path, {"a.jpg": value})).texts == {"a.jpg": texts}


@pytest.mark.parametrize("value", [5, True, {"en": "x"}, [1], [["x"]]])
def test_what_is_no_text_is_no_caption(tmp_path, value):
    line = json.dumps({"file": "a.jpg", "caption": value})
    with pytest.raises(UserError, match="line 1: expected"):
        read_captions(written(tmp_path, line, "c.jsonl"))
    with pytest.raises(UserError, match="is not a caption"):
        read_captions(written(tmp_path, {"a.jpg": value}))


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("metadata.csv", 'file_name,text\na.jpg,"one, two"\nb/c.jpg,"x\ny"\nd.jpg,\n'),
        ("m.csv", '\ufeffText;Image;n\r\n"one, two";a.jpg;1\r\n"x y";b/c.jpg;2\r\n;d.jpg;3'),
        ("m.tsv", "image\tcaption\na.jpg\tone, two\nb/c.jpg\tx y\nd.jpg\t\n"),
    ],
)
def test_captions_in_a_table(tmp_path, name, table):
    assert read_captions(written(tmp_path, table, name)).texts == {
        "a.jpg": ["one, two"],
        "b/c.jpg": ["x y"],
        "d.jpg": [],
    }


BAD_TABLES = [
    *("a,b\n1,2\n", "file_name,label\na.jpg,3\n", "file,text\na.jpg,one, two\n"),
    *('file,text\na.jpg,"open\nb.jpg,x\n', "file,text\na.jpg," + "x" * 200_000),
]


@pytest.mark.parametrize("table", BAD_TABLES)
def test_a_table_that_is_not_of_captions_is_refused(tmp_path, table):
    with pytest.raises(UserError, match=r"m.csv, line \d: expected a column for the file"):
        read_captions(written(tmp_path, table, "m.csv"))


def test_a_row_of_coco_without_caption_or_image_is_left_out(tmp_path):
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [
            {"image_id": 1, "caption": "x"},
            {"image_id": 9, "caption": "of a removed image"},
            {"image_id": 1, "bbox": [0, 0, 1, 1]},
            {"image_id": "1", "caption": None},
        ],
    }
    found = read_captions(written(tmp_path, coco))
    assert found.texts == {"a.jpg": ["x"]} and "2 of 4 captions" in found.remarks[0]
    assert "the first is annotation 2: an image that is not listed" in found.remarks[0]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{", "is not JSON"),
        ([1], "expected those of COCO.*got a list"),
        ({"a.jpg": 5}, "5 is not a caption"),
        ({"images": [], "annotations": [{"image_id": 1, "caption": "x"}]}, "is not listed"),
        (
            {
                "images": [{"id": 1, "file_name": "a"}],
                "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}],
            },
            "none of its 1 rows can be used, the first is annotation 1: no caption",
        ),
    ],
)
def test_other_content_is_refused_with_what_is_expected(tmp_path, content, word):
    with pytest.raises(UserError, match=word) as error:
        read_captions(written(tmp_path, content))
    assert "captions.json" in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="^[^ ]*nowhere.json cannot be read: No such file"):
        read_captions(epath.Path(tmp_path / "nowhere.json"))
