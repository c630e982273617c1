"""Captions of a folder of images: lists, and text files beside the images."""

import json

import pytest
from etils import epath

from ldm_jax.data.captions import captions_of_images, is_label_file, listed_captions, text_files
from ldm_jax.errors import UserError


def test_lists_in_a_folder_name_the_images_below_it(tmp_path):
    images = ["a/0.png", "a/b/1.png", "c/2.png"]
    row = '{"file_name": "%s", "text": "%s"}'
    for folder, name, content in (
        ("a", "metadata.jsonl", row % ("0.png", "zero") + "\n" + row % ("b\\\\1.png", "one")),
        ("a", "metadata.csv", "file_name,text\n0.png,again\n"),
        ("c", "metadata.jsonl", '{"file_name": "2.png", "objects": {"bbox": []}}'),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(content)
    files = [*images, "a/metadata.jsonl", "a/metadata.csv", "c/metadata.jsonl"]
    assert listed_captions(epath.Path(tmp_path), images, files) == (
        ({"a/0.png": ["zero"], "a/b/1.png": ["one"]}, ()),
        {"a/metadata.jsonl"},
    )


def test_a_list_of_something_else_is_known_by_its_keys(tmp_path):
    def lists(name, content):
        (tmp_path / name).write_text(content)
        return listed_captions(epath.Path(tmp_path), ["a.png", "b.png"], ["a.png", name])

    labels = '{"file_name": "a.png", "label": "text"}\n'
    assert lists("metadata.jsonl", labels) == (({}, ()), set())
    assert lists("metadata.jsonl", '{"file_name": "a.png", "truth": "{\\"text\\": 1}"}')[1] == set()
    assert lists("metadata.csv", "file_name,label\na.png,text\n")[1] == set()
    with pytest.raises(UserError, match="metadata.jsonl, line 1: expected"):
        lists("metadata.jsonl", labels + '{"file_name": "b.png", "Text": "b"}')
    with pytest.raises(UserError, match="metadata.jsonl, line 2: expected"):
        lists("metadata.jsonl", labels.replace("label", "text") + '{"file')


def test_names_of_no_image_are_counted(tmp_path):
    path = epath.Path(tmp_path / "captions.json")
    path.write_text(json.dumps({"a.jpg": "x", "b.jpg": "y", "c.jpg": "z"}))
    found = captions_of_images(path, ["a.jpg", "d.jpg"])
    assert found.texts == {"a.jpg": ["x"]} and "2 of 3 names in" in found.remarks[0]
    assert found.remarks[0].endswith("of no image here: b.jpg")


def test_captions_may_be_a_folder_of_text_files(tmp_path):
    for name, text in (("a.txt", "x"), ("b.caption", "y\n"), ("c.md", "z")):
        (tmp_path / name).write_text(text)
    images = ["images/a.png", "images/b.png", "images/c.png"]
    texts = {"images/a.png": ["x"], "images/b.png": ["y"]}
    assert captions_of_images(epath.Path(tmp_path), images).texts == texts
    with pytest.raises(UserError, match="names none of the images"):
        captions_of_images(epath.Path(tmp_path), ["d.png"])


def test_the_text_file_of_an_image():
    images = ["a.png", "b.jpg", "c/d.png", "e.png", "f.png", "cafe\u0301.png"]
    files = [
        "a.txt",
        "b.TXT",
        "c/d.png.txt",
        "e.caption",
        "e.txt",
        "f.json",
        "caf\u00e9.txt",
        "d.txt",
    ]
    assert text_files(images, files) == {
        "a.png": "a.txt",
        "b.jpg": "b.TXT",
        "c/d.png": "c/d.png.txt",
        "e.png": "e.txt",
        "cafe\u0301.png": "caf\u00e9.txt",
    }


def test_rows_of_numbers_are_no_caption():
    assert is_label_file("0 0.5 0.5 0.2 0.2\n\n1 .5 .5 1 1e-3\n")
    assert is_label_file("3 0.1 0.1 0.9 0.1 0.5 0.9")  # a polygon
    assert is_label_file("Car 0.00 0 -1.58 587.01 173.33 614.12 200.12")  # KITTI
    assert is_label_file("10,20,30,40,dog")
    captions = ["", "two cubes", "1 2 3", "0 0.5 0.5 0.2 0.2\na cube", "5, 4, 3, 2, 1 and go"]
    assert not any(map(is_label_file, captions))
