"""`python -m ldm_jax evaluate`: what a report holds, that it is resumed, what is refused."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
from PIL import Image

from ldm_jax.commands.evaluate.run import main
from tests.runs import image

NUM = 12
FEATURES = ("--features", "scene-reader")
ROWS = {"samples", "reconstructions", "held_out", "reconstructions_paired"}


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """A folder of 60 images with captions, of which about half are held out."""
    folder = tmp_path_factory.mktemp("squares")
    for i in range(60):
        square, colour = image(i % 12)
        square.rotate(6 * i).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a {colour} square\n")
    return folder


@pytest.fixture(scope="module")
def evaluate(command, loaded):
    return lambda *words: command(partial(main, open_model=loaded), words)


@pytest.fixture(scope="module")
def data(squares):
    return ["--data.path", squares, "--data.validation", 0.5]


@pytest.fixture(scope="module")
def judged(trained, evaluate, data, tmp_path_factory):
    """(how it ended, folder of the results, words) for a model of captions."""
    run, out = trained("captions")[1], tmp_path_factory.mktemp("results") / "evaluation"
    words = [run, *data, "--num-samples", NUM, *FEATURES, "--seed", 3, "--out", out]
    return evaluate(*words), out, words


def report(out):
    return json.loads((out / "evaluation.json").read_text())


def test_samples_and_reconstructions_of_a_run_are_judged(judged):
    ended, out, _ = judged
    assert ended.code == 0, ended.err
    assert "KID, scene-reader features: samples" in ended.out and "(N = 12)" in ended.out
    found = report(out)
    assert set(found["features"]["scene-reader"]["rows"]) == ROWS
    assert len(found["features"]["scene-reader"]["sha256_of_weights"]) == 64
    assert found["features"]["scene-reader"]["frechet_distance_is"] == "Frechet distance"
    assert set(found["distortion"]) == {"reconstructions"}  # smaller than the window of SSIM
    assert found["distortion"]["reconstructions"]["num"] == found["data"]["compared_with"] == NUM
    assert found["data"]["config"]["type"] == "FolderConfig" and found["data"]["digest"]
    assert found["model"]["condition"] == "text" and found["model"]["steps"]["diffusion"] == 4
    assert "EMA" in found["model"]["weights"] and len(found["model"]["weights_sha256"]) == 64
    sampling = {"sampler": "ddim", "steps": 2, "spacing": "quadratic", "guidance": 2.0, "eta": 0.0}
    sampling |= {"seed": 3, "num": NUM}
    assert {key: found["samples"][key] for key in sampling} == sampling
    assert "uint8" in found["samples"]["rounding"]
    with np.load(found["samples"]["file"]) as file:
        assert file["arr_0"].shape == (NUM, 8, 8, 3) and file["arr_0"].dtype == np.uint8
    assert 600 < Image.open(out / "evaluation.png").width <= 1400
    assert {file.suffix for file in out.iterdir()} == {".json", ".png", ".npz"}  # no lock


def test_the_same_command_again_samples_nothing(judged, evaluate):
    _, out, words = judged
    before = report(out)
    (samples,) = out.glob("samples-*.npz")
    written = samples.stat().st_mtime_ns
    again = evaluate(*words)
    assert again.code == 0 and "are there already" in again.err
    assert samples.stat().st_mtime_ns == written
    assert report(out)["features"] == before["features"]


def test_an_interrupted_command_samples_what_is_missing(judged, evaluate):
    """The images that were written one by one are packed only when all are there."""
    _, out, words = judged
    (samples,) = out.glob("samples-*.npz")
    with np.load(samples) as file:
        images = file["arr_0"]
    samples.unlink()
    stopped = evaluate(*words, "--batch-size", 8, "--sampler", "plms")  # other images: another file
    assert stopped.code == 0 and not samples.exists()
    assert evaluate(*words).code == 0
    with np.load(samples) as file:
        np.testing.assert_array_equal(file["arr_0"], images)


def test_a_first_stage_is_judged_by_its_reconstructions_alone(judged, evaluate, tmp_path):
    _, _, words = judged
    run = shutil.copytree(words[0], tmp_path / "first")
    shutil.rmtree(run / "checkpoints" / "diffusion")
    ended = evaluate(run, *words[1:-1], tmp_path / "out")
    assert ended.code == 0, ended.err
    found = report(tmp_path / "out")
    assert set(found["features"]["scene-reader"]["rows"]) == ROWS - {"samples"}
    assert "samples" not in found and "psnr" in found["distortion"]["reconstructions"]
    refused = evaluate(run, *words[1:-1], tmp_path / "out", "--training", True)
    assert "this model is a first stage alone" in refused.error


@pytest.mark.slow
def test_a_model_of_pixels_is_judged_by_its_samples_alone(train_tiny, evaluate, squares, tmp_path):
    words = ["--data.path", squares, "--data.validation", 0.5, "--run-dir", tmp_path / "run"]
    ended = train_tiny("folder", *words, "--autoencoder.network.bottleneck", "none")
    assert ended.code == 0, ended.err
    words = ["--num-samples", NUM, *FEATURES, "--weights", "squeezenet=none"]
    assert "there is no file none" in evaluate(tmp_path / "run", *words).error
    ended = evaluate(tmp_path / "run", *words[:-2])
    assert ended.code == 0, ended.err
    found = report(tmp_path / "run" / "evaluation")
    assert set(found["features"]["scene-reader"]["rows"]) == {"samples", "held_out"}
    assert found["distortion"] == {}


def test_copies_of_training_images_are_found(evaluate, data, squares, tmp_path):
    """Without a model: any images against the data; here those that a model has memorised."""
    copies = [np.asarray(Image.open(squares / f"{i}.png").resize((8, 8))) for i in range(20)]
    np.savez(tmp_path / "samples.npz", np.stack(copies))
    words = [
        "--samples",
        tmp_path / "samples.npz",
        *data,
        "--data.size",
        8,
        "--data.fit",
        "stretch",
    ]
    ended = evaluate(*words, *FEATURES, "--training", True, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    one = report(tmp_path / "out")["features"]["scene-reader"]
    assert set(one["rows"]) == {"samples", "held_out"}
    near = one["nearest_training"]
    assert near["closest"][0]["distance"] < 0.3 * near["held_out"]["least"]
    assert Image.open(tmp_path / "out" / "nearest.png").width <= 1400
    assert "nearest training image" in ended.out


def test_two_files_are_compared(evaluate, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", rng.integers(0, 256, (24, 8, 8, 3), np.uint8))
    np.savez(tmp_path / "b.npz", rng.integers(0, 256, (24, 8, 6, 3), np.uint8))
    words = ["--samples", tmp_path / "a.npz", "--out", tmp_path / "out", *FEATURES]
    ended = evaluate(*words, "--real", tmp_path / "a.npz")
    assert ended.code == 0, ended.err
    row = report(tmp_path / "out")["features"]["scene-reader"]["rows"]["samples"]
    assert row["frechet_distance"]["distance"] == pytest.approx(0, abs=1e-6)
    assert row["precision_recall"]["precision"] == row["precision_recall"]["recall"] == 1
    refused = evaluate(*words, "--real", tmp_path / "b.npz")
    assert "images of 8x8, and the real images are 6x8" in refused.error


def test_images_of_other_classes_or_without_captions_are_refused(evaluate, trained, tmp_path):
    out = ["--out", tmp_path / "out", *FEATURES]
    for i in range(30):
        for colour in ("blue", "green"):
            (tmp_path / "data" / colour).mkdir(parents=True, exist_ok=True)
            image(i % 12)[0].save(tmp_path / "data" / colour / f"{i}.png")

    def refused(kind, *words):
        """The last line: what folders say of themselves stands before it."""
        ended = evaluate(trained(kind)[1], *words, *out)
        assert ended.code == 2 and not (tmp_path / "out").exists(), ended
        return ended.err.splitlines()[-1]

    others = ["--data.path", tmp_path / "data", "--data.validation", 0.5]
    assert "other classes than the model (new: green; missing: red)" in refused("classes", *others)
    assert "need the condition text, which these images have not" in refused("captions", *others)
    assert "1 held out images are too few" in refused("captions")
    same = refused("captions", "--data.validation", 0.9)
    assert "images that" in same and "was trained on; leave it out" in same
    moved = refused("captions", "--data.path", tmp_path / "nowhere")
    assert "cannot be opened: the image folder" in moved


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "nothing to judge: give a MODEL"),
        (["--samples", "a.npz"], "nothing to compare with: give --real FILE"),
        (["--samples", "no.npz", "--real", "no.npz"], "--samples no.npz: there is no such file"),
        (["--samples", "a", "--real", "b", "--data.size", 8], "--real and --data do not go"),
        (
            ["--samples", "a", "--real", "b", "--training", "True"],
            "--training needs training images",
        ),
        (["--samples", "a", "--real", "b", "--num-samples", 20], "all images of --samples"),
        (["runs/none", "--num-samples", 9], "--num-samples is 9; it must be at least 10"),
        (["runs/none", "--steps", 0], "--steps is 0; it must be at least 1"),
        (["runs/none"], "runs/none is no run directory"),
        (["runs/none", "--features", "vgg"], "vgg"),
        (["runs/none", "--weights", "inception"], "give NETWORK=FILE"),
        (["runs/none", "--weights", "inception=no.pth"], "there is no file no.pth"),
        (["runs/none", "--out", "a.json"], "--out is 'a.json'; it is a folder"),
        (["runs/none", "--out", "/proc/none/a"], "cannot be written to"),
        (["runs/none", "--data.sise", 8, "--out", "a"], "runs/none is no run"),
    ],
)
def test_wrong_options_are_refused_in_one_line(evaluate, words, message):
    assert message in evaluate(*words).error
