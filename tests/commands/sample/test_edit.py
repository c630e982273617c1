"""`python sample.py RUN` with --image, --interpolate or --invert, and what it refuses."""

import re

import numpy as np
import pytest
from PIL import Image

from ldm_jax import plots
from ldm_jax.data.decode import to_image
from ldm_jax.data.images import fit
from ldm_jax.evaluation.distortion import psnr

pytestmark = pytest.mark.slow

RED, BLUE, CUBE = "a red square", "a blue square", "a red cube"
ASKED = {"captions": ["--prompt", RED], "classes": ["--class-label", "red"], "flat": []}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Images to edit, masks, and what is none: `files / 'image.png'`."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    for name, size in (("image", 64), ("other", 64), ("small", 8)):
        colours = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        Image.fromarray(colours).resize((size, size), 3).save(folder / f"{name}.png")
    white = np.zeros((64, 64), np.uint8)
    Image.fromarray(white).save(folder / "black.png")
    white[20:50, 9:41] = 255
    Image.fromarray(white).save(folder / "mask.png")
    Image.fromarray(white[:, :60]).save(folder / "narrow.png")
    (folder / "text.png").write_text("no image")
    return folder


@pytest.fixture
def edited(sample, files, tmp_path):
    """`edited(run, '--image', 'image.png')`: (what is written, its metadata, what is said)."""

    def edit(run, *words):
        out = tmp_path / "out.png"
        words = [files / w if str(w).endswith(".png") else w for w in words]
        ended = sample(run, *words, "--out", out)
        assert ended.code == 0, ended.err
        image = Image.open(out)
        return np.asarray(image), image.text, ended.out

    return edit


def tiles(grid, rows, columns):
    """The images in a `plots.grid`, as large as they are there: `[rows, columns, h, w, 3]`."""
    h, w = (grid.shape[0] + 2) // rows, (grid.shape[1] + 2) // columns  # with the gaps of 2
    cells = np.pad(grid, ((0, 2), (0, 2), (0, 0))).reshape(rows, h, columns, w, 3)
    return cells.swapaxes(1, 2)[:, :, :-2, :-2]


def view(file, size):
    return fit(Image.open(file), size)


def labelled(figure, labels, columns):
    """The 8x8 images `[n, 8, 8, 3]` of a `plots.labelled_grid`, which has these labels."""
    rows, each = len(labels) // columns, 18  # so many pixels for one, and gaps of 6
    h, w = figure.shape[0] // rows, 8 * each + 6
    starts = [(row * h, column * w) for row in range(rows) for column in range(columns)]
    images = [figure[y : y + 8 * each : each, x : x + 8 * each : each] for y, x in starts]
    np.testing.assert_array_equal(plots.labelled_grid(np.stack(images), labels, columns), figure)
    return np.stack(images)


@pytest.fixture(scope="module")
def plain(loaded):
    """`plain(run, [RED], 2, seed=1)`: images sampled without editing, by the library."""
    return lambda run, wanted, n=1, **settings: loaded(run).sample(
        wanted or None, num_images=n, **settings
    )


@pytest.mark.parametrize("layout", ASKED)
def test_strength_1_is_drawing_without_the_image(layout, trained, edited, plain, files):
    """All solver steps, from the z_T of the same seed and number."""
    run = trained(layout)[1]
    words = ["--image", "image.png", "--strength", 1, "--num-images", 2, "--seed", 5]
    grid, text, said = edited(run, *ASKED[layout], *words)
    assert said.startswith(f"2 images from {files / 'image.png'} in ")
    assert text["strength"] == "1.0" and text["image"] == str(files / "image.png")
    shown, *images = tiles(grid, 1, 3)[0, :, ::12, ::12]
    np.testing.assert_array_equal(shown, view(files / "image.png", 8))
    np.testing.assert_array_equal(images, plain(run, ASKED[layout][1:], 2, seed=5))


def test_there_is_a_row_for_each_prompt_and_the_image_matters(trained, edited, plain):
    words = [trained("captions")[1], "--prompt", RED, BLUE, "--num-images", 2]
    words += ["--sampler", "ddpm", "--steps", 10, "--image"]
    grid, text, _ = edited(*words, "image.png")
    assert text["strength"] == "0.6" and text["conditions"] == "\n".join([RED, RED, BLUE, BLUE])
    rows = tiles(grid, 2, 3)
    assert len({image.tobytes() for image in rows.reshape(6, -1)}) == 5  # the given one twice
    assert not np.array_equal(edited(*words, "other.png")[0], grid)
    np.testing.assert_array_equal(edited(*words, "image.png", "--batch-size", 3)[0], grid)


def test_little_strength_leaves_what_the_autoencoder_makes_of_the_image(
    smoke, edited, files, loaded
):
    words = ["--prompt", CUBE, "--steps", 1000, "--strength", 0.0001, "--num-images", 1]
    grid, *_ = edited(smoke[1], "--image", "image.png", "--guidance", 1, *words)
    reconstruction = loaded(smoke[1]).reconstruct(view(files / "image.png", 32))
    assert psnr(tiles(grid, 1, 2)[:, 1, ::3, ::3], reconstruction)[0] > 30


@pytest.mark.parametrize(
    "layout, sampler", [("captions", "plms"), ("classes", "ddim"), ("flat", "ddpm")]
)
def test_in_painting_keeps_every_known_pixel(layout, sampler, trained, edited, files):
    words = ["--image", "image.png", "--mask", "mask.png", "--num-images", 3, "--steps", 4]
    words += [*ASKED[layout], "--sampler", sampler]
    grid, text, _ = edited(trained(layout)[1], *words)
    assert (text["mask"], text["strength"]) == (str(files / "mask.png"), "1.0")
    shown, *samples = tiles(grid, 1, 4)[0, :, ::12, ::12]
    image = view(files / "image.png", 8)
    fill = view(files / "mask.png", 8)[..., 0] >= 128
    assert (shown[fill] == 200).all() and 0 < fill.sum() < 64
    for sample in (shown, *samples):
        np.testing.assert_array_equal(sample[~fill], image[~fill])
    assert len({sample[fill].tobytes() for sample in samples}) == 3
    again, *_ = edited(trained(layout)[1], *words, "--batch-size", 2)
    np.testing.assert_array_equal(again, grid)


def test_known_pixels_are_unchanged_on_the_way_too(trained, sample, files, tmp_path):
    """In every estimate: in the grid of --trajectory, and in the frames of a .gif."""
    image = view(files / "image.png", 8)
    known = view(files / "mask.png", 8)[..., 0] < 128
    words = ["--image", files / "image.png", "--mask", files / "mask.png", "--steps", 4]
    words = [trained("flat")[1], *words, "--num-images", 2]
    assert sample(*words, "--trajectory", 3, "--out", tmp_path / "a.png").code == 0
    estimates = labelled(np.asarray(Image.open(tmp_path / "a.png")), [""] * 6, 3)
    assert len({x.tobytes() for x in estimates}) == 6
    for x in estimates:
        np.testing.assert_array_equal(x[known], image[known])
    ended = sample(*words, "--out", tmp_path / "a.gif")
    assert (
        ended.out == f"2 images from {files / 'image.png'}, step by step, in {tmp_path / 'a.gif'}\n"
    )
    with Image.open(tmp_path / "a.gif") as file:
        frame = np.asarray(file.convert("RGB"))
    for x in tiles(frame, 1, 3)[0, :, ::12, ::12].astype(int):  # in 256 colours
        assert np.abs(x - image)[known].mean() < 4


def test_in_painting_may_start_from_what_is_under_the_mask(smoke, edited, files):
    words = ["--prompt", CUBE, "--image", "image.png", "--mask", "mask.png", "--num-images", 1]
    image, errors = view(files / "image.png", 32), []
    fill = view(files / "mask.png", 32)[..., 0] >= 128
    for strength in (0.2, 1.0):
        grid, *_ = edited(smoke[1], *words, "--strength", strength)
        sample = tiles(grid, 1, 2)[0, 1, ::3, ::3]
        np.testing.assert_array_equal(sample[~fill], image[~fill])
        errors.append(np.abs(sample[fill].astype(int) - image[fill]).mean())
    assert errors[0] < errors[1]


@pytest.mark.parametrize(
    "border, height, width, top, left",
    [((4,), 40, 40, 4, 4), ((0, 16), 32, 64, 0, 16), ((5, 0, 3, 8), 40, 40, 5, 8)],
)
def test_out_painting_adds_a_border(border, height, width, top, left, smoke, edited, files):
    words = ["--prompt", CUBE, "--image", "image.png", "--num-images", 2]
    grid, text, _ = edited(smoke[1], *words, "--outpaint", *border)
    assert text["outpaint"] == str(border)
    shown, *images = tiles(grid, 1, 3)[0, :, ::3, ::3]
    assert shown.shape == (height, width, 3)
    inside = np.s_[top : top + 32, left : left + 32]
    for image in (shown, *images):
        np.testing.assert_array_equal(image[inside], view(files / "image.png", 32))
    fill = np.ones((height, width), bool)
    fill[inside] = False
    assert (shown[fill] == 200).all() and not np.array_equal(images[0][fill], images[1][fill])


@pytest.mark.parametrize("layout, ends", [("captions", [RED, BLUE]), ("classes", ["red", "blue"])])
def test_between_conditions_the_noise_is_the_same(layout, ends, trained, edited, plain):
    run = trained(layout)[1]
    option = ASKED[layout][0]
    words = ["--interpolate", 5, option, *ends, "--num-images", 2, "--steps", 3]
    figure, text, said = edited(run, *words)
    assert said.startswith("2 rows of 5 images in ")
    assert text["interpolate"] == "5" and "along" not in text  # on a line
    labels = [ends[0], "", "", "", ends[1]] * 2
    images = labelled(figure, labels, 5)
    rows = images.reshape(2, 5, 8, 8, 3)
    by_y = np.stack([plain(run, [end], 2, steps=3) for end in ends], axis=1)
    np.testing.assert_allclose(rows[:, [0, -1]].astype(int), by_y, atol=1)
    figure, *_ = edited(run, *words, "--along", "line", "--batch-size", 1)
    np.testing.assert_allclose(np.int32(labelled(figure, labels, 5)), images, atol=1)
    figure, text, _ = edited(run, *words, "--batch-size", 1, "--along", "sphere")
    assert text["along"] == "sphere"
    other = labelled(figure, labels, 5).reshape(2, 5, 8, 8, 3)
    np.testing.assert_allclose(other[:, [0, -1]].astype(int), by_y, atol=1)


@pytest.mark.parametrize("layout", ["captions", "flat"])
def test_between_seeds_the_ends_are_the_images_of_both(layout, trained, edited, plain):
    run = trained(layout)[1]
    words = [*ASKED[layout], "--seed", 3, "--to-seed", 8, "--num-images", 2]
    figure, text, _ = edited(run, "--interpolate", 4, *words)
    assert (text["seed"], text["to_seed"]) == ("3", "8") and "along" not in text  # on a sphere
    labels = ["seed 3", "", "", "seed 8"] * 2
    images = labelled(figure, labels, 4)
    rows = images.reshape(2, 4, 8, 8, 3).astype(int)
    for column, seed in ((0, 3), (-1, 8)):
        ends = plain(run, ASKED[layout][1:], 2, seed=seed)
        np.testing.assert_allclose(rows[:, column], ends, atol=1)
    figure, *_ = edited(run, "--interpolate", 4, *words, "--along", "sphere")
    np.testing.assert_array_equal(labelled(figure, labels, 4), images)
    figure, *_ = edited(run, "--interpolate", 4, *words, "--along", "line")
    assert not np.array_equal(labelled(figure, labels, 4), images)


@pytest.mark.parametrize("layout", ASKED)
def test_inversion_finds_the_noise_of_an_image(layout, trained, edited, files):
    run = trained(layout)[1]
    figures = []
    for steps in (5, 100):
        words = ["--invert", "image.png", *ASKED[layout], "--steps", steps]
        figure, text, said = edited(run, *words)
        figures.append([float(x) for x in re.findall(r"(\d+\.\d) dB", said)])
    assert (text["sampler"], text["guidance"], text["eta"]) == ("ddim", "1.0", "0.0")
    assert text["conditions"] == "".join(ASKED[layout][1:])
    to_reconstruction, to_image, of_reconstruction = figures[1]
    labels = ["the image", f"its reconstruction, {of_reconstruction} dB"]
    labels += [f"inverted and drawn again, {to_image} dB"]
    image, reconstruction, again = labelled(figure, labels, 3)
    np.testing.assert_array_equal(image, view(files / "image.png", 8))
    assert of_reconstruction == pytest.approx(psnr(image[None], reconstruction[None])[0], abs=0.06)
    assert to_image == pytest.approx(psnr(image[None], again[None])[0], abs=0.06)
    measured = psnr(reconstruction[None], again[None])[0]
    assert to_reconstruction == pytest.approx(measured, abs=0.06)
    assert figures[0][0] < figures[1][0] and figures[1][0] > 30


MASKED = ["--image", "image.png", "--mask", "mask.png"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["--strength", 0.5], ["--strength needs --image"]),
        (["--mask", "mask.png"], ["--mask needs --image"]),
        (["--outpaint", 8], ["--outpaint needs --image"]),
        (["--to-seed", 8], ["--to-seed needs --interpolate"]),
        (["--along", "line", "--invert", "image.png"], ["--along needs --interpolate"]),
        (["--image", "image.png", "--invert", "image.png"], ["--image and --invert"]),
        (["--image", "image.png", "--interpolate", 4], ["--image and --interpolate"]),
        (["--reconstruct", "image.png", "--interpolate", 4], ["--interpolate and --reconstruct"]),
        (["--image", "image.png", "--strength", 0], ["strength is 0.0", "up to 1"]),
        (["--image", "image.png", "--strength", 1.5], ["strength is 1.5", "up to 1"]),
        (["--image", "nowhere.png"], ["--image", "nowhere.png cannot be read as an image"]),
        (["--image", "text.png"], ["text.png cannot be read as an image"]),
        (["--image", "image.png", "--mask", "text.png"], ["--mask", "text.png cannot be read"]),
        (["--image", "image.png", "--mask", "narrow.png"], ["60x64 pixels", "64x64"]),
        (["--image", "image.png", "--mask", "black.png"], ["black.png has nothing white"]),
        ([*MASKED, "--outpaint", 8], ["--mask and --outpaint do not go together"]),
        (
            ["--image", "image.png", "--outpaint", 3],
            ["--outpaint is 3", "38 pixels wide", "of 4"],
        ),
        (["--image", "image.png", "--outpaint", -4, 8], ["is (-4, 8); it must be at least 0"]),
        (["--image", "image.png", "--outpaint", 0, 0], ["not all of them 0"]),
        (["--image", "image.png", "--outpaint", 4, 4, 4], ["1, 2 or 4 numbers"]),
        (
            ["--image", "image.png", "--outpaint", 8, "--strength", 0.5],
            ["--strength and --outpaint do not go together"],
        ),
        (
            ["--interpolate", 1, "--to-seed", 8],
            ["--interpolate is 1; it must be at least 2: it counts both ends"],
        ),
        (["--interpolate", 4], ["--interpolate has two ends", "this names 1"]),
        (["--interpolate", 4, "--prompt", CUBE, CUBE], ["two ends", "this names 3"]),
        (["--interpolate", 4, "--prompt", CUBE, "--to-seed", 8], ["names 2 with --to-seed"]),
        (["--interpolate", 4, "--to-seed", 0], ["--seed and --to-seed are both 0"]),
        (["--interpolate", 4, "--to-seed", -1], ["--to-seed is -1; it must be at least 0"]),
        (["--interpolate", 4, "--along", "x", "--to-seed", 1], ["'sphere'", "'line'"]),
        (["--invert", "image.png", "--sampler", "ddpm"], ["--invert needs a deterministic solver"]),
        (["--invert", "image.png", "--eta", 0.5], ["--invert needs a deterministic solver"]),
        (["--invert", "image.png", "--prompt", CUBE], ["--invert takes one", "there are 2"]),
        (["--invert", "nowhere.png"], ["--invert", "nowhere.png cannot be read"]),
        (["--invert", "image.png", "--steps", 0], ["--steps is 0"]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_nonsense_is_one_line_and_nothing_is_written(words, said, smoke, sample, files, tmp_path):
    words = [files / w if str(w).endswith(".png") else w for w in words]
    refused = sample(smoke[1], "--prompt", CUBE, *words, "--out", tmp_path / "out.png").error
    assert all(part in refused for part in said), refused
    assert list(tmp_path.iterdir()) == []


def test_an_unconditional_model_goes_from_seed_to_seed_alone(trained, sample):
    error = sample(trained("flat")[1], "--interpolate", 4).error
    assert "this model is unconditional" in error and "--to-seed" in error


def test_grey_images_are_read_for_what_the_model_samples(smoke, edited, files):
    grey = np.asarray(Image.open(files / "image.png").convert("L"))
    to_image(grey[..., None]).save(files / "grey.png")
    grid, *_ = edited(smoke[1], "--prompt", CUBE, "--image", "grey.png", "--num-images", 1)
    shown = tiles(grid, 1, 2)[0, 0]
    assert (shown[..., 0] == shown[..., 1]).all()
