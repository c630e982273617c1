"""examples/emoji.py: plain names, variants of one drawing on one side, a folder to train on."""

import importlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.folder import FolderConfig, FolderSource

FOLDER = Path(__file__).parents[2] / "examples"
SPLITS = ("train", "validation")


@pytest.fixture
def emoji(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("emoji")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("emoji_u1f600.png", "grinning face"),
        ("emoji_u1f44b_1f3fb.png", "waving hand sign, light skin tone"),
        ("emoji_u1f46e_1f3fd_200d_2640.png", "woman police officer, medium skin tone"),
        ("emoji_u1f64e_1f3fe_200d_2642_fe0f.png", "man with pouting face, medium-dark skin tone"),
        ("emoji_u1f9ce_200d_2642_200d_27a1.png", "kneeling man facing right"),
        ("emoji_u1f469_1f3ff_200d_1f680.png", "woman astronaut, dark skin tone"),
        ("emoji_u1f9d1_200d_1f680.png", "astronaut"),
        ("emoji_u1f468_1f3fc_200d_1f9b0.png", "man with red hair, medium-light skin tone"),
        (
            "emoji_u1f469_1f3fd_200d_2764_200d_1f48b_200d_1f468_1f3ff.png",
            "woman and man kissing, medium and dark skin tone",
        ),
        (
            "emoji_u1f469_1f3fd_200d_1f91d_200d_1f468_1f3fd.png",
            "woman and man holding hands, medium skin tone",
        ),
        ("emoji_u1f468_200d_1f469_200d_1f467.png", "family of man and woman and girl"),
        ("emoji_u1f408_200d_2b1b.png", "black cat"),
        ("emoji_u1f90d.png", "white heart"),
        ("emoji_u27a1.png", "rightwards arrow"),
        ("emoji_u2764_200d_1f525.png", "red heart with fire"),
        ("emoji_u0023_20e3.png", "keycap number sign"),
        ("emoji_u1f170.png", "letter a"),
        ("emoji_u2640.png", "female sign"),
    ],
)
def test_names_are_plain_words(emoji, file, words):
    assert emoji.words_of(emoji.codes_of(file)) == words


@pytest.mark.parametrize(
    "variants",
    [
        ("1f44b", "1f44b_1f3fb", "1f44b_1f3ff"),
        ("1f46e", "1f46e_200d_2640", "1f46e_1f3fd_200d_2642"),
        ("1f9d1_200d_1f680", "1f469_1f3ff_200d_1f680", "1f468_200d_1f680"),
        ("1f3c3", "1f3c3_200d_27a1", "1f3c3_1f3fb_200d_2640_200d_27a1"),
        ("1f46b", "1f46d_1f3fb", "1f9d1_1f3fb_200d_1f91d_200d_1f9d1_1f3ff"),
        ("1f48f_1f3fd", "1f469_200d_2764_200d_1f48b_200d_1f468"),
        ("1f46a", "1f468_200d_1f467", "1f469_200d_1f469_200d_1f466"),
        ("1f91d_1f3fb", "1faf1_1f3fb_200d_1faf2_1f3ff"),
    ],
)
def test_variants_of_one_drawing(emoji, variants):
    drawings = {emoji.drawing_of(emoji.codes_of(f"emoji_u{one}.png")) for one in variants}
    assert len(drawings) == 1


def test_other_drawings(emoji):
    names = ("0023", "0023_20e3", "1f44b", "1f468_200d_1f680", "1f468_200d_1f692", "1f46a", "2640")
    assert len({emoji.drawing_of(emoji.codes_of(f"emoji_u{name}.png")) for name in names}) == 7


def drawn(number):
    """A disc on nothing."""
    pixels = np.zeros((24, 24, 4), np.uint8)
    y, x = np.mgrid[:24, :24]
    pixels[(y - 12) ** 2 + (x - 12) ** 2 < 60] = (number % 256, number // 256, 90, 255)
    return Image.fromarray(pixels, "RGBA")


@pytest.fixture
def archive(tmp_path):
    """A zip of drawings: ten of them in three tones, one without a name."""
    names = [f"{code:x}" for code in range(0x1F400, 0x1F43C)]  # animals
    names += [f"{c:x}{t}" for c in range(0x1F446, 0x1F450) for t in ("", "_1f3fb", "_1f3ff")]
    with zipfile.ZipFile(tmp_path / "drawings.zip", "w") as file:
        for i, name in enumerate([*names, "e000"]):
            with file.open(f"png/emoji_u{name}.png", "w") as entry:
                drawn(i).save(entry, "png")
        file.writestr("LICENSE", "")
    return tmp_path / "drawings.zip"


def test_a_folder_to_train_on(emoji, archive, tmp_path, capsys):
    out = tmp_path / "folder"
    emoji.main([str(archive), str(out)])
    assert "90 images of 70 drawings" in (said := capsys.readouterr().out)
    assert "left out: 1 without a name" in said and "emoji_ue000.png" in said
    sources = {s: FolderSource(FolderConfig(path=str(out), size=16), s, 0) for s in SPLITS}
    assert sum(map(len, sources.values())) == 90
    captions = {
        split: [text for (text,) in source.texts(range(len(source)))]
        for split, source in sources.items()
    }
    assert "down pointing backhand index, dark skin tone" in sum(captions.values(), [])
    # Transparent is white
    assert (sources["train"].read([0])["image"][0, 0, 0] == 255).all()

    rows = [json.loads(line) for line in (out / "captions.jsonl").read_text().splitlines()]
    side = {}
    for row in rows:
        split, name = row["file"].split("/")
        side.setdefault(name.removesuffix(".png").split("_")[1], set()).add(split)
    assert len(side) == 70 and all(len(splits) == 1 for splits in side.values())
    assert 0 < sum(splits == {"validation"} for splits in side.values()) < 12

    # Nobody's files are written over
    with pytest.raises(SystemExit) as ended:
        emoji.main([str(archive), str(out)])
    assert ended.value.code == 2 and "exists already" in capsys.readouterr().err


def test_what_is_no_set_of_drawings_is_refused(emoji, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for path, what in (("empty", "no file is called like"), ("nowhere", "neither a folder nor")):
        with pytest.raises(SystemExit) as ended:
            emoji.main([str(tmp_path / path), str(tmp_path / "out")])
        assert ended.value.code == 2 and what in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
