"""Single images, arrays and animations: what is in them, and that nothing is sampled twice."""

import json
import os
import shutil
import signal
import threading

import numpy as np
import pytest
from etils import epath
from PIL import Image

from ldm_jax.commands.sample.outputs import ImageFolder, output_kind, pack
from ldm_jax.errors import UserError
from ldm_jax.lock import Lock

slow = pytest.mark.slow
IMAGES = np.random.default_rng(0).integers(0, 255, (5, 4, 6, 3), dtype=np.uint8)
RED, BLUE = "a red square", "a blue square"


def pixels(file):
    return np.asarray(Image.open(file))


@pytest.mark.parametrize(
    "out, kind",
    [("a/b.png", "grid"), ("b.GIF", "animation"), ("b.npz", "archive"), ("runs/a", "folder")],
)
def test_the_ending_decides(out, kind):
    assert output_kind(out) == kind


def test_another_ending_is_refused():
    with pytest.raises(UserError, match="--out is 'x.jpeg'; it ends with .png"):
        output_kind("x.jpeg")


def test_a_folder_has_each_image_and_what_it_is(tmp_path):
    folder = ImageFolder(epath.Path(tmp_path / "f"), {"seed": 3})
    np.testing.assert_array_equal(folder.missing(5), range(5))
    folder.write([1, 3], IMAGES[[1, 3]], ["one", "three"])
    np.testing.assert_array_equal(folder.missing(5), [0, 2, 4])
    np.testing.assert_array_equal(folder.read(3), IMAGES[3])
    text = Image.open(tmp_path / "f" / "000003.png").text
    assert text == {"seed": "3", "number": "3", "condition": "three"}
    again = ImageFolder(epath.Path(tmp_path / "f"), {"seed": 3})
    np.testing.assert_array_equal(again.missing(4), [0, 2])


def test_an_image_that_was_not_written_whole_is_not_there(tmp_path):
    folder = ImageFolder(epath.Path(tmp_path / "f"), {})
    folder.write([0], IMAGES[:1], [""])
    (tmp_path / "f" / "000001.part").write_bytes(b"half of an image")
    np.testing.assert_array_equal(folder.missing(3), [1, 2])


def test_an_image_that_is_damaged_is_named_with_the_way_out(tmp_path):
    folder = ImageFolder(epath.Path(tmp_path / "f"), {})
    folder.write([0], IMAGES[:1], [""])
    (tmp_path / "f" / "000000.png").write_bytes(b"")
    with pytest.raises(UserError, match="000000.png is damaged; remove it"):
        folder.read(0)


def test_images_of_another_kind_are_not_mixed_in(tmp_path):
    ImageFolder(epath.Path(tmp_path / "f"), {"to_seed": 3}).write([0], IMAGES[:1], [""])
    with pytest.raises(UserError, match="another kind: to-seed was 3, and is 4 now"):
        ImageFolder(epath.Path(tmp_path / "f"), {"to_seed": 4})
    with pytest.raises(UserError, match="was 3, and is None now"):
        ImageFolder(epath.Path(tmp_path / "f"), {})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="has other files in it; --out is a new folder"):
        ImageFolder(epath.Path(tmp_path / "mine"), {})


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe{}", b"null"])
def test_a_folder_that_says_no_longer_what_it_has_is_refused(content, tmp_path):
    ImageFolder(epath.Path(tmp_path / "f"), {"seed": 3}).write([0], IMAGES[:1], [""])
    (tmp_path / "f" / "settings.json").write_bytes(content)
    with pytest.raises(UserError, match="settings.json is damaged.*another --out, or remove"):
        ImageFolder(epath.Path(tmp_path / "f"), {"seed": 3})


@pytest.mark.parametrize("grey", [False, True])
def test_an_archive_is_read_by_numpy_as_adms_evaluation_does(grey, tmp_path):
    images = IMAGES[..., :1] if grey else IMAGES
    folder = ImageFolder(epath.Path(tmp_path / "parts"), {})
    folder.write(range(5), images, [""] * 5)
    pack(folder, 5, epath.Path(tmp_path / "a.npz"), np.arange(5, dtype=np.int32))
    with np.load(tmp_path / "a.npz") as file:
        assert set(file) == {"arr_0", "arr_1"}
        np.testing.assert_array_equal(file["arr_0"], np.broadcast_to(images, IMAGES.shape))
        np.testing.assert_array_equal(file["arr_1"], range(5))
        assert file["arr_0"].dtype == np.uint8 and file["arr_1"].dtype == np.int64
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


@pytest.fixture
def interrupt():
    """`interrupt(folder)`: SIGINT for this process once an image is in the folder, as by Ctrl-C."""
    over = threading.Event()
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)

    def watch(folder):
        while not over.wait(0.005):
            if next(folder.glob("*.png"), None):
                os.kill(os.getpid(), signal.SIGINT)
                return

    yield lambda folder: threading.Thread(target=watch, args=[folder], daemon=True).start()
    over.set()
    signal.signal(signal.SIGINT, handler)


@slow
def test_an_interrupted_command_goes_on_and_ends_in_the_same_images(
    trained, sample, interrupt, tmp_path
):
    _, run = trained("captions")
    words = [run, "--prompt", RED, BLUE, "--num-images", 5, "--batch-size", 2, "--steps", 300]
    assert sample(*words, "--out", tmp_path / "whole").code == 0
    interrupt(tmp_path / "f")
    stopped = sample(*words, "--out", tmp_path / "f")
    assert stopped.code == 130 and "everything saved so far is kept" in stopped.err
    there = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "f").glob("*.png")}
    assert 0 < len(there) < 10
    ended = sample(*words, "--out", tmp_path / "f")
    assert ended.code == 0 and ended.out == f"10 images in {tmp_path / 'f'}\n"
    assert f"{len(there)} of 10 images are there already" in ended.err
    assert len(list((tmp_path / "f").glob("*.png"))) == 10
    for path in (tmp_path / "f").glob("*.png"):
        np.testing.assert_array_equal(pixels(path), pixels(tmp_path / "whole" / path.name))
        assert path.name not in there or path.stat().st_mtime_ns == there[path.name]
    label = Image.open(tmp_path / "f" / "000007.png").text["condition"]
    assert label == BLUE and json.loads((tmp_path / "f" / "settings.json").read_text())["seed"]
    again = sample(*words, "--out", tmp_path / "f")
    assert again.code == 0 and "sampling" not in again.err


@slow
def test_a_run_that_lies_elsewhere_completes_its_folder(trained, sample, tmp_path, monkeypatch):
    """Its path may be spelled in another way, and so may that of an image."""
    _, run = trained("captions")
    Image.fromarray(IMAGES[0]).save(tmp_path / "x.png")
    words = ["--prompt", RED, "--image", tmp_path / "x.png", "--steps", 2, "--out", tmp_path / "f"]
    assert sample(f"{run}/", *words).code == 0
    before = {path.name: pixels(path) for path in (tmp_path / "f").glob("*.png")}
    copy = shutil.copytree(run, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f" / "000001.png").unlink()
    words[3] = "../" + tmp_path.name + "/x.png"
    again = sample(copy.name, *words)
    assert again.code == 0 and "3 of 4 images are there already" in again.err
    for name, image in before.items():
        np.testing.assert_array_equal(pixels(tmp_path / "f" / name), image)
    Image.fromarray(IMAGES[1]).save(tmp_path / "x.png")
    assert "images of another kind: image was crc32 " in sample(run, *words).error


@slow
def test_two_commands_do_not_write_into_one_folder(trained, sample, tmp_path):
    _, run = trained("captions")
    for out in ("f", "f.npz"):
        words = [run, "--prompt", RED, "--num-images", 2, "--steps", 2, "--out", tmp_path / out]
        held = Lock(epath.Path(tmp_path / ("f" if out == "f" else "f.npz.parts")), "--out")
        held.acquire()
        assert f"is in use by process {os.getpid()} on" in sample(*words).error
        held.release()
        assert sample(*words).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "f.npz"]
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == [
        "000000.png",
        "000001.png",
        "settings.json",
    ]


@slow
def test_images_that_are_removed_are_sampled_again_alone(trained, sample, tmp_path):
    """Also one out of the middle of a batch, and each stays what it was."""
    _, run = trained("captions")
    words = [run, "--prompt", RED, BLUE, "--num-images", 3, "--steps", 2, "--out", tmp_path / "f"]
    assert sample(*words).code == 0
    before = {path.name: pixels(path) for path in (tmp_path / "f").glob("*.png")}
    for number in (1, 4):
        (tmp_path / "f" / f"{number:06d}.png").unlink()
    again = sample(*words)
    assert again.code == 0 and "4 of 6 images are there already" in again.err
    assert "2/2" in again.err  # so many are sampled
    for name, image in before.items():
        np.testing.assert_array_equal(pixels(tmp_path / "f" / name), image)


@slow
def test_more_images_of_one_condition_begin_with_those_there_are(trained, sample, tmp_path):
    _, run = trained("captions")
    words = [run, "--prompt", RED, "--steps", 2, "--out", tmp_path / "f", "--num-images"]
    assert sample(*words, 2).code == 0
    more = sample(*words, 3)
    assert more.code == 0 and "2 of 3 images are there already" in more.err
    other = sample(run, "--prompt", BLUE, "--steps", 2, "--out", tmp_path / "f").error
    assert "conditions was a red square, and is a blue square now" in other


@slow
def test_a_model_of_classes_writes_every_class_and_its_number(trained, sample, tmp_path):
    _, run = trained("classes")
    out = tmp_path / "a.npz"
    words = [run, "--class-label", "all", "--num-images", 2, "--steps", 2, "--out", out]
    assert sample(*words).out == f"4 images in {out}\n"
    with np.load(out) as file:
        np.testing.assert_array_equal(file["arr_1"], [0, 0, 1, 1])
        assert file["arr_0"].shape == (4, 8, 8, 3) and file["arr_0"].std() > 5
    assert "is there already" in sample(*words).error


@slow
def test_animations_and_trajectories_end_in_the_image(trained, sample, tmp_path):
    _, run = trained("flat")
    words = [run, "--num-images", 2, "--steps", 5]
    assert sample(*words, "--out", tmp_path / "a.gif").code == 0
    with Image.open(tmp_path / "a.gif") as file:
        assert file.n_frames > 1 and b"steps: 5" in file.info["comment"]
    ended = sample(*words, "--trajectory", 3, "--out", tmp_path / "a.png")
    assert ended.out == f"2 images and 3 estimates of each in {tmp_path / 'a.png'}\n", ended.err
    assert sample(*words, "--out", tmp_path / "b.png").code == 0
    with_estimates, alone = pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png")
    np.testing.assert_array_equal(with_estimates[:144, -144:], alone[:144, :144])
    assert not np.array_equal(with_estimates[:144, :144], alone[:144, :144])


@slow
def test_edited_images_may_be_written_one_by_one(trained, photographs, sample, tmp_path):
    _, run = trained("flat")
    image = photographs / "flat" / "0.png"
    ended = sample(run, "--image", image, "--num-images", 2, "--steps", 2, "--out", tmp_path / "f")
    assert ended.code == 0, ended.err
    assert pixels(tmp_path / "f" / "000001.png").shape == (8, 8, 3)
    cutout = np.random.default_rng(0).integers(0, 256, (8, 8, 4)).astype(np.uint8)
    cutout[..., 3] = 255
    cutout[2:6, 2:6, 3] = 0
    Image.fromarray(cutout).save(tmp_path / "cutout.png")
    words = [run, "--image", tmp_path / "cutout.png", "--mask", "alpha", "--steps", 2]
    for _ in range(2):  # the second time all is there
        ended = sample(*words, "--num-images", 2, "--out", tmp_path / "g")
        assert ended.code == 0, ended.err
    kept = cutout[..., 3] == 255
    np.testing.assert_array_equal(pixels(tmp_path / "g" / "000001.png")[kept], cutout[kept][:, :3])


@slow
@pytest.mark.parametrize(
    "words, said",
    [
        (["--trajectory", 3, "--out", "a.gif"], "--trajectory is a number of columns of a grid"),
        (["--trajectory", -1], "--trajectory is -1; it must be at least 0"),
        (["--interpolate", 3, "--out", "a.gif"], "it is FILE.png or FILE.npz or FOLDER"),
        (["--interpolate", 3, "--trajectory", 3], "--interpolate takes no --trajectory"),
        (["--invert", "x.png", "--out", "a.npz"], "with --invert it is FILE.png"),
        (["--reconstruct", "x.png", "--out", "folder"], "with --reconstruct it is FILE.png"),
    ],
)
def test_what_does_not_go_together_is_said(words, said, trained, sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in sample(trained("flat")[1], *words).error
    assert not list(tmp_path.iterdir())
