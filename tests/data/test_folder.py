"""A folder of images: layouts, captions, classes, splits, damaged files."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.folder import FolderSource
from ldm_jax.data.loader import Loader
from ldm_jax.data.source import in_memory
from ldm_jax.errors import UserError


def paint(path: Path, value: int, size=(12, 10), mode="L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).convert(mode).save(path)


def flat(folder: Path, n: int = 10, mode: str = "L") -> Path:
    for i in range(n):
        paint(folder / f"{i:02}.png", 10 * i, mode=mode)
    return folder


def truncate(path: Path) -> None:
    """Leaves the header and half of the pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 60), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1500])


def values(source) -> list[int]:
    return source.read(range(len(source)))["image"][:, 4, 4, 0].tolist()


def train(path, **options):
    return FolderSource(path, 8, validation=0, progress=None, **options)


def both(path, **options):
    return [
        FolderSource(path, 8, split, progress=None, **options) for split in ("train", "validation")
    ]


def test_a_flat_folder_holds_pictures_only(tmp_path):
    source = train(flat(tmp_path))
    batch = source.read([0, 3])
    assert batch.keys() == {"image"} and source.class_names is None
    assert batch["image"].shape == (2, 8, 8, 1) and batch["image"].dtype == np.uint8
    assert sorted(values(source)) == list(range(0, 100, 10)) and source.channels == 1


@pytest.mark.parametrize("extension", "jpg JPEG png PNG bmp webp gif tif TIFF".split())
def test_every_extension_in_either_case_is_read(tmp_path, extension):
    Image.new("RGB", (9, 9), (90, 90, 90)).save(tmp_path / f"picture.{extension}")
    assert abs(values(train(tmp_path))[0] - 90) < 3


def test_hidden_and_other_files_are_ignored(tmp_path):
    flat(tmp_path, 3)
    paint(tmp_path / ".hidden.png", 200)
    paint(tmp_path / ".thumbnails" / "00.png", 200)
    (tmp_path / "README.md").write_text("not a picture")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    source = train(tmp_path)
    assert sorted(values(source)) == [0, 10, 20] and not source.unreadable


@pytest.mark.parametrize(("modes", "channels"), [("LL", 1), ("L1", 1), ("LRGB", 3)])
def test_channels_are_grey_only_where_every_image_is(tmp_path, modes, channels):
    paint(tmp_path / "a.png", 9, mode="L")
    paint(tmp_path / "b.png", 9, mode=modes[1:])
    assert train(tmp_path).read([0, 1])["image"].shape == (2, 8, 8, channels)
    assert train(tmp_path, channels=3).channels == 3
    assert train(tmp_path, channels=1).read([0])["image"].shape == (1, 8, 8, 1)


def test_sub_folders_are_classes_in_order_of_their_names(tmp_path):
    for value, name in enumerate(["dog", "ant", "cat"]):
        for i in range(3):
            paint(tmp_path / name / f"{i}.png", value)
    paint(tmp_path / "cat" / "deeper" / "x.png", 2)
    source = train(tmp_path)
    batch = source.read(range(10))
    assert source.class_names == ("ant", "cat", "dog") and batch["class_label"].dtype == np.int32
    want = {0: 2, 1: 0, 2: 1}
    assert batch["class_label"].tolist() == [want[v] for v in batch["image"][:, 0, 0, 0].tolist()]


def test_linked_folders_count(tmp_path):
    flat(tmp_path / "elsewhere", 3)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert len(train(tmp_path / "set")) == 3


def test_images_beside_class_folders_are_refused(tmp_path):
    flat(tmp_path, 2)
    paint(tmp_path / "cat" / "0.png", 0)
    with pytest.raises(UserError, match="cat"):
        train(tmp_path)


@pytest.mark.parametrize("keys", [("file", "caption"), ("file_name", "text")])
def test_captions_from_a_list_also_name_nested_images(tmp_path, keys):
    paint(tmp_path / "a.png", 10)
    paint(tmp_path / "deep" / "er" / "b.png", 20)
    lines = [("a.png", "ein Bär"), ("./deep/er/b.png", "a boat")]
    (tmp_path / "captions.jsonl").write_text(
        "\n".join(json.dumps(dict(zip(keys, line, strict=True))) for line in lines) + "\n\n",
        encoding="utf-8",
    )
    source = train(tmp_path)
    batch = source.read([0, 1])
    found = dict(zip(batch["image"][:, 0, 0, 0].tolist(), batch["caption"], strict=True))
    assert found == {10: "ein Bär", 20: "a boat"} and batch["caption"].dtype == object
    assert source.class_names is None


def test_captions_from_a_text_file_beside_each_image(tmp_path):
    for i in range(3):
        paint(tmp_path / f"{i}.png", i)
        (tmp_path / f"{i}.txt").write_text(f"a picture\nof {i}\n")
    batch = train(tmp_path).read(range(3))
    for value, caption in zip(batch["image"][:, 0, 0, 0], batch["caption"], strict=True):
        assert caption == f"a picture of {value}"


def test_a_missing_caption_is_empty_and_counted(tmp_path, caplog):
    flat(tmp_path, 3)
    (tmp_path / "01.txt").write_text("the only one")
    source = train(tmp_path)
    assert sorted(source.read(range(3))["caption"]) == ["", "", "the only one"]
    assert "2 of 3" in caplog.text


def test_one_of_several_captions_is_drawn_by_the_generator(tmp_path):
    paint(tmp_path / "a.png", 0)
    lines = [json.dumps({"file": "a.png", "caption": text}) for text in ("one", "two", "three")]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    source = train(tmp_path)
    assert source.read([0])["caption"].tolist() == ["one"]
    drawn = {source.read([0], [np.random.default_rng(i)])["caption"][0] for i in range(30)}
    assert drawn == {"one", "two", "three"} and in_memory(source) is source


@pytest.mark.parametrize("line", ["not json", '{"file": "00.png"}', "[1]", '{"caption": "x"}'])
def test_a_bad_line_of_captions_is_named(tmp_path, line):
    flat(tmp_path, 2)
    (tmp_path / "captions.jsonl").write_text('{"file": "00.png", "caption": "x"}\n' + line)
    with pytest.raises(UserError, match="line 2"):
        train(tmp_path)


def test_a_list_of_captions_for_other_files_is_refused(tmp_path):
    flat(tmp_path, 2)
    (tmp_path / "captions.jsonl").write_text('{"file": "elsewhere.png", "caption": "x"}')
    with pytest.raises(UserError, match="elsewhere.png"):
        train(tmp_path)


def test_a_held_out_part_is_disjoint_seeded_and_complete(tmp_path):
    flat(tmp_path, 20)
    rest, held = (values(s) for s in both(tmp_path, validation=0.2, seed=1))
    assert len(held) == 4 and sorted(rest + held) == list(range(0, 200, 10))
    assert [values(s) for s in both(tmp_path, validation=0.2, seed=1)] == [rest, held]
    assert set(values(both(tmp_path, validation=0.2, seed=2)[1])) != set(held)


@pytest.mark.parametrize("name", ["val", "validation"])
def test_split_folders_are_honoured(tmp_path, name):
    for i in range(4):
        paint(tmp_path / "train" / "ab"[i % 2] / f"{i}.png", i)
    paint(tmp_path / name / "b" / "9.png", 9)
    rest, held = both(tmp_path)
    assert sorted(values(rest)) == [0, 1, 2, 3] and values(held) == [9]
    assert rest.class_names == held.class_names == ("a", "b")
    assert held.read([0])["class_label"].tolist() == [1]


def test_split_folders_may_have_captions_in_one_list_or_their_own(tmp_path):
    paint(tmp_path / "train" / "0.png", 0)
    paint(tmp_path / "val" / "1.png", 1)
    (tmp_path / "captions.jsonl").write_text(
        '{"file": "train/0.png", "caption": "zero"}\n{"file": "val/1.png", "caption": "one"}'
    )
    assert [s.read([0])["caption"][0] for s in both(tmp_path)] == ["zero", "one"]
    (tmp_path / "captions.jsonl").unlink()
    (tmp_path / "train" / "captions.jsonl").write_text('{"file": "0.png", "caption": "nil"}')
    (tmp_path / "val" / "1.txt").write_text("uno")
    assert [s.read([0])["caption"][0] for s in both(tmp_path)] == ["nil", "uno"]


@pytest.mark.parametrize("memory_bytes", [2e9, 0])
@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_a_damaged_image_is_reported_by_name_and_left_out(tmp_path, caplog, damage, memory_bytes):
    flat(tmp_path, 6)
    bad = tmp_path / "03.png"
    truncate(bad) if damage == "truncated" else bad.write_bytes(b"hello" * (damage == "text"))
    with caplog.at_level(logging.WARNING):
        source = train(tmp_path, memory_bytes=memory_bytes)
        read = values(source)
    assert {0, 10, 20, 40, 50} == set(read)
    assert list(source.unreadable) == ["03.png"] and "03.png" in caplog.text
    assert sum("cannot read the image" in r.message for r in caplog.records) == 1
    if memory_bytes:
        assert len(source) == 5 and "1 of 6" in caplog.text


def test_a_damaged_image_takes_its_successors_caption_and_class_too(tmp_path):
    for i in range(4):
        paint(tmp_path / f"class{i}" / "x.png", i)
        (tmp_path / f"class{i}" / "x.txt").write_text(f"number {i}")
    truncate(tmp_path / "class2" / "x.png")
    batch = train(tmp_path, memory_bytes=0).read(range(4))
    value = batch["image"][:, 0, 0, 0]
    assert 2 not in value and batch["class_label"].tolist() == value.tolist()
    assert batch["caption"].tolist() == [f"number {v}" for v in value]


def test_damaged_images_do_not_move_others_between_the_splits(tmp_path):
    flat(tmp_path, 20)
    for name in ("02.png", "05.png", "11.png", "17.png"):
        truncate(tmp_path / name)
    for seed in range(5):
        rest, held = (values(s) for s in both(tmp_path, validation=0.3, seed=seed))
        assert len(held) == 6 and len(set(rest + held)) == len(rest + held) == 16


def test_a_folder_beyond_memory_reads_the_same_pictures_from_its_files(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(6):
        noise = Image.fromarray(rng.integers(0, 256, (9, 13, 3), np.uint8))
        noise.resize((52, 36)).save(tmp_path / f"{i}.png")
    kept, streamed = train(tmp_path), train(tmp_path, memory_bytes=0)
    np.testing.assert_array_equal(kept.read(range(6))["image"], streamed.read(range(6))["image"])
    np.testing.assert_array_equal(
        in_memory(streamed).read([4, 1])["image"], kept.read([4, 1])["image"]
    )


@pytest.mark.parametrize("memory_bytes", [2e9, 0])
def test_random_crops_are_drawn_by_the_loader_and_repeat_with_the_seed(tmp_path, memory_bytes):
    ramp = np.broadcast_to(np.arange(120, dtype=np.uint8), (80, 120))
    Image.fromarray(ramp.copy()).save(tmp_path / "ramp.png")
    source = train(tmp_path, crop="random", memory_bytes=memory_bytes)
    a, b, other = (Loader(source, 16, seed).batch(0)["image"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != other).any() and len(np.unique(a[:, 0, 0, 0])) > 4
    assert source.drawn and not train(tmp_path).drawn
    centre = source.read([0, 0])["image"]
    np.testing.assert_array_equal(centre[0], centre[1])


def test_a_missing_or_empty_folder_is_named_with_what_was_looked_for(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        train(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"\.jpg .*\.webp"):
        train(tmp_path)


def test_a_folder_with_damaged_images_only_is_an_error(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"junk")
    with pytest.raises(UserError, match="a.jpg"):
        train(tmp_path)
    (tmp_path / "a.jpg").unlink()
    truncate(tmp_path / "b.png")
    with pytest.raises(UserError, match="no image"):
        train(tmp_path)


def test_a_single_image_trains_but_cannot_be_divided(tmp_path):
    paint(tmp_path / "a.png", 3)
    assert len(train(tmp_path)) == 1
    with pytest.raises(UserError, match="fraction of 0"):
        both(tmp_path)


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(UserError, match="'test'"):
        FolderSource(flat(tmp_path), 8, split="test")


COCO = (
    Path(os.environ.get("LDM_JAX_TEST_DATA", Path(__file__).parents[3] / "shared/data"))
    / "coco_val"
)


@pytest.mark.skipif(not COCO.is_dir(), reason="the photographs are not here")
def test_photographs():
    rest, held = (
        FolderSource(COCO / "images", 64, s, progress=None) for s in ("train", "validation")
    )
    assert (len(rest), len(held), rest.channels) == (122, 6, 3)
    x = rest.read(range(122))["image"]
    assert x.shape == (122, 64, 64, 3) and 90 < x.mean() < 140 and x.std() > 50
