"""Sets of images in files: ADM's format and folders; what is none is refused in one line."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.commands.evaluate.image_files import read_images
from ldm_jax.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 6, 8, 3), np.uint8)


def folder(path, images=IMAGES):
    path.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(path / f"{i:03d}.png")
    return path


def test_an_archive_and_a_folder_hold_the_same_images(tmp_path):
    np.savez(tmp_path / "a.npz", IMAGES)
    np.testing.assert_array_equal(read_images("--samples", str(tmp_path / "a.npz")), IMAGES)
    found = read_images("--samples", str(folder(tmp_path / "images")))
    np.testing.assert_array_equal(found, IMAGES)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"arr_0": IMAGES[:9]}, "has 9 images; the measures need at least 10"),
        ({"images": IMAGES}, "no array arr_0, .* it has: images"),
        ({"arr_0": IMAGES / 255.0}, r"arr_0 is float64 \[12, 6, 8, 3\]; images are uint8"),
        ({"arr_0": IMAGES[0]}, r"arr_0 is uint8 \[6, 8, 3\]"),
        ({"arr_0": IMAGES.transpose(0, 3, 1, 2)}, r"\[12, 3, 6, 8\]"),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=message):
        read_images("--samples", str(tmp_path / "a.npz"))


def test_what_is_no_set_of_images_is_refused(tmp_path):
    def refused(path):
        with pytest.raises(UserError) as error:
            read_images("--real", str(path))
        return str(error.value)

    assert "there is no such file or folder" in refused(tmp_path / "nowhere.npz")
    (tmp_path / "empty").mkdir()
    assert "there is no image in this folder" in refused(tmp_path / "empty")
    (tmp_path / "text.txt").write_text("text")
    assert "it is a FILE.npz, or a folder" in refused(tmp_path / "text.txt")
    (tmp_path / "damaged.npz").write_bytes(b"half")
    assert "cannot be read as an .npz" in refused(tmp_path / "damaged.npz")
    place = folder(tmp_path / "sizes")
    Image.fromarray(IMAGES[0, :5]).save(place / "100.png")
    assert "several sizes: 000.png is 8x6, 100.png is 8x5" in refused(place)
    (place / "050.png").write_bytes(b"half")
    assert "050.png cannot be read as an image" in refused(place)
