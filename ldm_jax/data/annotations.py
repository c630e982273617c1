"""Files of annotations: which image each entry belongs to, and captions."""

import json
import os
import posixpath
import reprlib
from collections.abc import Collection

from etils import epath

from ldm_jax.data.images import in_threads
from ldm_jax.errors import UserError

CAPTIONS = "captions.jsonl"


def visible_files(root: epath.Path) -> set[str]:
    """The names of all files below `root`, hidden ones and those in hidden folders left out."""
    names = set()
    local = "://" not in str(root)  # where folders may be links, which epath does not follow
    for folder, _, files in os.walk(root, followlinks=True) if local else root.walk():
        inner = epath.Path(folder).relative_to(root).as_posix()
        names |= {posixpath.normpath(f"{inner}/{file}") for file in files}
    return {n for n in names if not any(part.startswith(".") for part in n.split("/"))}


def read_text(path: epath.Path) -> str:
    """The text of a file. UserError where it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8-sig", "replace")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def read_json(path: epath.Path):
    """The content of a JSON file. UserError for malformed JSON."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error


def stem(name: str) -> str:
    """The name of a file without its extension, with its folder."""
    return posixpath.splitext(name)[0]


def match_names(names: Collection[str], keys: Collection[str], path) -> dict[str, str]:
    """Matches the names of images with the keys of a file of annotations: {name: key}.

    Names are relative to the folder of images; a key may have fewer or more parent folders. A key
    matches the name that equals it, or else a name that ends with it ('a.jpg' and 'train/a.jpg')
    or that it ends with ('val2017/a.jpg' and 'a.jpg'). Names without a key are missing.
    path: where the keys are from, for the UserError when none matches, or one matches two names.
    """
    found = {name: name for name in names if name in keys}
    free = {key for key in keys if key not in found}
    longer: dict[str, list[str]] = {}
    for key in free:
        for end in _ends(key):
            longer.setdefault(end, []).append(key)
    names_of: dict[str, str] = {}
    for name in names:
        if name in found:
            continue
        fits = [end for end in _ends(name) if end in free][:1] or sorted(longer.get(name, []))
        if len(fits) > 1:
            raise UserError(f"{path}: {fits[0]!r} and {fits[1]!r} could both be {name!r}")
        for key in fits:
            if other := names_of.get(key):
                raise UserError(f"{path}: {key!r} could be {other!r} or {name!r}; name its folder")
            names_of[key] = name
            found[name] = key
    if not found:
        there, here = min(keys, default="nothing"), min(names, default="none")
        raise UserError(f"{path} names none of the images: there {there!r}, here {here!r}")
    return found


def _ends(path: str) -> list[str]:
    """The path without its first folders: 'a/b/c' -> ['b/c', 'c']."""
    parts = path.split("/")
    return ["/".join(parts[i:]) for i in range(1, len(parts))]


def read_captions(path: epath.Path) -> dict[str, list[str]]:
    """The captions in a file, by the names that it gives to the images.

    A .jsonl has lines `{"file": "a/b.jpg", "caption": "..."}` ("file_name" and "text" are
    accepted too; several lines for one image are several captions). A JSON file is COCO's,
    `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}`, or
    `{"a/b.jpg": "a caption" or ["one", "another"]}`. UserError for anything else.
    """
    if path.suffix.lower() == ".jsonl":
        return _captions_by_line(path)
    content = read_json(path)
    try:
        if not isinstance(content, dict):
            raise TypeError(f"got a {type(content).__name__}")
        if {"images", "annotations"} <= content.keys():
            name_of = {image["id"]: image["file_name"] for image in content["images"]}
            pairs = [(name_of[a["image_id"]], [a["caption"]]) for a in content["annotations"]]
        else:
            pairs = [(k, [v] if isinstance(v, str) else v) for k, v in content.items()]
        captions: dict[str, list[str]] = {}
        for name, texts in pairs:
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise TypeError(f"{reprlib.repr(texts)} is not a caption")
            clean = [" ".join(text.split()) for text in texts]
            captions.setdefault(posixpath.normpath(name), []).extend(clean)
    except (KeyError, TypeError) as error:
        raise UserError(
            f'{path} holds no captions: expected those of COCO ("images", "annotations" with '
            '"image_id" and "caption") or {"FILE": "CAPTION"}; '
            + (f"{error} is missing" if isinstance(error, KeyError) else str(error))
        ) from error
    return captions


def _captions_by_line(path: epath.Path) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name = entry.get("file") or entry["file_name"]
            text = entry["caption"] if "caption" in entry else entry["text"]
            captions.setdefault(posixpath.normpath(name), []).append(str(text))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(
                f'{path}, line {number}: expected {{"file": "NAME", "caption": "TEXT"}}, '
                f"got {line[:80]}"
            ) from error
    return captions


def listed_captions(root: epath.Path, top: str, files: set[str]) -> dict[str, list[str]]:
    """Captions by image from `captions.jsonl` in `root` and in its folder `top`."""
    captions: dict[str, list[str]] = {}
    for folder in sorted({"", top}):
        if folder + CAPTIONS not in files:
            continue
        path = root / folder / CAPTIONS
        for name, texts in read_captions(path).items():
            captions.setdefault(posixpath.normpath(folder + name), []).extend(texts)
        if not captions.keys() & files:
            raise UserError(f"{path} names none of the files in {root} but {[*captions][:1]}")
    return captions


def captions_in_text_files(
    root: epath.Path, names: list[str], files: set[str]
) -> dict[str, list[str]]:
    """Captions by image from text files of the same name; line breaks become spaces."""
    text_file = {name: f"{stem(name)}.txt" for name in names}
    with_text = [name for name in names if text_file[name] in files]
    texts = in_threads(lambda name: read_text(root / text_file[name]), with_text)
    return {name: [" ".join(text.split())] for name, text in zip(with_text, texts, strict=True)}
