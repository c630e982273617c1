"""The images of what happens: geometry, what a PNG carries, curves with holes."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax import plots


def flat(*colours, size=(96, 96), channels=3):
    """Images of one colour each."""
    return np.stack([np.full((*size, channels), colour, np.uint8) for colour in colours])


def test_grid_puts_images_in_rows_on_white():
    canvas = plots.grid(flat(10, 20, 30), columns=2)
    assert canvas.shape == (2 * 96 + 2, 2 * 96 + 2, 3) and canvas.dtype == np.uint8
    for i, colour in enumerate((10, 20, 30)):
        y, x = (i // 2) * 98, (i % 2) * 98
        assert (canvas[y : y + 96, x : x + 96] == colour).all()
    assert (canvas[98:, 98:] == 255).all()  # no fourth image
    assert (canvas[96:98] == 255).all() and (canvas[:, 96:98] == 255).all()


@pytest.mark.parametrize("side, scale", [(32, 3), (33, 3), (96, 1), (200, 1)])
def test_small_images_are_enlarged_pixel_by_pixel(side, scale):
    image = np.random.default_rng(0).integers(0, 256, (1, side, side + 1, 3), dtype=np.uint8)
    canvas = plots.grid(image, columns=1)
    assert canvas.shape == (side * scale, (side + 1) * scale, 3)
    np.testing.assert_array_equal(canvas[::scale, ::scale], image[0])
    np.testing.assert_array_equal(canvas[scale - 1 :: scale, scale - 1 :: scale], image[0])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grid_is_rgb_whatever_the_images_are(channels):
    canvas = plots.grid(flat(7, 9, channels=channels), columns=8)
    assert canvas.shape == (96, 2 * 98 - 2, 3)  # no wider than the images are
    assert (canvas[:, :96] == 7).all() and (canvas[:, 98:194] == 9).all()


@pytest.mark.parametrize("n, columns", [(3, 2), (4, 2), (2, 8)])
def test_reconstructions_stand_under_their_inputs(n, columns):
    colours = np.arange(1, n + 1)
    canvas = plots.reconstructions(flat(*colours), flat(*colours + 100), columns)
    width = min(n, columns)
    assert canvas.shape[1] == width * 98 - 2
    cells = canvas[::98, ::98, 0].astype(int)
    assert (cells[1::2] - cells[::2])[cells[::2] < 255].tolist() == [100] * n
    np.testing.assert_array_equal(cells[::2].ravel()[:n], colours)
    assert (cells[1::2][cells[::2] == 255] == 255).all()  # nothing under nothing


def test_a_png_carries_its_settings(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    settings = {"steps": 25, "guidance": 3.0, "conditions": "a red cube\nein grüner Würfel, 立方体"}
    plots.save_png(tmp_path / "a.png", image, settings)
    with Image.open(tmp_path / "a.png") as file:
        np.testing.assert_array_equal(np.asarray(file), image)
        assert file.text == {key: str(value) for key, value in settings.items()}
    plots.save_png(str(tmp_path / "b.png"), image)
    with Image.open(tmp_path / "b.png") as file:
        assert file.text == {}


def test_labelled_grid_has_a_cell_for_each_image():
    canvas = plots.labelled_grid(flat(30, 60, 90, size=(8, 8)), ["a", "b", "c"], columns=2)
    height, width, channels = canvas.shape
    assert channels == 3 and canvas.dtype == np.uint8 and width == 2 * 144 + 6
    cells = [
        canvas[row * height // 2 + 60, column * 150 + 80] for row in (0, 1) for column in (0, 1)
    ]
    assert [cell[0] for cell in cells] == [30, 60, 90, 255]


def test_labelled_grid_shows_grey_images_as_they_are():
    canvas = plots.labelled_grid(flat(0, 100, 255, size=(8, 8), channels=1), [""] * 3)
    assert [canvas[60, i * 150 + 80].tolist() for i in range(3)] == [[0] * 3, [100] * 3, [255] * 3]


def test_images_of_one_label_stand_together_and_it_is_said_once():
    groups = flat(*range(10, 70, 10), size=(8, 8)).reshape(2, 3, 8, 8, 3)
    canvas = plots.labelled_groups(groups, ["a word", "another"], columns=2)
    height = canvas.shape[0] // 2
    assert canvas.shape[1] == 2 * 144 + 6
    middles = [
        canvas[row * height + 60 + 150 * below, column * 150 + 80, 0]
        for row in (0, 1)
        for below, column in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    assert middles == [10, 20, 30, 255, 40, 50, 60, 255]
    label = canvas[2 * 144 + 6 : height]
    assert (label[:, 100:200] < 128).any() and (label[:, :80] == 255).all()  # in the middle
    single = plots.labelled_groups(groups[:, :1], ["a word", "another"])
    np.testing.assert_array_equal(single, plots.labelled_grid(groups[:, 0], ["a word", "another"]))


def test_labels_are_wrapped_and_make_room():
    images = flat(50, size=(8, 8))
    short, long = (plots.labelled_grid(images, [s]) for s in ("", "a long caption " * 30))
    assert long.shape[0] > short.shape[0]
    assert long.shape[0] < short.shape[0] + 16 * plots.MOST_LINES + 10
    assert (long[short.shape[0] :] < 128).any()  # something is printed there
    assert long.shape[1] == short.shape[1]


@pytest.mark.parametrize(
    "label", ["word " * 60, "unbroken" * 30, "長い説明文" * 40, "a " + "b" * 90]
)
def test_labels_stay_under_their_image_and_show_where_they_are_cut(label):
    images = flat(50, 60, size=(8, 8))
    canvas = plots.labelled_grid(images, [label, ""], columns=2)
    below = canvas[144:]
    assert (below[:, :144] < 128).any() and (below[:, 146:] == 255).all()
    assert (below[-6:] == 255).all()  # nothing is cut off at the bottom
    longer = plots.labelled_grid(images, [f"{label} more {label}", ""], columns=2)
    assert longer.shape[0] < 144 + 16 * plots.MOST_LINES + 10


def test_images_of_several_sizes_are_made_alike():
    small, wide, large = (np.full((2, *s, 1), 7, np.uint8) for s in ((4, 4), (4, 6), (9, 9)))
    rows = plots.alike([small, wide, large])
    assert {row.shape for row in rows} == {(2, 9, 12, 3)}
    assert [(row == 7).sum() // 6 for row in rows] == [8 * 8, 8 * 12, 9 * 9]
    assert (rows[2][:, :, :1] == 255).all() and (rows[2][:, :, -2:] == 255).all()
    assert plots.stacked([small, large]).dtype == np.uint8


def test_large_images_are_shown_pixel_by_pixel_with_larger_letters():
    image = np.random.default_rng(0).integers(0, 255, (1, 200, 300, 3), dtype=np.uint8)
    canvas = plots.labelled_grid(image, ["a word"])
    np.testing.assert_array_equal(canvas[:200], image[0])
    small = plots.labelled_grid(image[:, :50, :50], ["a word"])
    assert (canvas[200:] < 128).sum() > 1.5 * (small[150:] < 128).sum()


def test_an_animation_has_the_frames_and_rests_on_the_last(tmp_path):
    frames = np.repeat(np.linspace(0, 250, 5, dtype=np.uint8), 64 * 3).reshape(5, 8, 8, 3)
    frames[:, :, ::2] //= 2
    plots.save_gif(tmp_path / "a.gif", frames, {"seed": 3})
    with Image.open(tmp_path / "a.gif") as file:
        assert file.n_frames == 5 and file.info["comment"] == b"seed: 3" and file.info["loop"] == 0
        durations = []
        for i in range(5):
            file.seek(i)
            durations.append(file.info["duration"])
        np.testing.assert_array_equal(np.asarray(file.convert("RGB")), frames[4])
    assert durations == [600] * 4 + [2000]
    plots.save_gif(tmp_path / "b.gif", frames, most=3)
    with Image.open(tmp_path / "b.gif") as file:
        assert file.n_frames == 3


LINES = [
    {"stage": "autoencoder", "step": 1, "loss": 2.0, "psnr": 10.0},
    {"stage": "autoencoder", "step": 2, "loss": 1.0},
    {"stage": "diffusion", "step": 1, "loss": 1.0, "loss_least_noise": 0.9, "grad_norm": 3.0},
    {"stage": "diffusion", "step": 2, "loss_least_noise": 0.8, "loss_most_noise": 0.1, "new": 5},
]


def test_curves_are_drawn_from_lines_with_holes():
    panels = {axes.get_title(): axes for axes in plots.curves_figure(LINES).axes}
    assert set(panels) == {
        "autoencoder: loss", "autoencoder: PSNR [dB]",
        "diffusion: loss", "diffusion: loss by noise level", "diffusion: gradient norm",
    }  # fmt: skip
    drawn = {
        title: [line.get_xydata().tolist() for line in axes.lines] for title, axes in panels.items()
    }
    assert drawn["autoencoder: loss"] == [[[1, 2.0], [2, 1.0]]]
    assert drawn["autoencoder: PSNR [dB]"] == [[[1, 10.0]]]
    assert drawn["diffusion: loss by noise level"] == [[[1, 0.9], [2, 0.8]], [[2, 0.1]]]
    assert panels["diffusion: loss"].get_yscale() == "log"


def test_curves_are_rgb_pixels_even_of_nothing():
    for lines in (LINES, LINES[:1], []):
        image = plots.curves(lines)
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3


@pytest.mark.parametrize("channels", [1, 3])
def test_boxes_are_outlines_on_the_enlarged_image(channels):
    image = np.random.default_rng(0).integers(0, 100, (16, 24, channels), dtype=np.uint8)
    plain = plots.with_boxes(image, np.zeros((0, 4)), [], scale=5)
    large = np.broadcast_to(image, (16, 24, 3)).repeat(5, 0).repeat(5, 1)
    np.testing.assert_array_equal(plain, large)
    # On 120 x 80 pixels: columns 30 to 89, rows 40 to 79; the name stands above.
    drawn = plots.with_boxes(image, np.array([[0.25, 0.5, 0.75, 1.0]]), ["ball"], scale=5)
    colour = drawn[40, 89]
    assert drawn.shape == (80, 120, 3) and drawn.dtype == np.uint8
    for edge in (drawn[40:80, 30], drawn[40:80, 89], drawn[40, 30:90], drawn[79, 30:90]):
        assert (edge == colour).all()
    np.testing.assert_array_equal(drawn[42:78, 32:88], large[42:78, 32:88])  # inside: the image
    np.testing.assert_array_equal(drawn[:, 90:], large[:, 90:])
    name = drawn[20:40, 30:60]
    assert (name == colour).all(-1).any() and (name > 200).all(-1).any()  # white on the colour


def test_boxes_without_an_image_are_on_light_grey():
    boxes = np.array([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])
    drawn = plots.with_boxes(None, boxes, ["one", "two"], scale=2, size=(40, 60))
    assert drawn.shape == (80, 120, 3)
    assert (drawn[60:78, 2:58] == drawn[-1, 0]).all() and drawn[-1, 0].min() > 200
    first, second = drawn[39, 59], drawn[79, 119]
    assert (first != second).any() and (first != drawn[-1, 0]).any()


def test_names_of_boxes_stay_in_the_image_and_apart():
    box = np.array([[0.9, 0.4, 1.0, 0.6]])
    once = plots.with_boxes(None, box, ["a long name"], scale=2)
    two = plots.with_boxes(None, np.repeat(box, 2, 0), ["a long name"] * 2, scale=2)
    orange = (two == two[51, 127]).all(-1)
    assert once.shape == two.shape == (128, 128, 3)
    strip = once[38:51]  # above the box, and the same whether or not there is a second one
    np.testing.assert_array_equal(two[38:51], strip)
    assert orange[51:77, :115].any()  # the second name: inside, left of the narrow box
    # Many at one place: all of them, apart.
    crowd = np.repeat(np.array([[0.5, 0.9, 0.6, 1.0]]), 8, 0)
    shown = plots.with_boxes(None, crowd, [f"name {i}" for i in range(8)], scale=3)
    apart = plots.with_boxes(None, crowd[:1], ["name 0"], scale=3)
    assert (shown > 250).all(-1).sum() > 6 * (apart > 250).all(-1).sum()
    # No room at all, an empty box, one of no width on the far edge: drawn as well as can be.
    for edge in ([0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5], [1, 1, 1, 1]):
        tiny = plots.with_boxes(None, np.array([edge]), ["a long name"], scale=1, size=(4, 4))
        assert tiny.shape == (4, 4, 3)
