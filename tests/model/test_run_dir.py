"""A run directory: whose it is, and what is refused."""

import dataclasses
import json

import pytest

from ldm_jax.errors import UserError
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.model.data_info import DataInfo
from ldm_jax.model.run_dir import RunDir

INFO = DataInfo(3, "text", vocabulary=("ball", "red"), caption_length=2)


@pytest.fixture
def begun(tmp_path):
    """The directory of a run of smoke that has begun."""
    run = RunDir(tmp_path / "run")
    run.begin("smoke", EXPERIMENTS["smoke"](), INFO)
    return run.path


def test_a_run_that_has_begun_can_be_loaded(begun):
    assert RunDir(begun).load() == ("smoke", EXPERIMENTS["smoke"](), INFO)
    RunDir(begun).check("smoke", EXPERIMENTS["smoke"]())
    RunDir(begun).begin("smoke", EXPERIMENTS["smoke"](), INFO)


def test_another_configuration_is_refused_with_both_values(begun, train):
    before = (begun / "config.json").read_text()
    words = ["--seed", 4, "--autoencoder.network.channel-mult", 1, 1, "--run-dir", begun]
    error = train("smoke", *words).error
    assert f"{begun} belongs to another configuration" in error
    assert "--seed is 0 there, 4 here" in error
    assert "--autoencoder.network.channel-mult is [1, 2] there, [1, 1] here" in error
    assert error.count(" there, ") == 2
    assert (begun / "config.json").read_text() == before


def test_a_run_may_go_on_with_other_devices_threads_and_memory(begun):
    ours = EXPERIMENTS["smoke"]()
    RunDir(begun).check(
        "smoke",
        dataclasses.replace(
            ours,
            mesh=dataclasses.replace(ours.mesh, fsdp=4),
            loader=dataclasses.replace(ours.loader, threads=3),
            diffusion=dataclasses.replace(ours.diffusion, remat=True),
        ),
    )


def test_another_experiment_is_refused(begun, train):
    error = train("scenes", "--run-dir", begun).error
    assert "belongs to the experiment 'smoke', not 'scenes'" in error


def test_other_data_is_refused(begun):
    other = dataclasses.replace(INFO, vocabulary=("ball", "blue"))
    with pytest.raises(UserError, match=r"has changed since the run began \(vocabulary\)"):
        RunDir(begun).begin("smoke", EXPERIMENTS["smoke"](), other)


def test_another_folder_is_refused_and_left_alone(train, sample, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    assert "is not empty and holds no config.json" in train("smoke", "--run-dir", tmp_path).error
    assert "is no run directory" in sample(tmp_path, "--prompt", "a cube").error
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_start_killed_while_it_wrote_its_configuration_can_begin_again(tmp_path):
    (tmp_path / "config.json.part").write_text('{"version"')
    RunDir(tmp_path).check("smoke", EXPERIMENTS["smoke"]())


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda text: text[:-9], "config.json is damaged"),
        (lambda text: "", "config.json is damaged"),
        (lambda text: "[]", "holds no JSON object"),
        (lambda text: "{}", "has version None"),
        (lambda text: text.replace('"version": 2', '"version": 9'), "has version 9"),
        (lambda text: text.replace('"experiment"', '"x"'), "damaged: 'experiment'"),
        (lambda text: text.replace('"seed"', '"sead"'), "unknown fields sead"),
        (lambda text: text.replace('"seed": 0', '"seed": "no"'), "'no' where int is expected"),
        (lambda text: text.replace('"size": 32', '"size": 32.5'), "32.5 where int is expected"),
        (lambda text: text.replace('"ScenesConfig"', '"Photographs"'), "damaged"),
        (lambda text: text.replace('"float32"', '"float8"'), "'float8' where"),
    ],
)
def test_a_damaged_configuration_is_one_line_for_both_commands(begun, damage, said, train, sample):
    file = begun / "config.json"
    file.write_text(damage(file.read_text()))
    before = file.read_text()
    for refused in (train("smoke", "--run-dir", begun), sample(begun, "--prompt", "a ball")):
        assert said in refused.error
    assert file.read_text() == before


def test_the_time_of_all_starts_adds_up(begun):
    (begun / "summary.json").write_text(json.dumps({"wall_seconds": 1000.0, "device": "cpu"}))
    run = RunDir(begun)
    run.begin("smoke", EXPERIMENTS["smoke"](), INFO)
    run.record(diffusion={"steps": 5})
    summary = run.summary()
    assert 1000 <= summary.pop("wall_seconds") < 1100
    assert summary == {"device": "cpu", "diffusion": {"steps": 5}}
