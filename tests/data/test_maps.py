"""Semantic maps: which files they are, what their pixels mean."""

import io

import numpy as np
import pytest
from etils import epath
from PIL import Image

from ldm_jax.data.maps import check_class_names, check_map_size, decode_map, index_dtype, open_maps
from ldm_jax.errors import UserError

INDICES = np.arange(12, dtype=np.uint8).reshape(3, 4)


def encoded(image: Image.Image) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file


def save(folder, name: str, indices=INDICES) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(indices).save(path)


def test_grey_palette_deep_and_two_level_maps_are_read_as_indices():
    palette = Image.fromarray(INDICES).convert("P")
    palette.putdata(INDICES.ravel().tolist())
    palette.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    for image in (Image.fromarray(INDICES), palette):
        read = decode_map(encoded(image))
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, INDICES)
    deep = INDICES.astype(np.uint16) * 100
    np.testing.assert_array_equal(decode_map(encoded(Image.fromarray(deep))), deep)
    np.testing.assert_array_equal(decode_map(encoded(Image.fromarray(INDICES > 5))), INDICES > 5)


def test_a_map_is_turned_as_its_image_is():
    exif = Image.Exif()
    exif[0x0112] = 6  # stored with its left side on top
    file = io.BytesIO()
    Image.fromarray(np.rot90(INDICES).copy()).save(file, "PNG", exif=exif)
    np.testing.assert_array_equal(decode_map(file), INDICES)


def test_colours_are_no_indices(tmp_path):
    with pytest.raises(UserError, match="grey or have a palette.*RGB"):
        decode_map(encoded(Image.new("RGB", (2, 2))))
    file = io.BytesIO()
    Image.fromarray(np.full((2, 2), -1, np.int32)).save(file, "TIFF")
    with pytest.raises(UserError, match="below 0"):
        decode_map(file)
    Image.new("RGBA", (2, 2)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="a.png: a map must be.*RGBA"):
        open_maps(epath.Path(tmp_path), ["a.jpg"])


def test_maps_are_found_by_the_names_of_their_images(tmp_path):
    save(tmp_path, "a.png")
    save(tmp_path, "deep/b.PNG", INDICES[:2])
    save(tmp_path, "other.png")
    maps = open_maps(epath.Path(tmp_path), ["a.jpg", "deep/b.jpeg", "c.jpg"], False)
    assert maps.sizes == {"a.jpg": (4, 3), "deep/b.jpeg": (4, 2)} and not maps.unreadable
    assert maps.names == tuple(map(str, range(12)))
    np.testing.assert_array_equal(maps.read("deep/b.jpeg"), INDICES[:2])


def test_classes_have_the_names_in_the_folder_which_must_be_enough(tmp_path):
    save(tmp_path, "a.png")
    (tmp_path / "names.txt").write_text("\n".join(["sky", "", *"abcdefghijk"]) + "\n")
    names = open_maps(epath.Path(tmp_path), ["a.jpg"]).names
    assert names[:3] == ("sky", "", "a") and len(names) == 13
    (tmp_path / "names.txt").write_text("sky\nsea")
    with pytest.raises(UserError, match="a.png has class 11, but there are only 2 class names"):
        open_maps(epath.Path(tmp_path), ["a.jpg"])


def test_numbers_that_are_hardly_in_use_are_said(tmp_path):
    save(tmp_path, "a.png", (INDICES > 5).astype(np.uint8) * 255)
    (remark,) = open_maps(epath.Path(tmp_path), ["a.jpg"]).remarks
    assert "of the classes 0 to 255" in remark and "only 2 are in use (0, 255)" in remark
    (tmp_path / "names.txt").write_text("name\n" * 256)
    assert not open_maps(epath.Path(tmp_path), ["a.jpg"]).remarks
    (tmp_path / "names.txt").unlink()
    save(tmp_path, "a.png")
    assert not open_maps(epath.Path(tmp_path), ["a.jpg"]).remarks


def test_a_damaged_map_is_left_out_and_a_folder_of_them_refused(tmp_path):
    save(tmp_path, "a.png")
    (tmp_path / "b.png").write_bytes(b"junk")
    maps = open_maps(epath.Path(tmp_path), ["a.jpg", "b.jpg"])
    assert maps.files.keys() == {"a.jpg"} and "map" in maps.unreadable["b.jpg"]
    with pytest.raises(UserError, match="no map.*b.png"):
        open_maps(epath.Path(tmp_path), ["b.jpg"])


def test_a_folder_without_maps_of_the_images_is_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        open_maps(epath.Path(tmp_path / "nowhere"), ["a.jpg"])
    with pytest.raises(UserError, match="looked for PNG"):
        open_maps(epath.Path(tmp_path), ["a.jpg"])
    save(tmp_path, "x.png")
    with pytest.raises(UserError, match="names none of the images"):
        open_maps(epath.Path(tmp_path), ["a.jpg"])


def test_sizes_classes_and_types():
    check_map_size((3, 4), (3, 4), "x")
    with pytest.raises(UserError, match="x has 3x4 pixels, but its image has 4x3"):
        check_map_size((3, 4), (4, 3), "x")
    check_class_names(1, ["a", "b"], "x")
    with pytest.raises(UserError, match="x has class 255"):
        check_class_names(255, ["a", "b"], "x")
    assert index_dtype(range(256)) is np.uint8 and index_dtype(range(257)) is np.int32
