"""Images, masks and maps of a command line: how they are cut, and what a mask means."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.commands.sample.command import EditOptions
from ldm_jax.commands.sample.images import fitted, middle, open_map, open_mask
from ldm_jax.errors import UserError

STROKE = np.zeros((8, 8), bool)
STROKE[2:4, 1:7] = True


def grey(x) -> Image.Image:
    return Image.fromarray(np.asarray(x, np.uint8))


def over(colour, alpha) -> Image.Image:
    """RGBA of one grey value everywhere, or an array of such, with this opacity."""
    pixels = np.broadcast_to(np.asarray(colour)[..., None], (8, 8, 3))
    return grey(np.concatenate([pixels, np.asarray(alpha)[..., None]], axis=-1))


def palette(colours, **info) -> Image.Image:
    """The stroke is index 1, all else index 0."""
    image = grey(STROKE).convert("P")
    image.putdata(STROKE.ravel().astype(int).tolist())
    image.putpalette(colours)
    image.info.update(info)
    return image


MASKS = {
    "grey": grey(255 * STROKE),
    "two levels": Image.fromarray(STROKE),
    "16 bits": Image.fromarray((65535 * STROKE).astype(np.uint16)),
    "colour": grey(255 * STROKE).convert("RGB"),
    "white strokes on transparency": over(255, 255 * STROKE),
    "white strokes on transparent black": over(255 * STROKE, 255 * STROKE),
    "opaque": over(255 * STROKE, np.full((8, 8), 255)),
    "grey with alpha": over(255, 255 * STROKE).convert("LA"),
    "palette": palette([0, 0, 0, 255, 255, 255]),
    "palette whose 0 is transparent white": palette([255, 255, 255, 250, 250, 250], transparency=0),
    "palette in which indices mean nothing": palette([30, 0, 0, 255, 255, 0]),
}


@pytest.fixture
def read(tmp_path):
    """`read(mask)`: where an 8x8 image is to be filled."""

    def open_(mask, image=None, cut=lambda m: fitted(m, 8, 8)):
        mask.save(tmp_path / "m.png", **mask.info)
        image = Image.new("RGB", mask.size) if image is None else image
        return open_mask(EditOptions(image="i.png", mask=str(tmp_path / "m.png")), image, cut)

    return open_


@pytest.mark.parametrize("kind", MASKS)
def test_white_is_filled_and_what_is_transparent_is_kept(kind, read):
    np.testing.assert_array_equal(read(MASKS[kind]), STROKE)


@pytest.mark.parametrize(
    "mask, said",
    [
        (
            grey(np.zeros((8, 8))),
            "nothing white.*, so there is nothing to fill: paint it",
        ),
        (over(0, 255 * STROKE), "nothing white .128 to 255., so"),  # black strokes on transparency
        (over(255, np.zeros((8, 8))), "nothing white .128 to 255., so"),
        (grey(STROKE), "nothing white .128 to 255., so"),  # 0 and 1, not 255
        (palette([0, 0, 0, 128, 0, 0]), "nothing white .128 to 255., so"),  # a label's dark red
        (grey(np.full((8, 8), 255)), "is white.* everywhere, so nothing of the image is kept"),
        (grey(np.full((8, 6), 255)), "has 6x8 pixels, its image 8x8"),
    ],
)
def test_a_mask_that_fills_all_or_nothing_is_refused(mask, said, read):
    with pytest.raises(UserError, match=said):
        read(mask, Image.new("RGB", (8, 8)))


def test_what_is_cut_off_of_a_mask_does_not_count(read):
    wide = np.zeros((8, 24), np.uint8)
    wide[:, :4] = 255
    with pytest.raises(UserError, match="nothing white.* in the middle, which is used, so"):
        read(grey(wide))
    with pytest.raises(UserError, match="white.* everywhere in the middle, which is used, so"):
        read(grey(255 - wide))


def test_an_images_transparency_may_be_the_mask(tmp_path):
    alpha = 255 - 255 * STROKE
    alpha[0, 0] = 200
    cutout = over(90, alpha)
    cutout.save(tmp_path / "cutout.png")
    edit = EditOptions(image=str(tmp_path / "cutout.png"), mask="alpha")
    fill = open_mask(edit, cutout, lambda m: fitted(m, 8, 8))
    np.testing.assert_array_equal(fill, STROKE | (alpha == 200))
    cutout.convert("RGB").save(tmp_path / "cutout.png")
    with pytest.raises(UserError, match="--mask alpha: .*cutout.png has nothing transparent"):
        open_mask(edit, cutout, lambda m: fitted(m, 8, 8))
    over(90, np.zeros((8, 8))).save(tmp_path / "cutout.png")
    with pytest.raises(UserError, match="is transparent everywhere"):
        open_mask(edit, cutout, lambda m: fitted(m, 8, 8))


def test_the_middle_has_the_proportions():
    assert middle((64, 32), 32, 32) == (16, 0, 48, 32)
    assert middle((32, 64), 16, 32) == (0, 24, 32, 40)
    assert middle((5, 5), 1, 100) == (0, 2, 5, 3)


@pytest.mark.parametrize("size", [(32, 32), (16, 16), (32, 64), (64, 32), (16, 48)])
def test_a_map_is_cut_as_its_image_is(size, tmp_path):
    """Not distorted: a circle stays one."""
    y, x = np.mgrid[:32, :64]
    disc = (y - 15.5) ** 2 + (x - 31.5) ** 2 < 12**2
    grey(disc).save(tmp_path / "map.png")
    found = open_map("--semantic-map", str(tmp_path / "map.png"), size, 4)
    image = fitted(grey(255 * disc), *size)[..., 0]
    assert found.shape == size and (found == (image > 127)).mean() > 0.95


def test_a_map_without_a_size_loses_only_what_the_networks_cannot_have(tmp_path):
    indices = np.arange(9 * 14, dtype=np.uint8).reshape(9, 14)
    grey(indices).save(tmp_path / "map.png")
    found = open_map("--semantic-map", str(tmp_path / "map.png"), (None, None), 4)
    np.testing.assert_array_equal(found, indices[:8, 1:13])
