"""Every task of the paper: it trains, is judged, leaves a figure, and draws from a file."""

import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

from ldm_jax.commands.evaluate.run import main as evaluate_main
from ldm_jax.data.scenes import ScenesConfig, ScenesSource

pytestmark = pytest.mark.slow

KINDS = ("none", "layout", "semantic", "super-resolution", "inpainting")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What a user would have: an image, a mask, a map, a layout."""
    folder = tmp_path_factory.mktemp("files")
    scene = ScenesSource(ScenesConfig(48, "full", 1), extras=("semantic",)).read([0])
    Image.fromarray(scene["image"][0][:33]).save(folder / "image.png")  # 48 wide, 33 high
    Image.fromarray(scene["semantic"][0]).save(folder / "map.png")
    mask = np.zeros((33, 48), np.uint8)
    mask[8:20, 10:30] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    thing = {"label": "red ball", "box": [0.1, 0.4, 0.4, 0.8]}
    (folder / "layout.json").write_text(json.dumps({"objects": [thing]}))
    return folder


def words_for(kind, files):
    return {
        "none": [],
        "layout": ["--layout", files / "layout.json"],
        "semantic": ["--semantic-map", files / "map.png"],
        "super-resolution": ["--low-res", files / "image.png"],
        "inpainting": ["--image", files / "image.png", "--mask", files / "mask.png"],
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_trains_is_judged_and_leaves_a_figure(kind, trained_task):
    ended, run = trained_task(kind)
    assert ended.code == 0, ended.err
    summary = json.loads((run / "summary.json").read_text())["diffusion"]
    assert summary["finished"]
    if kind in ("super-resolution", "inpainting"):
        other = "bicubic" if kind == "super-resolution" else "mean_fill"
        scores = summary["restored"]
        assert set(scores) == {"samples", other, "reconstructed", "images", "guidance"}
        assert all(set(scores[who]) == {"psnr", "ssim"} for who in ("samples", other))
        assert scores[other]["ssim"] > 0.3 and other.replace("_", " ") in ended.out
    else:
        number = {"none": "valid", "layout": "iou", "semantic": "mean_iou"}[kind]
        scores = summary["reader"]
        assert scores["ceiling"][number] > max(0.3, scores["reconstructed"][number])
        assert 0 <= scores["samples"][number] <= 1 and "reconstructed" in ended.out
        assert "true renders" in ended.out
    figure = np.asarray(Image.open(run / "samples.png"))
    assert figure.std() > 10


@pytest.mark.parametrize("kind", ["super-resolution", "inpainting"])
def test_evaluate_compares_with_the_simplest_restoration(
    kind, trained_task, command, loaded, tmp_path
):
    main = partial(evaluate_main, open_model=loaded)
    words = [trained_task(kind)[1], "--num-samples", 12, "--out", tmp_path / "out"]
    ended = command(main, words)
    assert ended.code == 0, ended.err
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    simplest = {"super-resolution": "bicubic", "inpainting": "mean_fill"}[kind]
    compared = {"samples", simplest, "reconstructions", "blurred"}
    rows = compared | {"held_out", "reconstructions_paired"}
    assert set(found["features"]["scene-reader"]["rows"]) == rows
    assert set(found["distortion"]) == compared
    assert (
        found["distortion"][simplest]["psnr"] > 12 and found["distortion"][simplest]["ssim"] > 0.3
    )
    assert np.asarray(Image.open(tmp_path / "out" / "evaluation.png")).std() > 10


SIZES = {
    "none": (32, 32),
    "layout": (32, 32),
    "semantic": (48, 48),
    "super-resolution": (66, 96),
    "inpainting": (32, 48),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_draws_from_its_file(kind, trained_task, files, sample, tmp_path):
    run = trained_task(kind)[1]
    words = [run, *words_for(kind, files), "--num-images", 2]
    ended = sample(*words, "--out", tmp_path / "f")
    assert ended.code == 0 and ended.out == f"2 images in {tmp_path / 'f'}\n", ended.err
    result = np.asarray(Image.open(tmp_path / "f" / "000001.png"))
    assert result.shape == (*SIZES[kind], 3)
    if kind == "inpainting":
        image, mask = (np.asarray(Image.open(files / f))[:32] for f in ("image.png", "mask.png"))
        np.testing.assert_array_equal(result[mask == 0], image[mask == 0])
        assert not np.array_equal(result[mask > 0], image[mask > 0])
    assert sample(*words, "--out", tmp_path / "a.png").code == 0
    assert np.asarray(Image.open(tmp_path / "a.png")).std() > 10
    if kind != "none":
        sized = sample(*words, "--height", 16, "--width", 24, "--out", tmp_path / "s")
        assert sized.code == 0, sized.err
        assert np.asarray(Image.open(tmp_path / "s" / "000000.png")).shape == (16, 24, 3)


def test_known_pixels_are_unchanged_on_the_way_too(trained_task, files, sample, loaded, tmp_path):
    """In every estimate: of the library, in the grid of --trajectory, in the frames of a .gif."""
    run = trained_task("inpainting")[1]
    image, mask = (np.asarray(Image.open(files / f))[:32] for f in ("image.png", "mask.png"))
    estimates = loaded(run).sample({"image": image, "mask": mask > 0}, steps=3, trajectory=True)
    assert estimates.shape == (1, 3, 32, 48, 3)
    for x in estimates[0]:
        np.testing.assert_array_equal(x[mask == 0], image[mask == 0])
    words = [run, *words_for("inpainting", files), "--num-images", 1, "--steps", 3]
    assert sample(*words, "--trajectory", 2, "--out", tmp_path / "a.png").code == 0
    first = np.asarray(Image.open(tmp_path / "a.png"))[: 5 * 32 : 5, : 5 * 48 : 5]
    np.testing.assert_array_equal(first[mask == 0], image[mask == 0])
    assert sample(*words, "--out", tmp_path / "a.gif").code == 0
    with Image.open(tmp_path / "a.gif") as file:
        frame = np.asarray(file.convert("RGB"))[: 3 * 32 : 3, : 3 * 48 : 3].astype(int)
    assert np.abs(frame - image)[mask == 0].mean() < 4  # 256 colours


def test_a_mask_is_cut_as_its_image_is(trained_task, sample, tmp_path):
    """Each white pixel is painted, and no other; also where a border is cut off on all sides."""
    pixels = np.random.default_rng(0).integers(0, 255, (39, 51, 3), dtype=np.uint8)
    mask = np.random.default_rng(1).random((39, 51)) < 0.3
    Image.fromarray(pixels).save(tmp_path / "image.png")
    Image.fromarray(np.uint8(255 * mask)).save(tmp_path / "mask.png")
    words = ["--image", tmp_path / "image.png", "--mask", tmp_path / "mask.png"]
    run = trained_task("inpainting")[1]
    assert sample(run, *words, "--num-images", 1, "--out", tmp_path / "f").code == 0
    drawn = np.asarray(Image.open(tmp_path / "f" / "000000.png"))
    (h, w), (top, left) = drawn.shape[:2], ((39 - 38) // 2, (51 - 50) // 2)
    assert (h, w) == (38, 50)
    image, hole = (x[top : top + h, left : left + w] for x in (pixels, mask))
    np.testing.assert_array_equal(drawn[~hole], image[~hole])
    assert (drawn[hole] != image[hole]).any(axis=-1).mean() > 0.9


def test_the_condition_decides(trained_task, files, sample, tmp_path):
    """Another map, with the same noise, is another image."""
    run = trained_task("semantic")[1]
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(tmp_path / "sky.png")
    for name, file in (("a", files / "map.png"), ("b", tmp_path / "sky.png")):
        words = ["--semantic-map", file, "--num-images", 1, "--out", tmp_path / name]
        assert sample(run, *words).code == 0
    a, b = (np.asarray(Image.open(tmp_path / name / "000000.png")) for name in "ab")
    assert not np.array_equal(a, b)
    (tmp_path / "sky.png").write_bytes((files / "map.png").read_bytes())
    again = sample(run, *words[:4], "--out", tmp_path / "b").error
    assert "has images of another kind: semantic-map was crc32 " in again


@pytest.mark.parametrize(
    "kind, words, said",
    [
        ("layout", [], "trained for layout: give --layout FILE.json"),
        ("layout", ["--layout", "nowhere"], "--layout nowhere cannot be read"),
        ("layout", ["--layout", "text"], "the layout is not JSON"),
        ("layout", ["--low-res", "image"], "--low-res is not what this model was trained on"),
        ("layout", ["--prompt", "a"], "give --layout FILE.json"),
        (
            "layout",
            ["--layout", "layout.json", "--prompt", "a"],
            "--prompt is not what this model was trained on; it takes --layout FILE.json",
        ),
        (
            "layout",
            ["--layout", "layout.json", "--classifier-scale", 2],
            "--classifier-scale does not go with a model for layout",
        ),
        ("none", ["--layout", "x"], "--layout is not what this model was trained on"),
        ("semantic", ["--semantic-map", "text"], "cannot be read as a map"),
        ("semantic", ["--semantic-map", "image"], "cannot be read as a map"),
        ("semantic", ["--semantic-map", "high"], "has class 9; this model knows 0 to 5"),
        ("super-resolution", ["--low-res", "text"], "--low-res text cannot be read as an image"),
        ("inpainting", ["--image", "image"], "give --image FILE.png --mask FILE.png"),
        ("inpainting", ["--image", "image", "--mask", "high"], "they must be of one size"),
        ("inpainting", ["--image", "image", "--mask", "mask", "--strength", 0.5], "no --strength"),
    ],
)
def test_the_wrong_condition_is_said(kind, words, said, trained_task, files, sample, monkeypatch):
    monkeypatch.chdir(files)
    (files / "text").write_text("dear reader")
    (files / "image").write_bytes((files / "image.png").read_bytes())
    (files / "mask").write_bytes((files / "mask.png").read_bytes())
    Image.fromarray(np.full((48, 48), 9, np.uint8)).save(files / "high", format="png")
    assert said in sample(trained_task(kind)[1], *words).error


def test_data_without_what_a_task_needs_is_refused(train_tiny, photographs, tmp_path):
    for kind in ("layout", "semantic", "text"):
        words = ["--data.path", photographs / "flat", "--diffusion.condition", kind]
        ended = train_tiny("folder", *words, "--run-dir", tmp_path / "r")
        said = f"error: --diffusion.condition is {kind}, but this data has only what is needed"
        assert ended.code == 2 and ended.err.splitlines()[-1].startswith(said)
