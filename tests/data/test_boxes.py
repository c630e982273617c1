"""Boxes: COCO's and YOLO's files, and which of them an example carries."""

import json

import numpy as np
import pytest
from etils import epath

from ldm_jax.data.boxes import MAX_BOXES, clipped_boxes, read_boxes, to_batch
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
    boxes, names = read_boxes(coco(tmp_path), ["a.jpg", "b.jpg", "c.jpg"])
    assert names == ("person", "dog") and boxes.keys() == {"a.jpg", "b.jpg"}
    np.testing.assert_allclose(boxes["a.jpg"].corners, [[0.1, 0.1, 0.3, 0.6], [0.95, 0.9, 1, 1]])
    assert boxes["a.jpg"].labels.tolist() == [1, 0] and boxes["b.jpg"].corners.shape == (0, 4)
    assert boxes["a.jpg"].corners.dtype == np.float32 and boxes["a.jpg"].labels.dtype == np.int32


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"images": []}, "5 is missing"),
        ({"categories": [{"id": 1, "name": "person"}]}, "18 is missing"),
        ({"annotations": [{"image_id": 5, "caption": "x"}]}, "'bbox' is missing"),
        ({"annotations": [{"image_id": 5, "bbox": [1, 2], "category_id": 1}]}, "x, y, width"),
        ({"images": [{"id": 5, "file_name": "a.jpg"}]}, "'width' is missing"),
        ({"annotations": 3}, "categories"),
    ],
)
def test_a_file_that_is_not_cocos_is_refused(tmp_path, changes, word):
    with pytest.raises(UserError, match=word) as error:
        read_boxes(coco(tmp_path, **changes), ["a.jpg"])
    assert "instances.json" in str(error.value)


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
    boxes, names = read_boxes(folder, ["a.jpg", "b.png", "c.jpg"])
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
    ],
)  # fmt: skip
def test_yolo_names_in_every_common_form(tmp_path, file, text):
    assert read_boxes(yolo(tmp_path, file, text, a="2 .5 .5 1 1"), ["a.jpg"])[1] == NAMES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [cat, 'dog\n", "classes.yaml is not YAML: "),
        ("names: cat\n", "classes.yaml: 'names' must be a list, or a dictionary"),
        ("names: {cat: 0}\n", "'names' must be a list"),
        ("names: [[cat]]\n", "'names' must be a list"),
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


def test_yolo_names_may_lie_beside_the_folder(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\ndog")
    assert read_boxes(yolo(tmp_path, a="1 .5 .5 1 1"), ["a.jpg"])[1] == ("cat", "dog")


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("0 0.5 0.5 1", "a.txt, line 2: expected 'class centre_x"),
        ("cat 0.5 0.5 1 1", "line 2"),
        ("0.5 0.5 0.5 1 1", "line 2"),
        ("-1 0.5 0.5 1 1", "line 2"),
        ("inf 0.5 0.5 1 1", "line 2"),
        ("3 0.5 0.5 1 1", "class 3, but only 1 class names"),
    ],
)
def test_a_bad_line_of_yolo_is_named(tmp_path, line, word):
    with pytest.raises(UserError, match=word):
        read_boxes(yolo(tmp_path, "classes.txt", "cat", a=f"0 .5 .5 1 1\n{line}"), ["a.jpg"])


def test_an_example_has_the_largest_boxes_that_its_crop_shows():
    width = np.linspace(0.1, 0.4, 40)[np.random.default_rng(0).permutation(40)]
    corners = np.stack([np.zeros(40), np.zeros(40), width, np.ones(40)], 1)
    outside = [[0.6, 0, 1, 1], [0.5, 0, 0.6, 1]]  # the second touches the crop and is not in it
    image = clipped_boxes([*outside, *corners], range(42))
    out = to_batch(
        [image, clipped_boxes([], []), image], [(0, 0, 0.5, 1), (0, 0, 1, 1), (0.4, 0, 1, 1)]
    )
    kept = np.sort(np.argsort(-width)[:MAX_BOXES])  # in the order of the annotations
    assert out["box_labels"][0].tolist() == (kept + 2).tolist()
    np.testing.assert_array_equal(out["boxes"][0], corners[kept].astype(np.float32))
    assert (out["box_labels"][1] == -1).all() and not out["boxes"][1].any()
    assert out["box_labels"][2, :3].tolist() == [0, 1, -1]
    assert (out["boxes"].shape, out["boxes"].dtype) == ((3, 30, 4), np.float32)
    assert (out["box_labels"].dtype, out["crop"].dtype) == (np.int32, np.float32)
    np.testing.assert_allclose(out["crop"][2], [0.4, 0, 1, 1])
    assert {k: v.shape[0] for k, v in to_batch([], []).items()} == dict.fromkeys(out, 0)
