"""Captions of images: files that list them, and a text file beside each image."""

import csv
import io
import json
import posixpath
import re
import reprlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from etils import epath

from ldm_jax.data.annotations import (
    LeftOut,
    lines_of,
    match_names,
    plain_id,
    plain_name,
    read_json,
    read_text,
    stem,
)
from ldm_jax.data.images import in_threads
from ldm_jax.data.listing import visible_files
from ldm_jax.errors import UserError

CAPTIONS = "captions.jsonl"
LISTS = (CAPTIONS, "metadata.jsonl", "metadata.csv")
"""Files in a folder of images that list their captions: ours, and those of Hugging Face."""
TEXT_FILES = (".txt", ".caption")
"""Extensions of a text file beside an image that is its caption."""
_NAMES = ("file", "file_name", "filename", "image")
_TEXTS = ("caption", "captions", "text", "prompt")
_FORMS = '.jsonl with lines {"file": "NAME", "caption": "TEXT"}'
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


class Captions(NamedTuple):
    """Captions by the names that their file gives to the images, and what of it is left out."""

    texts: dict[str, list[str]]  # none for an image that is listed without
    left_out: str = ""


class FoundCaptions(NamedTuple):
    """The captions of a folder of images."""

    texts: dict[str, list[str]]  # by image; {} for none
    files: set[str]  # those in the folder that were read for it
    is_list: bool  # whether they come from a list, which says of each image what it shows
    remarks: tuple[str, ...]  # what may be other than the user thinks


def find_captions(
    root: epath.Path, images: Collection[str], files: Collection[str], path: epath.Path | None
) -> FoundCaptions:
    """The captions of `images` in the file or folder `path`, or else among the `files` of `root`.

    There they are in `LISTS`, and for images that those do not name, in text files beside them.
    UserError for malformed files, and where all captions are empty.
    """
    if path is not None:
        texts, left_out = captions_of_images(path, images)
        found = FoundCaptions(texts, set(), True, (left_out,) if left_out else ())
    else:
        listed, lists = listed_captions(root, images, files)
        file_of = text_files([name for name in images if name not in listed], files)
        beside, remarks = read_text_files(root, file_of), ()
        if labels := [file for name, file in file_of.items() if name not in beside]:
            remarks = (
                f"{len(labels)} text files such as {labels[0]} hold rows of numbers as YOLO "
                f"writes boxes, and are not read as captions; --data.boxes {root} reads boxes; "
                f"captions of numbers go into a {CAPTIONS}",
            )
            beside = beside if any(beside.values()) else {}  # the others are of no object
        files = lists | set(file_of.values())
        found = FoundCaptions({**beside, **listed}, files, bool(listed), remarks)
    if found.texts and not any(found.texts.values()):
        raise UserError(f"the captions of the images in {root} are all empty")
    return found


def read_captions(path: epath.Path) -> Captions:
    """The captions in a file.

    A .jsonl has lines `{"file": "a/b.jpg", "caption": "..."}`, a .csv or .tsv has such columns
    ("file_name" and "text" are accepted too); several lines for one image are several captions. A
    JSON file is COCO's, `{"images": [{"id", "file_name"}], "annotations": [{"image_id",
    "caption"}]}`, or `{"a/b.jpg": "a caption"}`. Everywhere a list is several captions, and null or
    an empty text is none. UserError for anything else.
    """
    if path.suffix.lower() == ".jsonl":
        return Captions(_gathered(_rows_of_lines(path)))
    if path.suffix.lower() in (".csv", ".tsv"):
        return Captions(_gathered(_rows_of_table(path)))
    content = read_json(path)
    try:
        if not isinstance(content, dict):
            raise TypeError(f"got a {type(content).__name__}")
        if {"images", "annotations"} <= content.keys():
            return _coco(content, path)
        return Captions(_gathered((name, texts_of(value)) for name, value in content.items()))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f'{path} holds no captions: expected those of COCO ("images", "annotations" with '
            '"image_id" and "caption"), {"FILE": "CAPTION"}, or a ' + _FORMS + "; "
            + (f"{error} is missing" if isinstance(error, KeyError) else str(error))
        ) from error  # fmt: skip


def texts_of(value) -> list[str]:
    """The captions in a value of JSON: a text, a list of texts, or null; empty ones are none.

    TypeError for anything else.
    """
    values = [one for one in (value if isinstance(value, list) else [value]) if one is not None]
    if not all(isinstance(one, str) for one in values):
        raise TypeError(f"{reprlib.repr(value)} is not a caption")
    return [text for text in (" ".join(one.split()) for one in values) if text]


def _gathered(pairs: Iterable[tuple[str, list[str]]]) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for name, texts in pairs:
        captions.setdefault(plain_name(name), []).extend(texts)
    return captions


def _entry(row: Mapping) -> tuple[str, list[str]]:
    """The image and the captions of a row. KeyError, TypeError, AttributeError: it has none."""
    fields = {str(key).strip().lower(): value for key, value in row.items()}
    name, text = (
        fields[next((key for key in keys if key in fields), keys[0])] for keys in (_NAMES, _TEXTS)
    )
    if not isinstance(name, str):
        raise TypeError(f"{reprlib.repr(name)} is not the name of a file")
    return name, texts_of(text)


def _rows_of_lines(path: epath.Path) -> Iterator[tuple[str, list[str]]]:
    # JSON Lines end at a line feed alone: others may stand in a text.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield _entry(json.loads(line))
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise UserError(
                f'{path}, line {number}: expected {{"file": "NAME", "caption": "TEXT"}}, '
                f"got {line[:80]}"
            ) from error


def _rows_of_table(path: epath.Path) -> Iterator[tuple[str, list[str]]]:
    text = read_text(path)
    header = text.partition("\n")[0]
    delimiter = max(",\t;|", key=header.count)
    for row in csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter):
        try:
            yield _entry({key: value for key, value in row.items() if key is not None})
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{path}: expected a column for the file ({', '.join(_NAMES)}) and one for the "
                f"caption ({', '.join(_TEXTS)}) in each row, got {header.strip()[:80]}"
            ) from error


def _coco(content: dict, path: epath.Path) -> Captions:
    """One row that is not as it should be is left out, unless no other has a caption."""
    name_of = {plain_id(image["id"]): image["file_name"] for image in content["images"]}
    captions = _gathered((name, []) for name in name_of.values())
    left_out, total = LeftOut(), len(content["annotations"])
    for i, row in enumerate(content["annotations"], 1):
        row = row if isinstance(row, dict) else {}
        name = name_of.get(plain_id(row.get("image_id")))
        if "caption" not in row:
            left_out.add(f"annotation {row.get('id', i)}", "no caption")
        elif name is None:
            left_out.add(f"annotation {row.get('id', i)}", "an image that is not listed")
        else:
            captions[plain_name(name)] += texts_of(row["caption"])
    if total and len(left_out) == total:
        raise TypeError(f"none of its {total} rows can be used, the first is {left_out.first}")
    return Captions(captions, left_out.summary(total, f"captions in {path}"))


def captions_of_images(path: epath.Path, images: Collection[str]) -> Captions:
    """The captions of `images` in a file (`read_captions`), or in a folder of text files.

    Images that are not named there are missing. UserError where none is, and for malformed files.
    """
    if not path.is_dir():
        listed = read_captions(path)
        found = match_names(images, listed.texts, path)
        return Captions({n: listed.texts[key] for n, key in found.items()}, listed.left_out)
    there = {stem(file): file for file in sorted(visible_files(path)) if _is_text(file)}
    if not there:
        raise UserError(f"no captions in {path}; looked for text files named like the images")
    key_of = match_names({stem(name) for name in images}, there, path)
    file_of = {name: there[key_of[stem(name)]] for name in images if stem(name) in key_of}
    return Captions(read_text_files(path, file_of))


def listed_captions(
    root: epath.Path, images: Collection[str], files: Collection[str]
) -> tuple[dict[str, list[str]], set[str]]:
    """Captions by image from the `LISTS` in `root` and in the folders below it, and their files.

    Names in a list are relative to its folder. In a folder with several lists the first counts.
    UserError for a malformed list, and for one that names none of the images.
    """
    captions: dict[str, list[str]] = {}
    read: dict[str, str] = {}  # by folder
    there = [f for name in LISTS for f in sorted(files) if posixpath.basename(f) == name]
    for file in there:
        folder, path = file.removesuffix(posixpath.basename(file)), root / file
        if folder in read or not _has_captions(path):
            continue
        read[folder] = file
        inside = {name.removeprefix(folder): name for name in images if name.startswith(folder)}
        for name, texts in captions_of_images(path, inside).texts.items():
            captions.setdefault(inside[name], []).extend(texts)
    return captions, set(read.values())


def _has_captions(path: epath.Path) -> bool:
    """Whether a list is of captions. Hugging Face lists other things in `metadata` files too."""
    if not path.name.startswith("metadata"):
        return True
    first = read_text(path).strip().partition("\n")[0].lower()
    return not {*re.findall(r"\w+", first)}.isdisjoint(_TEXTS)


def _is_text(file: str) -> bool:
    return posixpath.splitext(file)[1].lower() in TEXT_FILES


def text_files(images: Iterable[str], files: Iterable[str]) -> dict[str, str]:
    """The text file that belongs to an image, by image: `a.txt` or `a.png.txt` for `a.png`.

    The case of the extension does not matter; `.txt` comes before `.caption`.
    """
    texts = filter(_is_text, files)
    by_name = {plain_name(stem(file)): file for file in sorted(texts, key=_rank, reverse=True)}
    found = {n: by_name.get(plain_name(stem(n))) or by_name.get(plain_name(n)) for n in images}
    return {name: file for name, file in found.items() if file}


def _rank(file: str) -> tuple[int, str]:
    """Orders text files by their extension, then by name; of two for one image the first counts."""
    return TEXT_FILES.index(posixpath.splitext(file)[1].lower()), file


def read_text_files(root: epath.Path, file_of: Mapping[str, str]) -> dict[str, list[str]]:
    """Captions by image from text files, one in each; line breaks become spaces.

    Rows of numbers, as YOLO writes boxes, are no captions: such images are missing.
    """
    texts = in_threads(lambda file: read_text(root / file), list(file_of.values()))
    pairs = zip(file_of, texts, strict=True)
    return {name: texts_of(text) for name, text in pairs if not is_label_file(text)}


def is_label_file(text: str) -> bool:
    """Whether a text is rows of five or more numbers, as YOLO writes boxes, and no caption."""
    rows = [line.split() for line in lines_of(text) if line.strip()]
    return bool(rows) and all(len(row) >= 5 and all(map(_NUMBER.fullmatch, row)) for row in rows)
