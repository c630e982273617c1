"""Noto Emoji as a folder of images with captions, to train `emoji-64` on.

    python examples/emoji.py DRAWINGS OUT
    python train.py emoji-64 --data.path OUT

DRAWINGS is a folder or a .zip with files such as emoji_u1f44b_1f3fd.png, whose names are the
numbers of their characters: the folder png/128 of https://github.com/googlefonts/noto-emoji (its
images are under the Apache licence 2.0). OUT gets them as they are, in `train` and `validation`,
and `captions.jsonl`: the characters' Unicode names, in plain words.

Most people and hands come in five skin tones, and often as woman, man and person. These are
variants of one drawing, and are either all trained on or all held out: otherwise a held-out image
would be known already.
"""

import argparse
import hashlib
import json
import sys
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

Codes = tuple[int, ...]
"""The characters of an emoji."""
Parts = tuple[Codes, ...]
"""The emoji that make one, where a joiner stands between them: a woman, a rocket."""

HELD_OUT = 0.05  # of the drawings
JOINER, EMOJI_STYLE, KEYCAP = 0x200D, 0xFE0F, 0x20E3
TONES = {
    0x1F3FB: "light",
    0x1F3FC: "medium-light",
    0x1F3FD: "medium",
    0x1F3FE: "medium-dark",
    0x1F3FF: "dark",
}
GENDERS, TO_THE_RIGHT = {"female sign": "woman", "male sign": "man"}, "rightwards arrow"
ADULT, CHILD, HEART, KISS, HANDSHAKE = 0x1F9D1, 0x1F9D2, 0x2764, 0x1F48B, 0x1F91D
PERSONS = {0x1F468: ADULT, 0x1F469: ADULT, 0x1F466: CHILD, 0x1F467: CHILD}
FAMILY = 0x1F46A
# One character for what is also written with several
WHOLE = {
    **dict.fromkeys((0x1F46B, 0x1F46C, 0x1F46D), ((ADULT,), (HANDSHAKE,), (ADULT,))),
    0x1F48F: ((ADULT,), (HEART,), (KISS,), (ADULT,)),
    0x1F491: ((ADULT,), (HEART,), (ADULT,)),
    HANDSHAKE: ((0x1FAF1,), (0x1FAF2,)),  # a right hand, a left hand
}
JARGON = {"capital", "component", "emoji", "indicator", "latin", "negative", "regional", "squared"}
# In a name of Unicode, black and white mean filled and not, but for these
COLOURED = {"circle", "flag", "hair", "heart", "pawn", "square"}
PLAIN = {"adult": "person", "heavy black heart": "red heart"}
COLOURS = {"black large square": "black", "large green square": "green"}
COLOURS |= {"large brown square": "brown"}
# What a person with a thing is, and how it looks
JOBS = {
    "airplane": "pilot",
    "artist palette": "artist",
    "briefcase": "office worker",
    "cooking": "cook",
    "ear of rice": "farmer",
    "factory": "factory worker",
    "fire engine": "firefighter",
    "graduation cap": "student",
    "microphone": "singer",
    "microscope": "scientist",
    "personal computer": "technologist",
    "rocket": "astronaut",
    "scales": "judge",
    "school": "teacher",
    "staff of aesculapius": "health worker",
    "wrench": "mechanic",
}
DETAILS = {
    "baby bottle": "feeding a baby",
    "bald": "without hair",
    "christmas tree": "in the clothes of santa claus",
    "curly hair": "with curly hair",
    "manual wheelchair": "in a manual wheelchair",
    "motorized wheelchair": "in a motorized wheelchair",
    "probing cane": "with a white cane",
    "red hair": "with red hair",
    "white hair": "with white hair",
}


def codes_of(name: str) -> Codes:
    """The characters that the name of a file says; ValueError for another name."""
    stem = Path(name).stem
    if not stem.startswith("emoji_u"):
        raise ValueError(f"{name} is not called like emoji_u1f600.png")
    return tuple(int(code, 16) for code in stem.removeprefix("emoji_u").split("_"))


def parts_of(codes: Codes) -> Parts:
    """Divides characters at the joiners."""
    parts: list[list[int]] = [[]]
    for code in codes:
        if code == JOINER:
            parts.append([])
        elif code != EMOJI_STYLE:
            parts[-1].append(code)
    return tuple(map(tuple, parts))


def words_of(codes: Codes) -> str:
    """The name of an emoji in plain words: 'woman pilot, dark skin tone'.

    ValueError for a character that this Python's Unicode does not know.
    """
    parts = parts_of(codes)
    names = [_name(part) for part in parts]
    tones = [TONES[code] for part in parts for code in part if code in TONES]
    right = TO_THE_RIGHT in names[1:]
    genders = [GENDERS[name] for name in names[1:] if name in GENDERS]
    others = [name for name in names[1:] if name not in (*GENDERS, TO_THE_RIGHT)]
    text = _joined([names[0], *others])
    for gender in genders:
        words = text.split()
        if person := next((word for word in words if word in ("person", "man", "woman")), None):
            words[words.index(person)] = gender
        else:
            words = [gender, *words]
        text = " ".join(words)
    text += " facing right" if right else ""
    return text + (f", {' and '.join(dict.fromkeys(tones))} skin tone" if tones else "")


def _name(part: Codes) -> str:
    """The name of one emoji without its skin tone."""
    said = []
    for code in part:
        if code not in (*TONES, KEYCAP):
            words = unicodedata.name(chr(code)).lower().split()
            left_out = JARGON if COLOURED & {*words} else JARGON | {"black", "white"}
            name = " ".join(word for word in words if word not in left_out)
            said.append(PLAIN.get(name, name))
    text = " ".join(said)
    return f"keycap {text}".strip() if KEYCAP in part else text


def _joined(names: list[str]) -> str:
    first, *others = names
    match others:
        case []:
            return first
        case [thing] if thing in JOBS and first == "person":
            return JOBS[thing]
        case [thing] if thing in {**JOBS, **DETAILS}:
            return f"{first} {JOBS.get(thing) or DETAILS[thing]}"
        case [square] if square in COLOURS:
            return f"{COLOURS[square]} {first}"
        case ["handshake", second]:
            return f"{first} and {second} holding hands"
        case ["red heart", second]:
            return f"{first} and {second} with a heart"
        case ["red heart", "kiss mark", second]:
            return f"{first} and {second} kissing"
        case ["leftwards hand"]:
            return "handshake"
    if {first, *others} <= {"person", "man", "woman", "child", "boy", "girl"}:
        return f"family of {' and '.join(names)}"
    return f"{first} with {' and '.join(others)}"


def drawing_of(codes: Codes) -> Parts:
    """What the variants of one drawing have in common: all but tone, gender and direction."""
    aside = {0x2640, 0x2642, 0x27A1}  # female and male sign, arrow to the right
    parts = parts_of(codes)
    kept = [tuple(PERSONS.get(code, code) for code in part if code not in TONES) for part in parts]
    kept = [kept[0], *(part for part in kept[1:] if not set(part) <= aside)]
    if len(kept) == 1 and len(kept[0]) == 1:
        kept = list(WHOLE.get(kept[0][0], kept))
    if len(kept) > 1 and all(part in ((ADULT,), (CHILD,)) for part in kept):
        return ((FAMILY,),)
    return tuple(kept)


def is_held_out(drawing: Parts) -> bool:
    """Whether a drawing is held out: its characters alone decide."""
    name = "_200d_".join("_".join(f"{code:x}" for code in part) for part in drawing)
    digest = hashlib.blake2b(name.encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48 < HELD_OUT


def files_in(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each PNG in a folder or a .zip."""
    if path.is_dir():
        for file in sorted(path.glob("*.png")):
            yield file.name, file.read_bytes()
        return
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".png"):
                yield Path(name).name, archive.read(name)


def prepare(files: Iterable[tuple[str, bytes]], out: Path) -> str:
    """Writes the folder to train on, and says what it holds. ValueError if there is no drawing."""
    content, captions, unknown = {}, {}, []
    for name, data in files:
        try:
            captions[name] = words_of(codes_of(name))
        except ValueError:  # such as of a Unicode newer than this Python
            unknown.append(name)
            continue
        content[name] = data
    if not content:
        raise ValueError("no file is called like emoji_u1f600.png")
    drawings = {name: drawing_of(codes_of(name)) for name in content}
    side = {name: "validation" if is_held_out(drawings[name]) else "train" for name in content}
    for split in ("train", "validation"):
        (out / split).mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (out / side[name] / name).write_bytes(data)
    rows = ({"file": f"{side[name]}/{name}", "caption": captions[name]} for name in content)
    (out / "captions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    held_out = sum(split == "validation" for split in side.values())
    text = f"{len(content)} images of {len(set(drawings.values()))} drawings, {held_out} held out"
    if unknown:
        version = unicodedata.unidata_version
        text += f"; left out: {len(unknown)} without a name in Unicode {version}: {unknown[0]}"
    return text


def main(words: list[str]) -> None:
    """`python examples/emoji.py DRAWINGS OUT`."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("drawings", type=Path, help="a folder or a .zip of emoji_u*.png")
    arguments.add_argument("out", type=Path, help="a new folder")
    options = arguments.parse_args(words)
    if options.out.exists():
        arguments.error(f"{options.out} exists already")
    if not (options.drawings.is_dir() or zipfile.is_zipfile(options.drawings)):
        arguments.error(f"{options.drawings} is neither a folder nor a .zip")
    try:
        print(f"{options.out}: {prepare(files_in(options.drawings), options.out)}")
    except (ValueError, OSError) as error:
        arguments.error(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
