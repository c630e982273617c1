"""Boxes around the objects in images: COCO's JSON, YOLO's text files, and rows of a batch."""

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from ldm_jax.data.annotations import match, read_json, read_text, stem, visible_files
from ldm_jax.data.images import Box, in_threads
from ldm_jax.errors import UserError

MOST_BOXES = 30
"""Boxes of one example, as in the paper's layouts (App. E.2.1)."""


class Boxes(NamedTuple):
    """The boxes of one image, in the order of its annotations."""

    corners: np.ndarray  # float32 [k, 4]: left, top, right, bottom as shares of the whole image
    labels: np.ndarray  # int32 [k]


def of_image(corners, labels) -> Boxes:
    """Corners [k, 4] and labels [k] as `Boxes`, cut at the image's edge.

    Those of which nothing is left, and those with a label below 0, are dropped.
    """
    corners = np.clip(np.asarray(corners, np.float32).reshape(-1, 4), 0, 1)
    labels = np.asarray(labels, np.int32).reshape(-1)
    kept = (_area(corners) > 0) & (labels >= 0)
    return Boxes(corners[kept], labels[kept])


def rows(images: Sequence[Boxes], crops: Sequence[Box]) -> dict[str, np.ndarray]:
    """The boxes of n images, of which the crops are shown, as rows of a batch.

    Boxes of which the crop shows nothing are left out; of more than `MOST_BOXES` the largest stay,
    in their order. They remain in the frame of the whole image, as in the original.

    Returns 'boxes' float32 [n, MOST_BOXES, 4], 'box_labels' int32 [n, MOST_BOXES] (-1: none) and
    'crop' float32 [n, 4].
    """
    boxes = np.zeros((len(images), MOST_BOXES, 4), np.float32)
    labels = np.full((len(images), MOST_BOXES), -1, np.int32)
    crop = np.asarray(crops, np.float32).reshape(-1, 4)
    for i, image in enumerate(images):
        corners = image.corners
        inside = np.concatenate(
            [np.maximum(corners[:, :2], crop[i, :2]), np.minimum(corners[:, 2:], crop[i, 2:])], 1
        )
        seen = np.flatnonzero(_area(inside) > 0)
        largest = np.argsort(-_area(corners[seen]), kind="stable")[:MOST_BOXES]
        seen = seen[np.sort(largest)]
        boxes[i, : len(seen)] = corners[seen]
        labels[i, : len(seen)] = image.labels[seen]
    return {"boxes": boxes, "box_labels": labels, "crop": crop}


def _area(corners: np.ndarray) -> np.ndarray:
    """[k, 4] -> [k]; 0 for one whose right edge is not right of its left edge, and so on."""
    return np.prod(np.maximum(corners[:, 2:] - corners[:, :2], 0), axis=-1)


def read_boxes(
    path: epath.Path, images: Collection[str]
) -> tuple[dict[str, Boxes], tuple[str, ...]]:
    """The boxes by image, and the names of what they hold.

    path: COCO's JSON of instances (bbox [x, y, width, height] in pixels), or a folder of YOLO's
    text files with a list of names there or beside that folder (`classes.txt`, `classes.yaml`, ...;
    numbers where there is none). An image that no annotation speaks of is missing in the result.
    UserError for what cannot be read, is of neither kind, or speaks of none of the images.
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
            if annotation.get("iscrowd"):  # a box around many things is not the box of one
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
    ids = {name: listed[key]["id"] for name, key in match(images, listed, path).items()}
    return {name: of_image(corners_of[i], labels_of[i]) for name, i in ids.items()}, names


def _yolo(folder: epath.Path, images: Collection[str]) -> tuple[dict[str, Boxes], tuple[str, ...]]:
    there = {
        stem(name): folder / name for name in sorted(visible_files(folder)) if name.endswith(".txt")
    }
    if not there:
        raise UserError(f"no boxes in {folder}; looked for .txt files named like the images")
    stems = {stem(name) for name in images}
    files = {name: there[key] for name, key in match(stems, there, folder).items()}
    read = in_threads(_yolo_boxes, list(files.values()))
    by_stem = dict(zip(files, read, strict=True))
    boxes = {name: by_stem[stem(name)] for name in images if stem(name) in by_stem}
    highest = max((int(one.labels.max(initial=-1)) for one in boxes.values()), default=-1)
    names = _yolo_names(folder) or tuple(str(i) for i in range(highest + 1))
    if highest >= len(names):
        raise UserError(f"{folder} has boxes of class {highest}, but only {len(names)} class names")
    return boxes, names


def _yolo_boxes(path: epath.Path) -> Boxes:
    """The boxes of a file with lines `class centre_x centre_y width height`, shares of it all."""
    corners, labels = [], []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            label, x, y, w, h = map(float, line.split())
            if label != int(label) or label < 0:
                raise ValueError("the class is no number")
        except (ValueError, OverflowError) as error:
            raise UserError(
                f"{path}, line {number}: expected 'class centre_x centre_y width height', "
                f"got {line[:80]!r}"
            ) from error
        corners.append((x - w / 2, y - h / 2, x + w / 2, y + h / 2))
        labels.append(int(label))
    return of_image(corners, labels)


def _yolo_names(folder: epath.Path) -> tuple[str, ...]:
    """The class names that lie in the folder or beside it; () for none."""
    for place in (folder, folder.parent):
        for file in ("classes.txt", "classes.yaml", "data.yaml", "names.txt"):
            path = place / file
            if path.exists():
                text = read_text(path)
                names = _yaml_names(text) if file.endswith(".yaml") else text.splitlines()
                if not any(names):
                    raise UserError(f"{path} names no class")
                return tuple(name.strip() for name in names if name.strip())
    return ()


def _yaml_names(text: str) -> list[str]:
    """The list under `names:` in the four ways to write it that such files know.

    `- person` or `0: person` on lines of their own, `[person, car]` or `{0: person, 1: car}`.
    """
    lines = [re.sub(r"(^|\s)#.*", "", line).rstrip() for line in text.splitlines()]
    start = next((i for i, line in enumerate(lines) if re.match(r"names\s*:", line)), None)
    if start is None:
        return []
    rest = [lines[start].partition(":")[2].strip(), *lines[start + 1 :]]
    if rest[0]:
        flow = " ".join(rest).strip()
        items = re.split(r"[]}]", flow[1:])[0].split(",")
    else:
        block = [line for line in rest if line]
        end = next((i for i, x in enumerate(block) if not re.match(r"\s|-", x)), len(block))
        items = [re.sub(r"^\s*-\s*", "", line) for line in block[:end]]
    names: dict[int, str] = {}
    for i, item in enumerate(filter(str.strip, items)):
        numbered = re.match(r"\s*(\d+)\s*:\s*(.*)", item)
        place, name = (int(numbered[1]), numbered[2]) if numbered else (i, item)
        names[place] = name.strip().strip("'\"")
    return [names.get(i, str(i)) for i in range(max(names, default=-1) + 1)]
