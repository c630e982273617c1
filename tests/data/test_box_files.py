"""Boxes in COCO's and YOLO's files."""

import json

import numpy as np
import pytest
from etils import epath

from ldm_jax.data.box_files import read_boxes
from ldm_jax.data.boxes import MAX_BOXES
from ldm_jax.errors import UserError

COCO = {
    "images": [
        {"id": 5, "file_name": "a.jpg", "width": 200, "height": 100},
        {"id": 6, "file_name": "val/b.jpg", "width": 10, "height": 10},
        {"id": 7, "file_name": "elsewhere.jpg", "width": 10, "height": 10},
    ],
    "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
    "annotations": [
        {"image_id": 5, "bbox": [20, 10, 40, 50], "category_id": 18, "iscrowd": 0},
        {"image_id": 5, "bbox": [0, 0, 200, 100], "category_id": 1, "iscrowd": 1},
        {"image_id": 5, "bbox": [190, 90, 40, 50], "category_id": 1},
        {"image_id": 5, "bbox": [50, 50, 0, 10], "category_id": 1},
        {"image_id": 7, "bbox": [0, 0, 1, 1], "category_id": 1, "iscrowd": 0},
    ],
}


def coco(folder, **changes) -> epath.Path:
    path = epath.Path(folder) / "instances.json"
    path.write_text(json.dumps({**COCO, **changes}))
    return path


def yolo(folder, names_file="", names="", **files) -> epath.Path:
    boxes = epath.Path(folder) / "boxes"
    boxes.mkdir()
    for stem, lines in files.items():
        (boxes / f"{stem}.txt").write_text(lines)
    if names_file:
        (boxes / names_file).write_text(names)
    return boxes


def test_coco_boxes_become_shares_and_crowds_and_empty_ones_are_left_out(tmp_path):
    boxes, names, remarks = read_boxes(coco(tmp_path), ["a.jpg", "b.jpg", "c.jpg"])
    assert names == ("person", "dog") and boxes.keys() == {"a.jpg", "b.jpg"}
    np.testing.assert_allclose(boxes["a.jpg"].corners, [[0.1, 0.1, 0.3, 0.6], [0.95, 0.9, 1, 1]])
    assert boxes["a.jpg"].labels.tolist() == [1, 0] and boxes["b.jpg"].corners.shape == (0, 4)
    assert boxes["a.jpg"].corners.dtype == np.float32 and boxes["a.jpg"].labels.dtype == np.int32
    assert len(remarks) == 2 and "2 of 5 boxes in" in remarks[0]
    assert "1 x around a crowd, 1 x no area; the first is annotation 2: around a" in remarks[0]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"images": []}, "names none of the images"),
        ({"categories": [{"name": "person"}]}, "'id' is missing"),
        ({"annotations": [{"image_id": 5, "caption": "x"}]}, "no usable box.*1 x no bbox"),
        ({"annotations": []}, "no usable box for any of the images$"),
        ({"images": [{"id": 5, "file_name": "a.jpg"}]}, "image without width and height"),
        ({"annotations": 3}, "categories"),
    ],
)
def test_a_file_that_is_not_cocos_is_refused(tmp_path, changes, word):
    with pytest.raises(UserError, match=word) as error:
        read_boxes(coco(tmp_path, **changes), ["a.jpg"])
    assert "instances.json" in str(error.value)


GOOD = {"image_id": 5, "bbox": [20, 10, 40, 50], "category_id": 18}


def test_a_list_as_detectors_write_it_is_no_file_of_coco(tmp_path):
    path = epath.Path(tmp_path) / "results.json"
    path.write_text(json.dumps([GOOD]))
    with pytest.raises(UserError, match="no boxes as COCO writes them.*got a list"):
        read_boxes(path, ["a.jpg"])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"bbox": None}, "no bbox"),
        ({"bbox": []}, "no bbox"),
        ({"bbox": [1, 2, 3]}, "a bbox that is not four numbers"),
        ({"bbox": "1234"}, "a bbox that is not four numbers"),
        ({"bbox": [1, 2, None, 3]}, "a bbox that is not four numbers"),
        ({"bbox": [1, 2, 3, 10**400]}, "a bbox that is not four numbers"),
        ({"bbox": [1, 2, 0, 3]}, "no area"),
        ({"bbox": [5, 5, -4, -4]}, "no area"),
        ({"bbox": [1, float("nan"), 2, 3]}, "not finite"),
        ({"bbox": [300, 5, 10, 10]}, "outside of the image"),
        ({"bbox": [0.1, 0.2, 0.3, 0.4]}, "fractions instead of pixels"),
        ({"iscrowd": 1}, "around a crowd"),
        ({"image_id": 99}, "an image that is not listed"),
        ({"image_id": "five"}, "an image that is not listed"),
        ({"image_id": None}, "an image that is not listed"),
        ({"category_id": 7}, "a category that is not listed"),
        ({"category_id": None}, "a category that is not listed"),
    ],
)
def test_a_bad_row_of_coco_is_left_out_counted_and_named(tmp_path, changes, fault):
    bad = {**GOOD, **changes, "id": 31}
    boxes, names, remarks = read_boxes(coco(tmp_path, annotations=[GOOD, bad, GOOD]), ["a.jpg"])
    assert boxes["a.jpg"].labels.tolist() == [1, 1] and names == ("person", "dog")
    assert len(remarks) == 1 and "1 of 3 boxes" in remarks[0]
    assert "the first is annotation 2 (id 31): " in remarks[0] and fault in remarks[0]
    with pytest.raises(UserError, match=f"no usable box for any.*{fault}"):
        read_boxes(coco(tmp_path, annotations=[bad]), ["a.jpg"])


@pytest.mark.parametrize("row", [None, 3, [], "x", {"segmentation": []}])
def test_a_row_without_any_box_is_left_out_too(tmp_path, row):
    boxes, _, remarks = read_boxes(coco(tmp_path, annotations=[row, GOOD]), ["a.jpg"])
    assert len(boxes["a.jpg"].labels) == 1 and "1 of 2 boxes" in remarks[0]


def test_ids_of_coco_may_be_texts(tmp_path):
    row = {**GOOD, "image_id": "5", "category_id": "18"}
    boxes, _, remarks = read_boxes(coco(tmp_path, annotations=[row]), ["a.jpg"])
    assert boxes["a.jpg"].labels.tolist() == [1] and not remarks


def test_an_image_that_coco_lists_twice_has_the_boxes_of_both(tmp_path):
    again = {"id": 50, "file_name": "a.jpg", "width": 200, "height": 100}
    path = coco(tmp_path, images=[*COCO["images"], again])
    assert len(read_boxes(path, ["a.jpg"]).boxes["a.jpg"].labels) == 2
    path = coco(tmp_path, images=[again, {"id": 4}], annotations=[{**GOOD, "image_id": 50}])
    assert len(read_boxes(path, ["a.jpg"]).boxes["a.jpg"].labels) == 1


def test_categories_of_coco_with_one_name_are_one_class(tmp_path):
    categories = [*COCO["categories"], {"id": 0, "name": "dog"}]
    boxes, names, _ = read_boxes(coco(tmp_path, categories=categories), ["a.jpg"])
    assert names == ("dog", "person") and boxes["a.jpg"].labels.tolist() == [0, 1]


def test_corners_in_place_of_sizes_are_said(tmp_path):
    row = GOOD | {"bbox": [150, 50, 190, 90]}  # left, top, right, bottom
    boxes, _, remarks = read_boxes(coco(tmp_path, annotations=[GOOD, row]), ["a.jpg"])
    assert boxes["a.jpg"].corners[1].tolist() == [0.75, 0.5, 1, 1]
    assert "reach beyond their image" in remarks[0] and remarks[0].endswith("is annotation 2")


def test_more_boxes_than_an_example_carries_are_said(tmp_path):
    remarks = read_boxes(coco(tmp_path, annotations=[GOOD] * (MAX_BOXES + 1)), ["a.jpg"]).remarks
    assert remarks == (f"1 images have more than {MAX_BOXES} boxes: the largest are used",)


def test_boxes_of_other_images_and_missing_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="instances.json names none of the images.*'z.jpg'"):
        read_boxes(coco(tmp_path), ["z.jpg"])
    with pytest.raises(UserError, match="nowhere do not exist: give a COCO JSON"):
        read_boxes(epath.Path(tmp_path / "nowhere"), ["a.jpg"])
    with pytest.raises(UserError, match="names none of the images"):
        read_boxes(yolo(tmp_path, b="0 .5 .5 1 1"), ["a.jpg"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="looked for .txt"):
        read_boxes(epath.Path(tmp_path / "empty"), ["a.jpg"])


def test_yolo_boxes_become_corners(tmp_path):
    folder = yolo(tmp_path, a="1 0.5 0.4 0.2 0.6\n\n0 0.05 0.5 0.2 1\n", b="")
    boxes, names, remarks = read_boxes(folder, ["a.jpg", "b.png", "c.jpg"])
    assert "called by number" in remarks[0] and len(remarks) == 1
    assert names == ("0", "1") and boxes.keys() == {"a.jpg", "b.png"}
    np.testing.assert_allclose(
        boxes["a.jpg"].corners, [[0.4, 0.1, 0.6, 0.7], [0, 0, 0.15, 1]], atol=1e-6
    )
    assert boxes["a.jpg"].labels.tolist() == [1, 0] and len(boxes["b.png"].labels) == 0


NAMES = ("traffic light", "sheep's wool", "cat")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("classes.txt", "traffic light\nsheep's wool\ncat\n"),
        ("classes.yaml", "# a list\npath: .\nnames:\n  0: traffic light\n"
                         "  1: sheep's wool  # so\n\n  2: cat\nnc: 3\n"),
        ("data.yaml", "nc: 3\nnames:\n- traffic light\n- \"sheep's wool\"\n- 'cat'\ntrain: x\n"),
        ("data.yaml", "names: ['traffic light', \"sheep's wool\", cat]\nnc: 3\n"),
        ("data.yaml", "names: {0: traffic light,\n  1: sheep's wool, 2: cat}\nnc: 3\n"),
        ("data.yaml", "names: [\n  traffic light,\n  sheep's wool,\n  cat\n]\n"),
        ("data.yml", "\"names\": [\n  'traffic light',\n  \"sheep's wool\", 'cat']\n"),
        ("obj.names", "traffic light\r\nsheep's wool\r\ncat\r\n\r\n"),
    ],
)  # fmt: skip
def test_yolo_names_in_every_common_form(tmp_path, file, text):
    assert read_boxes(yolo(tmp_path, file, text, a="2 .5 .5 1 1"), ["a.jpg"])[1] == NAMES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [cat, 'dog\n", "classes.yaml is not YAML: "),
        ("names: " + 600 * "[", "classes.yaml is not YAML: "),
        ("names: cat\n", "classes.yaml: 'names' must be a list, or a dictionary"),
        ("names: {cat: 0}\n", "'names' must be a list"),
        ("names: [[cat]]\n", "'names' must be a list"),
        ("names: {1000000000000: cat}\n", "'names' must be a list"),
        ("nc: 3\n", "classes.yaml names no class"),
        ("names:\n", "classes.yaml names no class"),
    ],
)
def test_malformed_yolo_names_are_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(UserError) as error:
        read_boxes(yolo(tmp_path, "classes.yaml", text, a="0 .5 .5 1 1"), ["a.jpg"])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_yolo_names_stay_text(tmp_path):
    folder = yolo(tmp_path, "data.yaml", "names: {0: no, 1: 1, 2: on}", a="2 .5 .5 1 1")
    assert read_boxes(folder, ["a.jpg"])[1] == ("no", "1", "on")


def test_a_name_of_yolo_may_have_commas(tmp_path):
    folder = yolo(tmp_path, "data.yaml", 'names: [\n  "dog, big",\n  "cat"\n]', a="1 .5 .5 1 1")
    assert read_boxes(folder, ["a.jpg"]).names == ("dog, big", "cat")


@pytest.mark.parametrize(
    ("file", "text", "names"),
    [
        ("classes.txt", "cat\n\ndog\n", ("cat", "1", "dog")),
        ("classes.txt", "\ncat\ndog\n\n\n", ("0", "cat", "dog")),
        ("data.yaml", "names: [cat, '', dog]", ("cat", "1", "dog")),
        ("data.yaml", "names: {0: cat, 2: dog}", ("cat", "1", "dog")),
    ],
)
def test_a_class_without_a_name_still_counts(tmp_path, file, text, names):
    assert read_boxes(yolo(tmp_path, file, text, a="2 .5 .5 1 1"), ["a.jpg"]).names == names


def test_yolo_names_may_lie_beside_the_folder(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\ndog")
    assert read_boxes(yolo(tmp_path, a="1 .5 .5 1 1"), ["a.jpg"])[1] == ("cat", "dog")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("0 0.5 0.5 1", "not 'class centre_x"),
        ("0 0.1 0.1 0.9 0.1 0.5 0.9", "a polygon, not 'class centre_x"),
        ("cat 0.5 0.5 1 1", "not 'class centre_x"),
        ("0.5 0.5 0.5 1 1", "not a whole number from 0 to 9999"),
        ("-1 0.5 0.5 1 1", "not a whole number from 0 to 9999"),
        ("1e300 0.5 0.5 1 1", "not a whole number from 0 to 9999"),
        ("inf 0.5 0.5 1 1", "not a whole number from 0 to 9999"),
        ("0 0.5 nan 1 1", "not finite"),
        ("0 0.5 0.5 0 1", "no area"),
        ("0 12 10 6 6", "pixels instead of fractions"),
        ("0 0.5 0.5 -0.5 0.5", "pixels instead of fractions"),
    ],
)
def test_a_bad_row_of_yolo_is_left_out_counted_and_named(tmp_path, line, fault):
    images = ["a.jpg", "b.jpg"]
    folder = yolo(tmp_path, "classes.txt", "cat", a=f"0 .5 .5 1 1\n{line}\n0 .5 .5 1 1", b="")
    boxes, _, remarks = read_boxes(folder, images)
    assert boxes["a.jpg"].labels.tolist() == [0, 0] and len(boxes["b.jpg"].labels) == 0
    assert len(remarks) == 1 and "1 of 3 boxes" in remarks[0]
    assert "a.txt, line 2: " in remarks[0] and fault in remarks[0]
    (folder / "a.txt").write_text(f"{line}\n{line}")
    with pytest.raises(UserError, match="no usable box for any.*a.txt, line 1: .*" + fault):
        read_boxes(folder, images)


def test_a_class_of_yolo_beyond_the_list_of_names_is_refused(tmp_path):
    folder = yolo(tmp_path, "classes.txt", "cat", a="3 0.5 0.5 1 1")
    with pytest.raises(UserError, match="class 3, but only 1 class names"):
        read_boxes(folder, ["a.jpg"])


@pytest.mark.parametrize("layout", ["labels/train/{}.txt", "train/labels/{}.txt"])
def test_images_and_labels_of_yolo_lie_in_parallel_folders(tmp_path, layout):
    for name in "ab":
        path = tmp_path / layout.format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("0 .5 .5 1 1")
    images = [layout.format(x).replace("labels", "images").replace("txt", "png") for x in "ab"]
    assert read_boxes(epath.Path(tmp_path), images).boxes.keys() == {*images}
