"""`python sample.py RUN`: what it draws, and one line for what it cannot draw."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax.model.run_dir import RunDir
from ldm_jax.training.step import TrainState

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(trained):
    """A finished run that was trained on captions."""
    return trained("captions")[1]


@pytest.fixture
def drawn(sample, run, tmp_path):
    """`drawn('--seed', 1)`: the bytes of the PNG that `sample.py RUN --seed 1` writes."""

    def draw(*words):
        words = words if {"--prompt", "--from-file"} & {*words} else ["--prompt", RED, *words]
        out = tmp_path / "out.png"
        ended = sample(run, "--num-images", 3, *words, "--out", out)
        assert ended.code == 0, ended.err
        return out.read_bytes()

    return draw


RED, BLUE = "a red square", "a blue square"


def test_the_real_command_draws_from_a_run(smoke, process, ended, tmp_path):
    out = tmp_path / "new" / "cubes.png"
    words = ["--prompt", "a red cube", "--num-images", 2, "--out", out]
    finished = ended(process("sample.py", smoke[1], *words))
    assert finished.code == 0 and finished.out == f"2 images in {out}\n", finished.err
    assert "sampling: 100%" in finished.err and "Traceback" not in finished.err
    image = Image.open(out)
    assert np.asarray(image).std() > 5
    assert image.text == {
        "model": str(smoke[1]),
        "sampler": "ddim",
        "steps": "5",
        "spacing": "quadratic",
        "guidance": "3.0",
        "guidance_rescale": "0.0",
        "eta": "0.0",
        "temperature": "1.0",
        "seed": "0",
        "conditions": "a red cube\na red cube",
    }


def test_captions_may_follow_one_option_or_several_or_lie_in_a_file(drawn, tmp_path):
    (tmp_path / "captions.txt").write_text(f"{RED}\n\n  {BLUE}\n")
    one = drawn("--prompt", RED, BLUE)
    assert one == drawn("--prompt", RED, "--prompt", BLUE)
    assert one == drawn("--from-file", tmp_path / "captions.txt")
    assert one != drawn("--prompt", BLUE, RED)


def test_the_same_seed_gives_the_same_bytes_at_any_batch_size(drawn):
    assert drawn("--seed", 5) == drawn("--seed", 5, "--batch-size", 2) != drawn("--seed", 6)


def test_the_settings_are_written_down_and_change_the_images(drawn, tmp_path):
    ways = [
        {},
        {"sampler": "ddpm", "steps": "3", "guidance": "9.0"},
        {"eta": "1.0"},
        {"sampler": "dpmpp-2m", "spacing": "log-snr"},
        {"negative-prompt": BLUE, "guidance": "99.0"},  # a tiny model hardly knows words
    ]
    images = []
    for settings in ways:
        drawn(*(word for name, value in settings.items() for word in (f"--{name}", value)))
        image = Image.open(tmp_path / "out.png")
        written = {name.replace("-", "_"): value for name, value in settings.items()}
        assert written.items() <= image.text.items()
        images.append(np.asarray(image).tobytes())
    assert len(set(images)) == len(ways)


def test_timesteps_may_be_given_in_place_of_steps(drawn, tmp_path):
    words = ["--timesteps", 999, 499]
    given = drawn(*words)
    text = Image.open(tmp_path / "out.png").text
    assert text["timesteps"] == "(999, 499)" and not {"steps", "spacing"} & text.keys()
    assert given == drawn(*words) != drawn("--timesteps", 999, 250)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--prompt", RED, "--timesteps", 5, 9], ["timesteps are 5 9; they decrease, from 999"]),
        (["--prompt", RED, "--negative-prompt", "a puce square"], ["unknown words: puce"]),
        (
            ["--prompt", RED, "--negative-prompt", BLUE, "--guidance", 1],
            ["a negative prompt does nothing without guidance"],
        ),
        (
            ["--prompt", RED, "--guidance-rescale", 0.7, "--guidance", 1],
            ["guidance rescale does nothing without guidance"],
        ),
        ([], ['this model was trained on captions: give --prompt "..." or --from-file FILE']),
        (["--prompt"], ["give --prompt"]),
        (["--prompt", "a puce square"], ["unknown words: puce", "a blue red square"]),
        (["--prompt", "a a a a"], ["4 words; this model takes 3"]),
        (["--class-label", "red"], ["trained on captions: use --prompt"]),
        (["--prompt", RED, "--steps", 0], ["--steps is 0; it must be at least 1"]),
        (["--prompt", RED, "--steps", 1001], ["steps is 1001; this model takes 1 to 1000"]),
        (["--prompt", RED, "--eta", 2], ["--eta is 2.0; it must be at most 1"]),
        (["--prompt", RED, "--seed", -1], ["--seed is -1; it must be at least 0"]),
        (["--prompt", RED, "--sampler", "rk4"], ["'rk4'", "'ddim'", "'dpmpp-2m'"]),
        (["--prompt", RED, "--spacing", "cubic"], ["'cubic'", "'log-snr'"]),
        (["--prompt", RED, "--sampler", "plms", "--eta", 1], ["eta is 1.0", "sampler plms"]),
        (["--prompt", RED, "--steps", 300, "--spacing", "compvis"], ["work: 250 or 334"]),
        (["--prompt", RED, "--num-images", 0], ["--num-images", "at least 1"]),
        (["--prompt", RED, "--batch-size", 0], ["--batch-size", "at least 1"]),
        (["--prompt", RED, "--out", "x.jpg"], ["--out is 'x.jpg'", ".png"]),
        (["--prompt", RED, "--out", "file/x.png"], ["file is not a folder"]),
        (["--from-file", "nowhere.txt"], ["--from-file nowhere.txt cannot be read"]),
        (["--from-file", "file"], ["--from-file file has no line"]),
        (["--zebra"], ["--zebra", "sample.py --help"]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_bad_input_is_one_line_and_draws_nothing(words, said, run, sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("\n")
    error = sample(run, *words).error
    assert all(part in error for part in said), error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("place", ["nowhere", "file"])
def test_what_is_no_run_is_refused(place, sample, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "is no run directory" in sample(tmp_path / place, "--prompt", RED).error


def test_the_name_of_an_experiment_is_explained(sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = sample("scenes-class", "--class-label", "red ball").error
    assert "is an experiment" in error and "python train.py scenes-class" in error


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda c: c["config"]["diffusion"]["unet"].update(channels=16), "unet/"),
        (lambda c: c["data"]["vocabulary"].append("zebra"), "tau/tok_emb/embedding"),
        (lambda c: c["config"]["autoencoder"]["network"].update(z_channels=3), "conv_in"),
    ],
    ids=["channels", "vocabulary", "first stage"],
)
def test_a_checkpoint_of_other_networks_than_the_configuration_is_refused(
    change, named, run, sample, tmp_path
):
    copy = shutil.copytree(run, tmp_path / "run")
    content = json.loads((copy / "config.json").read_text())
    change(content)
    (copy / "config.json").write_text(json.dumps(content))
    error = sample(copy, "--prompt", RED).error
    assert "its checkpoint does not fit its config.json" in error and named in error


def test_a_model_that_is_still_in_its_first_stage_is_refused(run, sample, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(copy / "checkpoints" / "diffusion")
    (copy / "summary.json").write_text(json.dumps({"wall_seconds": 1.0}))
    error = sample(copy, "--prompt", RED).error
    assert "this model is a first stage: it encodes and decodes, but has no UNet" in error


def test_a_damaged_checkpoint_is_passed_over_and_said(run, sample, damage, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    damage(copy, "diffusion", 4)
    drawn = sample(copy, "--prompt", RED, "--out", tmp_path / "a.png")
    assert drawn.code == 0, drawn.err
    assert f"Checkpoint {copy}/checkpoints/diffusion/4 is damaged" in drawn.err


def test_only_damaged_checkpoints_are_an_error(run, sample, damage, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    for step in RunDir(copy).checkpoints("diffusion").steps():
        damage(copy, "diffusion", step)
    refused = sample(copy, "--prompt", RED)
    assert refused.code == 2 and "Traceback" not in refused.err
    last = refused.err.splitlines()[-1]
    assert last.startswith("error: Every checkpoint in") and "Remove the folder" in last


def test_weights_that_are_no_numbers_are_refused(run, sample, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    checkpoints = RunDir(copy).checkpoints("diffusion")
    names = ("step", "params", "ema", "opt_state", "constants")
    state = TrainState(**checkpoints.restore_part(names))
    ema = jax.tree.map(lambda array: np.full_like(array, np.nan), state.ema)
    checkpoints.save(99, dataclasses.replace(state, ema=ema))
    checkpoints.close()
    assert "hold NaN or infinity" in sample(copy, "--prompt", RED).error
