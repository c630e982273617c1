"""Files of boxes: COCO's JSON and YOLO's text files. One rule for a bad row holds in both."""

import itertools
import math
import posixpath
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import yaml
from etils import epath

from ldm_jax.data.annotations import (
    LeftOut,
    match_names,
    plain_id,
    plain_name,
    read_json,
    stem,
)
from ldm_jax.data.boxes import MAX_BOXES, Boxes, clipped_boxes
from ldm_jax.data.images import in_threads
from ldm_jax.data.listing import visible_files
from ldm_jax.errors import UserError
from ldm_jax.text_files import lines_of, read_text

CLASS_LISTS = (
    *("classes.txt", "classes.yaml", "classes.yml", "data.yaml", "data.yml"),
    *("dataset.yaml", "dataset.yml", "names.txt", "obj.names"),
)
"""Files with YOLO's class names, in the folder of the boxes or up to two folders above it."""
_MOST_CLASSES = 10_000  # each has a name, if only its number
_BEYOND = 0.05  # of the image's side; less than that is rounding


class BoxFile(NamedTuple):
    """The boxes in a file or folder."""

    boxes: dict[str, Boxes]  # by image; an image that is not listed is missing
    names: tuple[str, ...]  # of the classes
    remarks: tuple[str, ...]  # what is left out


class _Row(NamedTuple):
    """One box as a file has it. A bad row has a `fault` instead of numbers."""

    where: str  # what a user finds it by
    image: str = ""
    label: int = 0
    corners: tuple[float, ...] = ()  # left, top, right, bottom as fractions of the image
    fault: str = ""


def read_boxes(path: epath.Path, images: Collection[str]) -> BoxFile:
    """Reads boxes by image, and the names of their classes.

    path: COCO's JSON of instances (bbox [x, y, width, height] in pixels), or a folder of YOLO's
    text files (class, centre and size as fractions) with a list of class names (`CLASS_LISTS`;
    numbers where there is none).

    A row without a box is left out and counted: no numbers or too few, not finite, without area
    within the image, around a crowd, or of an image or category that is not listed.
    UserError for files that cannot be read, have another format, name none of the images, or
    have no box of them that can be used.
    """
    if path.is_dir():
        return _yolo(path, images)
    if not path.exists():
        raise UserError(f"the boxes {path} do not exist: give a COCO JSON file or a YOLO folder")
    return _coco(path, images)


def _coco(path: epath.Path, images: Collection[str]) -> BoxFile:
    content = read_json(path)
    try:
        if not isinstance(content, dict):
            raise TypeError(f"got a {type(content).__name__}")
        categories = {
            plain_id(one["id"]): str(one["id"] if one["name"] is None else one["name"])
            for one in content["categories"]
        }
        good = (one for one in content["images"] if {"id", "file_name"} <= one.keys())
        listed = {plain_id(one["id"]): _listed_image(one) for one in good}
        annotations = list(content["annotations"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} holds no boxes as COCO writes them (images, annotations with bbox "
            "[x, y, width, height], categories): "
            + (f"{error} is missing" if isinstance(error, KeyError) else str(error))
        ) from error
    order = sorted(categories, key=lambda id: (isinstance(id, str), id))
    # Categories of one name, as Roboflow writes them, are one class.
    names = tuple(dict.fromkeys(categories[id] for id in order))
    number = {id: names.index(categories[id]) for id in order}
    image_of = match_names(images, {one.name for one in listed.values()}, path)
    rows = (_coco_row(i, one, listed, number) for i, one in enumerate(annotations, 1))
    boxes, remarks = _collected(rows, image_of, path)
    return BoxFile(boxes, names, remarks)


class _ListedImage(NamedTuple):
    # An image that is listed twice, under two numbers, has one name, and the boxes of both.
    name: str
    width: float
    height: float  # 0 where the file does not have it


def _listed_image(image: dict) -> _ListedImage:
    size = _numbers([image.get("width"), image.get("height")])
    size = size if size and min(size) > 0 else (0.0, 0.0)
    return _ListedImage(plain_name(str(image["file_name"])), *size)


def _coco_row(
    i: int,
    annotation: dict,
    listed: Mapping[int | str, _ListedImage],
    number: Mapping[int | str, int],
) -> _Row:
    """i: which of the annotations it is, from 1. listed, number: images and categories by id."""
    where, row = f"annotation {i}", annotation if isinstance(annotation, dict) else {}
    if "id" in row:
        where = f"{where} (id {row['id']})"
    image = listed.get(plain_id(row.get("image_id")))
    label = number.get(plain_id(row.get("category_id")))
    bbox = row.get("bbox")
    box = _numbers(bbox)
    if not bbox:
        return _Row(where, fault="no bbox")
    if image is None:
        return _Row(where, fault="an image that is not listed")
    if label is None:
        return _Row(where, fault="a category that is not listed")
    if plain_id(row.get("iscrowd") or 0) != 0:  # a box around a crowd is not that of an object
        return _Row(where, fault="around a crowd")
    if box is None or len(box) != 4:
        return _Row(where, fault="a bbox that is not four numbers")
    if not image.width:
        return _Row(where, fault="an image without width and height")
    x, y, w, h = box
    if min(w, h) > 0 and max(x + w, y + h) <= 1 and not all(map(float.is_integer, box)):
        # Nobody drew a box within the first pixel.
        return _Row(where, fault="fractions instead of pixels")
    corners = (
        x / image.width,
        y / image.height,
        (x + w) / image.width,
        (y + h) / image.height,
    )
    return _Row(where, image.name, label, corners)


def _yolo(folder: epath.Path, images: Collection[str]) -> BoxFile:
    texts = [name for name in sorted(visible_files(folder)) if name.lower().endswith(".txt")]
    texts = [name for name in texts if posixpath.basename(name) not in CLASS_LISTS]
    there = {_place(name): folder / name for name in texts}
    if not there:
        raise UserError(f"no boxes in {folder}; looked for .txt files named like the images")
    key_of = match_names({_place(name) for name in images}, there, folder)
    image_of = {name: key_of[_place(name)] for name in images if _place(name) in key_of}
    keys = sorted(set(image_of.values()))
    read = in_threads(lambda key: _yolo_rows(key, there[key]), keys)
    boxes, remarks = _collected(itertools.chain.from_iterable(read), image_of, folder)
    highest = max(int(one.labels.max(initial=-1)) for one in boxes.values())
    names = _class_names(folder)
    if not names:
        names = tuple(str(i) for i in range(highest + 1))
        remarks += (f"no list of class names ({CLASS_LISTS[0]}): the classes are called by number",)
    if highest >= len(names):
        raise UserError(f"{folder} has boxes of class {highest}, but only {len(names)} class names")
    return BoxFile(boxes, names, remarks)


def _place(name: str) -> str:
    """Path without extension, in which `images/train/a.png` and `labels/train/a.txt` are one."""
    *folders, last = stem(name).split("/")
    return "/".join([*(one for one in folders if one not in ("images", "labels")), last])


def _yolo_rows(image: str, path: epath.Path) -> list[_Row]:
    """The rows of a file with lines `class centre_x centre_y width height`, as fractions."""
    rows = []
    for i, line in enumerate(lines_of(read_text(path)), 1):
        if not line.strip():
            continue
        where, numbers = f"{path}, line {i}", _numbers(line.split())
        if numbers is None or len(numbers) != 5:
            polygon = numbers is not None and len(numbers) > 6
            kind = "a polygon, " if polygon else ""
            rows.append(_Row(where, fault=f"{kind}not 'class centre_x centre_y width height'"))
            continue
        label, x, y, w, h = numbers
        if not label.is_integer() or not 0 <= label < _MOST_CLASSES:
            fault = f"a class that is not a whole number from 0 to {_MOST_CLASSES - 1}"
            rows.append(_Row(where, fault=fault))
        elif any(value > 1.01 or value < -0.01 for value in (x, y, w, h)):  # but for rounding
            rows.append(_Row(where, fault="pixels instead of fractions of the image"))
        else:
            corners = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
            rows.append(_Row(where, image, int(label), corners))
    return rows


def _collected(
    rows: Iterable[_Row], image_of: Mapping[str, str], path: epath.Path
) -> tuple[dict[str, Boxes], tuple[str, ...]]:
    """The good rows of each image, and remarks on the others: the rule for all formats.

    image_of: by the name of an image, what its rows call it.
    """
    good: dict[str, list[_Row]] = {image: [] for image in image_of.values()}
    left_out, total, beyond = LeftOut(), 0, ""
    for row in rows:
        total += 1
        if fault := row.fault or _fault(row.corners):
            left_out.add(row.where, fault)
        elif row.image in good:
            good[row.image].append(row)
            if max(row.corners) > 1 + _BEYOND or min(row.corners) < -_BEYOND:
                beyond = beyond or row.where
    remarks = [left_out.summary(total, f"boxes in {path}")] if len(left_out) else []
    if not any(good.values()):
        reason = f" ({left_out.summary(total, 'boxes')})" if len(left_out) else ""
        raise UserError(f"{path} has no usable box for any of the images{reason}")
    if beyond:
        remarks.append(
            f"boxes in {path} reach beyond their image, and are cut at its edge; the first is "
            f"{beyond}"
        )
    if crowded := sum(len(rows) > MAX_BOXES for rows in good.values()):
        remarks.append(f"{crowded} images have more than {MAX_BOXES} boxes: the largest are used")
    boxes = {
        image: clipped_boxes([row.corners for row in rows], [row.label for row in rows])
        for image, rows in good.items()
    }
    return {name: boxes[image] for name, image in image_of.items()}, tuple(remarks)


def _fault(corners: tuple[float, ...]) -> str:
    """Why these are not the corners of a box; '' if they are."""
    left, top, right, bottom = corners
    if not all(map(math.isfinite, corners)):
        return "a number that is not finite"
    if not (left < right and top < bottom):
        return "no area"
    if not (max(left, top) < 1 and min(right, bottom) > 0):
        return "outside of the image"
    return ""


def _numbers(values: object) -> list[float] | None:
    """A list of numbers; None for anything else."""
    try:
        return [float(value) for value in values] if isinstance(values, list) else None
    except (TypeError, ValueError, OverflowError):
        return None


def _class_names(folder: epath.Path) -> tuple[str, ...]:
    """The class names in the folder or above it, by their numbers; () for none."""
    for place in (folder, folder.parent, folder.parent.parent):
        for path in (place / file for file in CLASS_LISTS):
            if path.exists():
                text = read_text(path)
                is_yaml = path.suffix in (".yaml", ".yml")
                names = _yaml_names(text, path) if is_yaml else lines_of(text.rstrip())
                if not any(names):
                    raise UserError(f"{path} names no class")
                # A class without a name, such as a blank line within the list, still counts.
                return tuple(name.strip() or str(i) for i, name in enumerate(names))
    return ()


def _yaml_names(text: str, path: epath.Path) -> list[str]:
    """The class names under `names` in a YAML file: a list, or a dictionary {index: name}."""
    try:
        # Like safe_load, but every value stays text: a class may be called 'no' or '1'.
        content = yaml.load(text, yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    names = (content.get("names") or []) if isinstance(content, dict) else []
    if isinstance(names, list):
        names = {str(i): name for i, name in enumerate(names)}
    if not isinstance(names, dict) or not all(
        index.isdecimal() and int(index) < _MOST_CLASSES and isinstance(name, str)
        for index, name in names.items()
    ):
        raise UserError(f"{path}: 'names' must be a list, or a dictionary {{index: name}}")
    by_index = {int(index): name for index, name in names.items()}
    return [by_index.get(i, "") for i in range(max(by_index, default=-1) + 1)]
