"""Captions of a folder of images: from lists, and from a text file beside each image."""

import json
import posixpath
import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from etils import epath

from ldm_jax.data.annotations import match_names, plain_name, stem
from ldm_jax.data.caption_files import TEXT_KEYS, Captions, read_captions, texts_of
from ldm_jax.data.images import in_threads
from ldm_jax.data.listing import visible_files
from ldm_jax.errors import UserError
from ldm_jax.text_files import lines_of, read_text

CAPTIONS = "captions.jsonl"
LISTS = (CAPTIONS, "metadata.jsonl", "metadata.csv")
"""Files in a folder of images that list their captions: ours, and those of Hugging Face."""
TEXT_FILES = (".txt", ".caption")
"""Extensions of a text file beside an image that is its caption."""
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


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
        texts, remarks = captions_of_images(path, images)
        found = FoundCaptions(texts, set(), True, remarks)
    else:
        (listed, remarks), lists = listed_captions(root, images, files)
        file_of = text_files([name for name in images if name not in listed], files)
        beside = read_text_files(root, file_of)
        if labels := [file for name, file in file_of.items() if name not in beside]:
            remarks += (
                f"{len(labels)} text files such as {labels[0]} hold rows of numbers, as files of "
                f"boxes do, and are not read as captions; --data.boxes {root} reads boxes as YOLO "
                f"writes them; captions of numbers go into a {CAPTIONS}",
            )
            beside = beside if any(beside.values()) else {}  # the others are of no object
        files = lists | set(file_of.values())
        found = FoundCaptions({**beside, **listed}, files, bool(listed), remarks)
    if found.texts and not any(found.texts.values()):
        raise UserError(f"the captions of the images in {root} are all empty")
    return found


def captions_of_images(path: epath.Path, images: Collection[str]) -> Captions:
    """The captions of `images` in a file (`read_captions`), or in a folder of text files.

    Images that are not named there are missing. UserError where none is, and for malformed files.
    """
    if not path.is_dir():
        listed = read_captions(path)
        found = match_names(images, listed.texts, path)
        remarks = listed.remarks
        if others := listed.texts.keys() - set(found.values()):
            n = len(listed.texts)
            remarks += (
                f"{len(others)} of {n} names in {path} are of no image here: {min(others)}",
            )
        return Captions({name: listed.texts[key] for name, key in found.items()}, remarks)
    there = {stem(file): file for file in sorted(visible_files(path)) if _is_text(file)}
    if not there:
        raise UserError(f"no captions in {path}; looked for text files named like the images")
    key_of = match_names({stem(name) for name in images}, there, path)
    file_of = {name: there[key_of[stem(name)]] for name in images if stem(name) in key_of}
    return Captions(read_text_files(path, file_of))


def listed_captions(
    root: epath.Path, images: Collection[str], files: Collection[str]
) -> tuple[Captions, set[str]]:
    """Captions by image from the `LISTS` in `root` and in the folders below it, and their files.

    Names in a list are relative to its folder. In a folder with several lists the first counts.
    UserError for a malformed list, and for one that names none of the images.
    """
    captions, remarks = {}, ()
    read: dict[str, str] = {}  # by folder
    there = [f for name in LISTS for f in sorted(files) if posixpath.basename(f) == name]
    for file in there:
        folder, path = file.removesuffix(posixpath.basename(file)), root / file
        if folder in read or not _has_captions(path):
            continue
        read[folder] = file
        inside = {name.removeprefix(folder): name for name in images if name.startswith(folder)}
        found = captions_of_images(path, inside)
        remarks += found.remarks
        for name, texts in found.texts.items():
            captions.setdefault(inside[name], []).extend(texts)
    return Captions(captions, remarks), set(read.values())


def _has_captions(path: epath.Path) -> bool:
    """Whether a list is of captions. Hugging Face lists other things in `metadata` files too."""
    if not path.name.startswith("metadata"):
        return True
    lines = read_text(path).strip().split("\n")
    if path.suffix == ".csv":
        return not {*re.findall(r"\w+", lines[0].lower())}.isdisjoint(TEXT_KEYS)
    return any(_is_row_of_captions(line) for line in lines)


def _is_row_of_captions(line: str) -> bool:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # what is wrong with it says whoever reads all of it
        return bool(line.strip())
    return isinstance(row, dict) and any(str(key).strip().lower() in TEXT_KEYS for key in row)


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

    Rows of numbers, as files of boxes have them, are no captions: such images are missing.
    """
    texts = in_threads(lambda file: read_text(root / file), list(file_of.values()))
    pairs = zip(file_of, texts, strict=True)
    return {name: texts_of(text) for name, text in pairs if not is_label_file(text)}


def is_label_file(text: str) -> bool:
    """Whether a text is rows of numbers as of boxes, and no caption.

    Each has five words or more, all of them numbers but for the name of a class, and commas or
    spaces between them: boxes and polygons of YOLO, KITTI and DOTA.
    """
    rows = [re.findall(r"[^\s,]+", line) for line in lines_of(text) if line.strip()]
    return bool(rows) and all(map(_is_row_of_numbers, rows))


def _is_row_of_numbers(words: list[str]) -> bool:
    return len(words) >= 5 and sum(map(bool, map(_NUMBER.fullmatch, words))) >= len(words) - 1
