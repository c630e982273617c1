"""Files that list captions: JSON Lines, tables, and JSON of COCO or by file name."""

import csv
import io
import json
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from etils import epath

from ldm_jax.data.annotations import LeftOut, plain_id, plain_name, read_json
from ldm_jax.errors import UserError
from ldm_jax.text_files import read_text

NAME_KEYS = ("file", "file_name", "filename", "image")
"""What the name of an image is called in a row."""
TEXT_KEYS = ("caption", "captions", "text", "prompt")
"""What its caption is called, or its captions."""
_FORMS = '.jsonl with lines {"file": "NAME", "caption": "TEXT"}'


class Captions(NamedTuple):
    """Captions by the names that their file gives to the images."""

    texts: dict[str, list[str]]  # none for an image that is listed without
    remarks: tuple[str, ...] = ()  # what is not used


def read_captions(path: epath.Path) -> Captions:
    """The captions in a file.

    A .jsonl has lines `{"file": "a/b.jpg", "caption": "..."}`, a .csv, .tsv or .txt has such
    columns ("file_name" and "text" are accepted too); several lines are several captions. A
    JSON file is COCO's, `{"images": [{"id", "file_name"}], "annotations": [{"image_id",
    "caption"}]}`, or `{"a/b.jpg": "a caption"}`. Everywhere a list is several captions, and null or
    an empty text is none. UserError for anything else.
    """
    if path.suffix.lower() == ".jsonl":
        return Captions(_gathered(_rows_of_lines(path)))
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
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
    # Half of an emoji, where a program has cut a text in JSON, is no text.
    whole = (one.encode(errors="ignore").decode() for one in values)
    return [text for text in (" ".join(one.split()) for one in whole) if text]


def _gathered(pairs: Iterable[tuple[str, list[str]]]) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for name, texts in pairs:
        captions.setdefault(plain_name(name), []).extend(texts)
    return captions


def _entry(row: Mapping) -> tuple[str, list[str]]:
    """The image and the captions of a row. KeyError, TypeError, AttributeError: it has none."""
    fields = {str(key).strip().lower(): value for key, value in row.items()}
    name, text = (
        fields[next((key for key in keys if key in fields), keys[0])]
        for keys in (NAME_KEYS, TEXT_KEYS)
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
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in rows:
            if None in row:
                raise TypeError("more columns than the header: texts with commas need quotes")
            yield _entry(row)
    except (KeyError, TypeError, csv.Error) as error:
        reason = "" if isinstance(error, KeyError) else f"; {error}"
        raise UserError(
            f"{path}, line {rows.line_num}: expected a column for the file "
            f"({', '.join(NAME_KEYS)}) and one for the caption ({', '.join(TEXT_KEYS)}), the "
            f"header is {header.strip()[:80]!r}{reason}"
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
    remarks = (left_out.summary(total, f"captions in {path}"),) if len(left_out) else ()
    return Captions(captions, remarks)
