"""What a published file says of itself is followed, or refused with the option that follows it."""

import json
import re

import numpy as np
import pytest

from ldm_jax.diffusion.schedule import ScheduleConfig, make_schedule
from ldm_jax.model.run_dir import RunDir
from ldm_jax.pretrained.buffers import schedule_buffers
from ldm_jax.pretrained.files import write_safetensors

pytestmark = pytest.mark.slow
pytest.importorskip("torch")
pytest.importorskip("safetensors")


def options(error):
    """The words of an error that follow a colon: what is to be given."""
    return re.findall(r"--diffusion\.\S+ [^\s;]+", error)


def words(error):
    return [word for option in options(error) for word in option.split()]


def test_another_scale_and_schedule_are_refused_with_what_follows_the_file(
    file, convert, tmp_path, words_of
):
    schedule = ScheduleConfig("linear", 1000, 0.0001, 0.02)
    path, _ = file(
        "class", scale_factor=np.float32(0.25), **schedule_buffers(make_schedule(schedule))
    )
    run = [path, *words_of("class"), "--out", tmp_path / "run"]
    error = convert(*run).error
    assert options(error) == [
        "--diffusion.scale-factor 0.25",
        "--diffusion.schedule.kind linear",
        "--diffusion.schedule.beta-start 0.0001",
        "--diffusion.schedule.beta-end 0.02",
    ]
    assert not (tmp_path / "run" / "config.json").exists()

    ended = convert(*run, *words(error))
    assert ended.code == 0, ended
    line = (
        "latents are multiplied by 0.25; the network predicts eps; noise schedule: linear, 0.0001"
    )
    assert line in ended.out
    _, experiment, _ = RunDir(tmp_path / "run").load()
    assert experiment.diffusion.schedule == schedule
    saved = RunDir(tmp_path / "run").checkpoints("diffusion").restore_part(["constants"])
    assert saved["constants"]["scale_factor"] == 0.25


def test_check_compares_what_a_file_says_as_convert_does(file, convert, words_of):
    path, _ = file("class", scale_factor=np.float32(0.25))
    ended = convert("check", path, *words_of("class"))
    assert ended.code == 2 and "--diffusion.scale-factor 0.25" in ended.err
    assert "Traceback" not in ended.err and "unet" in ended.out
    same = convert("check", path, *words_of("class"), "--diffusion.scale-factor", "0.25")
    assert same.code == 0 and same.out.endswith("one to one: yes\n")


def test_arguments_that_lightning_keeps_are_followed_or_refused(convert, file, tmp_path, words_of):
    torch = pytest.importorskip("torch")
    path, _ = file("class", scale_factor=np.float32(2.0))
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"] = {
        "parameterization": "x0", "beta_schedule": "sqrt_linear", "linear_start": 1e-4,
        "linear_end": 0.02, "timesteps": 1000, "scale_factor": 7.0,
    }  # fmt: skip
    torch.save(content, path)
    run = [path, *words_of("class"), "--out", tmp_path / "run"]
    error = convert(*run).error
    assert options(error) == [
        "--diffusion.prediction z_0",
        "--diffusion.schedule.kind linear",
        "--diffusion.schedule.beta-start 0.0001",
        "--diffusion.schedule.beta-end 0.02",
    ]
    assert convert(*run, *words(error)).code == 0


def test_the_same_in_half_precision_is_no_other(file, convert, tmp_path, words_of):
    buffers = schedule_buffers(make_schedule(ScheduleConfig()))
    half = {name: array.astype(np.float16) for name, array in buffers.items()}
    path, _ = file("class", scale_factor=np.float16(2.0), **half)
    assert convert(path, *words_of("class"), "--out", tmp_path / "run").code == 0


def test_marks_of_v_prediction(file, convert, tmp_path, words_of):
    path, arrays = file("class", v_pred=np.zeros(1, np.float32))
    run = [path, *words_of("class"), "--out", tmp_path / "run"]
    error = convert(*run).error
    assert options(error) == ["--diffusion.prediction v"]
    assert convert(*run, *words(error)).code == 0
    assert RunDir(tmp_path / "run").load()[1].diffusion.prediction == "v"

    del arrays["v_pred"]
    said = tmp_path / "said.safetensors"
    write_safetensors(said, arrays, {"modelspec.prediction_type": "v"})
    assert options(convert(said, *run[1:-2], "--out", tmp_path / "b").error) == options(error)


def test_the_configurations_of_a_pipeline(file, convert, tmp_path, words_of):
    path, _ = file("measured", scale_factor=np.float32(0.75))
    run, pipeline = tmp_path / "run", tmp_path / "pipeline"
    assert convert(path, *words_of("measured"), "--out", run).code == 0
    assert convert("export", run, "--out", pipeline).code == 0
    (pipeline / "ldm_jax.json").unlink()  # so that it is like any other
    scheduler = pipeline / "scheduler" / "scheduler_config.json"
    content = json.loads(scheduler.read_text())
    scheduler.write_text(json.dumps(content | {"prediction_type": "v_prediction"}))
    again = [pipeline, *words_of("measured"), "--out", tmp_path / "again"]
    error = convert(*again).error
    assert options(error) == ["--diffusion.prediction v"]
    assert convert(*again, *words(error)).code == 0
    saved = RunDir(tmp_path / "again").checkpoints("diffusion").restore_part(["constants"])
    assert saved["constants"]["scale_factor"] == 0.75  # the experiment leaves it open


def test_any_field_can_be_changed(file, convert, tmp_path, words_of):
    path, _ = file("class")
    run = [path, *words_of("class"), "--out", tmp_path / "run"]
    changes = ["--data.size", "32", "--diffusion.prediction", "v", "--precision", "bfloat16"]
    assert convert(*run, *changes).code == 0
    _, experiment, _ = RunDir(tmp_path / "run").load()
    assert (experiment.data.size, experiment.precision) == (32, "bfloat16")
    assert experiment.diffusion.prediction == "v"
    run[-1] = tmp_path / "other"
    assert "do not fit" in convert(*run, "--diffusion.unet.channels", "16").error
    assert "--diffusion.predictoin" in convert(*run, "--diffusion.predictoin", "v").error
    assert "must be" in convert(*run, "--diffusion.scale-factor", "-1").error
    assert "--modle" in convert(*run, "--modle", "x").error


def test_the_file_says_how_many_classes_there_are(file, convert, sample, tmp_path, words_of):
    path, arrays = file("class", ".safetensors")
    name = "cond_stage_model.embedding.weight"
    write_safetensors(tmp_path / "few.safetensors", arrays | {name: arrays[name][-4:]})
    words = [*words_of("class"), "--out", tmp_path / "run"]
    (tmp_path / "names.txt").write_text("cat\ndog\nowl\n")
    few = tmp_path / "few.safetensors"
    assert convert(few, *words, "--names", tmp_path / "names.txt").code == 0
    assert RunDir(tmp_path / "run").load()[2].class_names == ("cat", "dog", "owl")
