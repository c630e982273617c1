"""Boxes around the objects in images: COCO's JSON, YOLO's text files, and rows of a batch."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import yaml
from etils import epath

from ldm_jax.data.annotations import match_names, read_json, read_text, stem, visible_files
from ldm_jax.data.images import Box, in_threads
from ldm_jax.errors import UserError

MAX_BOXES = 30
"""The most boxes of one example, as in the paper's layouts (App. E.2.1)."""


class Boxes(NamedTuple):
    """The boxes of one image, in the order of its annotations."""

    corners: np.ndarray  # float32 [k, 4]: left, top, right, bottom as fractions of the whole image
    labels: np.ndarray  # int32 [k]


def clipped_boxes(corners, labels) -> Boxes:
    """Boxes of corners [k, 4] and labels [k], clipped at the image's edges.

    Empty boxes and boxes with a label below 0 are dropped.
    """
    corners = np.clip(np.asarray(corners, np.float32).reshape(-1, 4), 0, 1)
    labels = np.asarray(labels, np.int32).reshape(-1)
    kept = (_area(corners) > 0) & (labels >= 0)
    return Boxes(corners[kept], labels[kept])


def to_batch(images: Sequence[Boxes], crops: Sequence[Box]) -> dict[str, np.ndarray]:
    """The boxes of n images as arrays of a batch, given the crop of each image.

    Boxes outside of the crop are left out; of more than `MAX_BOXES` the largest are kept, in their
    order. Coordinates stay relative to the whole image, as in the reference.

    Returns 'boxes' float32 [n, MAX_BOXES, 4], 'box_labels' int32 [n, MAX_BOXES] (-1: none) and
    'crop' float32 [n, 4].
    """
    boxes = np.zeros((len(images), MAX_BOXES, 4), np.float32)
    labels = np.full((len(images), MAX_BOXES), -1, np.int32)
    crop = np.asarray(crops, np.float32).reshape(-1, 4)
    for i, image in enumerate(images):
        corners = image.corners
        inside = np.concatenate(
            [np.maximum(corners[:, :2], crop[i, :2]), np.minimum(corners[:, 2:], crop[i, 2:])], 1
        )
        visible = np.flatnonzero(_area(inside) > 0)
        largest = np.argsort(-_area(corners[visible]), kind="stable")[:MAX_BOXES]
        visible = visible[np.sort(largest)]
        boxes[i, : len(visible)] = corners[visible]
        labels[i, : len(visible)] = image.labels[visible]
    return {"boxes": boxes, "box_labels": labels, "crop": crop}


def _area(corners: np.ndarray) -> np.ndarray:
    """Areas [k] of corners [k, 4]; 0 for boxes with right <= left or bottom <= top."""
    return np.prod(np.maximum(corners[:, 2:] - corners[:, :2], 0), axis=-1)


def read_boxes(
    path: epath.Path, images: Collection[str]
) -> tuple[dict[str, Boxes], tuple[str, ...]]:
    """Reads boxes by image, and the names of their classes.

    path: COCO's JSON of instances (bbox [x, y, width, height] in pixels), or a folder of YOLO's
    text files with a list of class names in that folder or beside it (`classes.txt`,
    `classes.yaml`, ...; numbers where there is none). Images without annotations are missing in
    the result. UserError for files that cannot be read, have another format, or name none of the
    images.
    """
    if path.is_dir():
        return _yolo(path, images)
    if not path.exists():
        raise UserError(f"the boxes {path} do not exist: give a COCO JSON file or a YOLO folder")
    return _coco(path, images)


def _coco(path: epath.Path, images: Collection[str]) -> tuple[dict[str, Boxes], tuple[str, ...]]:
    content = read_json(path)
    try:
        categories = sorted(content["categories"], key=lambda category: category["id"])
        number = {category["id"]: i for i, category in enumerate(categories)}
        names = tuple(str(category["name"]) for category in categories)
        listed = {image["file_name"]: image for image in content["images"]}
        corners_of = {image["id"]: [] for image in listed.values()}
        labels_of = {image["id"]: [] for image in listed.values()}
        size_of = {image["id"]: (image["width"], image["height"]) for image in listed.values()}
        for annotation in content["annotations"]:
            x, y, w, h = annotation["bbox"]
            if annotation.get("iscrowd"):  # a box around a crowd is not the box of an object
                continue
            image = annotation["image_id"]
            width, height = size_of[image]
            corners_of[image].append((x / width, y / height, (x + w) / width, (y + h) / height))
            labels_of[image].append(number[annotation["category_id"]])
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise UserError(
            f"{path} holds no boxes as COCO writes them (images, annotations with bbox "
            "[x, y, width, height], categories): "
            + (f"{error} is missing" if isinstance(error, KeyError) else str(error))
        ) from error
    ids = {name: listed[key]["id"] for name, key in match_names(images, listed, path).items()}
    return {name: clipped_boxes(corners_of[i], labels_of[i]) for name, i in ids.items()}, names


def _yolo(folder: epath.Path, images: Collection[str]) -> tuple[dict[str, Boxes], tuple[str, ...]]:
    there = {
        stem(name): folder / name for name in sorted(visible_files(folder)) if name.endswith(".txt")
    }
    if not there:
        raise UserError(f"no boxes in {folder}; looked for .txt files named like the images")
    stems = {stem(name) for name in images}
    files = {name: there[key] for name, key in match_names(stems, there, folder).items()}
    read = in_threads(_yolo_boxes, list(files.values()))
    by_stem = dict(zip(files, read, strict=True))
    boxes = {name: by_stem[stem(name)] for name in images if stem(name) in by_stem}
    highest = max((int(one.labels.max(initial=-1)) for one in boxes.values()), default=-1)
    names = _yolo_names(folder) or tuple(str(i) for i in range(highest + 1))
    if highest >= len(names):
        raise UserError(f"{folder} has boxes of class {highest}, but only {len(names)} class names")
    return boxes, names


def _yolo_boxes(path: epath.Path) -> Boxes:
    """The boxes of a file with lines `class centre_x centre_y width height`, as fractions."""
    corners, labels = [], []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            label, x, y, w, h = map(float, line.split())
            if label != int(label) or label < 0:
                raise ValueError("the class is not a whole number")
        except (ValueError, OverflowError) as error:
            raise UserError(
                f"{path}, line {number}: expected 'class centre_x centre_y width height', "
                f"got {line[:80]!r}"
            ) from error
        corners.append((x - w / 2, y - h / 2, x + w / 2, y + h / 2))
        labels.append(int(label))
    return clipped_boxes(corners, labels)


def _yolo_names(folder: epath.Path) -> tuple[str, ...]:
    """The class names in the folder or beside it; () for none."""
    for place in (folder, folder.parent):
        for file in ("classes.txt", "classes.yaml", "data.yaml", "names.txt"):
            path = place / file
            if path.exists():
                text = read_text(path)
                names = _yaml_names(text, path) if file.endswith(".yaml") else text.splitlines()
                if not any(names):
                    raise UserError(f"{path} names no class")
                return tuple(name.strip() for name in names if name.strip())
    return ()


def _yaml_names(text: str, path: epath.Path) -> list[str]:
    """The class names under `names` in a YAML file: a list, or a dictionary {index: name}."""
    try:
        # Like safe_load, but every value stays text: a class may be called 'no' or '1'.
        content = yaml.load(text, yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    names = (content.get("names") or []) if isinstance(content, dict) else []
    if isinstance(names, list):
        names = {str(i): name for i, name in enumerate(names)}
    if not isinstance(names, dict) or not all(
        index.isdecimal() and isinstance(name, str) for index, name in names.items()
    ):
        raise UserError(f"{path}: 'names' must be a list, or a dictionary {{index: name}}")
    by_index = {int(index): name for index, name in names.items()}
    return [by_index.get(i, str(i)) for i in range(max(by_index, default=-1) + 1)]
