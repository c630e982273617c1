"""A run directory: whose it is, and what is refused."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest

from ldm_jax.errors import UserError
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.model.data_info import DataInfo
from ldm_jax.model.run_dir import RunDir
from ldm_jax.training.step import TrainState

INFO = DataInfo(3, "text", vocabulary=("ball", "red"), caption_length=2)


@pytest.fixture
def started(tmp_path):
    """The directory of a run of smoke that has started."""
    run = RunDir(tmp_path / "run")
    run.begin("smoke", EXPERIMENTS["smoke"](), INFO)
    return run.path


@pytest.fixture
def begun(started):
    """The directory of a run of smoke whose stages have checkpoints."""
    state = TrainState(np.int32(20), {"w": np.ones(2, np.float32)}, None, {}, {})
    for stage in ("autoencoder", "diffusion"):
        checkpoints = RunDir(started).checkpoints(stage)
        checkpoints.save(20, state)
        checkpoints.close()
    return started


def test_a_run_that_has_begun_can_be_loaded(begun):
    run, ours = RunDir(begun), EXPERIMENTS["smoke"]()
    assert run.load() == ("smoke", ours, INFO)
    assert run.resumed("smoke", ours) == ours
    assert run.begun() == {"autoencoder": 20, "diffusion": 20}
    run.begin("smoke", ours, INFO)


def test_another_configuration_is_refused_with_both_values(begun, train):
    before = (begun / "config.json").read_text()
    words = ["--seed", 4, "--autoencoder.network.channel-mult", 1, 1, "--run-dir", begun]
    error = train("smoke", *words).error
    assert f"{begun} belongs to another configuration" in error
    assert "--seed is 0 there, 4 here" in error
    assert "--autoencoder.network.channel-mult is [1, 2] there, [1, 1] here" in error
    assert error.count(" there, ") == 2
    assert (begun / "config.json").read_text() == before


def test_what_a_run_goes_on_with_is_kept_and_worth_a_line(begun, caplog):
    ours = EXPERIMENTS["smoke"]()
    wider = dataclasses.replace(ours, mesh=dataclasses.replace(ours.mesh, fsdp=4))
    assert RunDir(begun).resumed("smoke", wider) == wider
    with caplog.at_level("INFO"):
        RunDir(begun).begin("smoke", wider, INFO)
    assert "--mesh.fsdp is 4 now, 1 before: changes results by rounding alone" in caplog.text
    assert RunDir(begun).load()[1] == wider


def test_the_classifier_is_configured_by_a_start_that_trains_it(begun):
    ours = EXPERIMENTS["smoke"]()
    other = dataclasses.replace(ours, classifier=dataclasses.replace(ours.classifier, steps=7))
    assert RunDir(begun).resumed("smoke", other) == ours
    assert RunDir(begun).resumed("smoke", other, "classifier") == other


def test_another_experiment_is_refused_once_a_stage_has_begun(begun, train):
    error = train("scenes", "--run-dir", begun).error
    assert "belongs to the experiment 'smoke', not 'scenes'" in error


def test_before_its_first_checkpoint_a_run_can_be_started_otherwise(started):
    run, other = RunDir(started), EXPERIMENTS["scenes"]()
    assert run.resumed("scenes", other).autoencoder == other.autoencoder
    info = dataclasses.replace(INFO, vocabulary=("ball", "blue"))
    run.begin("scenes", other, info)
    assert run.load() == ("scenes", other, info)


def test_data_with_other_words_is_refused(begun):
    other = dataclasses.replace(INFO, vocabulary=("ball", "blue"))
    said = r"has changed since the run began: vocabulary \(new: blue; gone: red\)"
    with pytest.raises(UserError, match=said):
        RunDir(begun).resumed_info(other)


def test_other_data_is_refused_unless_told_otherwise(begun, caplog):
    run, ours = RunDir(begun), EXPERIMENTS["smoke"]()
    known = dataclasses.replace(INFO, images=11, held_out=1, files_digest="1")
    run.begin("smoke", ours, known)
    assert run.resumed_info(known) == known
    fewer = dataclasses.replace(known, images=10, vocabulary=("ball", "blue"), files_digest="2")
    with pytest.raises(UserError, match="11 training images there, 10 here; other names"):
        run.resumed_info(fewer)
    accepted = run.resumed_info(fewer, accept_changes=True)
    assert accepted == dataclasses.replace(fewer, vocabulary=known.vocabulary)
    assert "10 here" in caplog.text
    run.begin("smoke", ours, accepted)
    assert run.resumed_info(accepted) == accepted
    with pytest.raises(UserError, match="channels 3 there, 1 here"):
        run.resumed_info(dataclasses.replace(accepted, channels=1), accept_changes=True)


def test_a_tokenizer_lies_in_a_file_of_its_own_while_it_is_needed(started):
    run, ours = RunDir(started), EXPERIMENTS["smoke"]()
    published = dataclasses.replace(INFO, tokenizer='{"model": 1}')
    run.begin("smoke", ours, published)
    assert run.load()[2] == published and "model" not in (started / "config.json").read_text()
    run.begin("smoke", ours, INFO)
    assert run.load()[2] == INFO


def test_another_folder_is_refused_and_left_alone(train, sample, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    assert "is not empty and holds no config.json" in train("smoke", "--run-dir", tmp_path).error
    assert "is no run directory" in sample(tmp_path, "--prompt", "a cube").error
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("spelled", ["run/", "../here/run", "copy", "moved"])
def test_a_run_is_itself_however_it_is_spelled_and_wherever_it_lies(spelled, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run, other = RunDir("run"), RunDir("other")
    for one in (run, other):
        one.begin("smoke", EXPERIMENTS["smoke"](), INFO)
    before = run.id
    if spelled in ("copy", "moved"):
        shutil.copytree("run", spelled)
    if spelled == "moved":
        shutil.rmtree("run")
    assert RunDir(spelled).id == before != other.id
    ours = EXPERIMENTS["smoke"]()
    assert RunDir(spelled).resumed("smoke", ours) == ours
    other_samples = dataclasses.replace(ours.sampling, steps=7)
    RunDir(spelled).begin("smoke", dataclasses.replace(ours, sampling=other_samples), INFO)
    assert RunDir(spelled).id == before


def test_a_second_writer_is_refused(started, train):
    with RunDir(started).held():
        for path in (started, f"{started}/"):
            error = train("smoke", "--run-dir", path).error
            assert f"{started} is in use by process {os.getpid()} on" in error
    assert [path.name for path in started.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    "write",
    [
        lambda run: run.record(device="cpu"),
        lambda run: run.metrics.append({"stage": "diffusion", "step": 1}),
        lambda run: run.to_write("samples/a.png"),
        lambda run: run.checkpoints("diffusion").save(1, None),
        lambda run: run.begin("smoke", EXPERIMENTS["smoke"](), INFO),
    ],
)
def test_a_run_that_vanishes_is_never_made_again(begun, write):
    run = RunDir(begun)
    with run.held():
        begun.rename(begun.with_name("elsewhere"))
        with pytest.raises(UserError, match="run was moved or removed while"):
            write(run)
    assert not begun.exists()


def test_what_is_left_of_a_run_is_called_so(train, tmp_path):
    (tmp_path / "run" / "checkpoints" / "autoencoder").mkdir(parents=True)
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    error = train("smoke", "--run-dir", tmp_path / "run").error
    assert "is what is left of a run without its config.json (checkpoints, metrics.jsonl)" in error
    assert f"remove {tmp_path / 'run'} to start anew" in error


@pytest.mark.parametrize("folder", [b"", b"\xe4/"])
def test_a_name_that_is_not_utf8_is_refused_before_anything_is_made(folder, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/" + folder + b"\xfc")
    with pytest.raises(UserError, match=r"\\xfc is not UTF-8"), RunDir(path).held():
        pass
    assert list(tmp_path.iterdir()) == []
    with RunDir(tmp_path / "ü").held():
        pass


def test_a_start_killed_while_it_wrote_its_configuration_can_begin_again(tmp_path):
    (tmp_path / "config.json.part").write_text('{"version"')
    RunDir(tmp_path).resumed("smoke", EXPERIMENTS["smoke"]())


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda text: text[:-9], "config.json is damaged"),
        (lambda text: "", "config.json is damaged"),
        (lambda text: "[]", "holds no JSON object"),
        (lambda text: "{}", "has version None"),
        (lambda text: text.replace('"version": 2', '"version": 9'), "has version 9"),
        (
            lambda text: text.replace('"experiment"', '"x"'),
            "damaged ('experiment'); without it nobody knows",
        ),
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


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[]", b"[" * 100_000, b'{"wall_seconds": "x"}', b'{"diffusion": 3}'],
    ids=lambda content: repr(content[:12]),
)
def test_a_damaged_summary_is_set_aside_by_the_writer_alone(begun, content, caplog):
    (begun / "summary.json").write_bytes(content)
    run = RunDir(begun)
    assert run.summary() == {}
    assert (begun / "summary.json").read_bytes() == content
    with run.held():
        run.record(device="cpu")
    assert run.summary()["device"] == "cpu"
    assert (begun / "summary.json.damaged").read_bytes() == content
    assert f"{begun / 'summary.json'} is damaged; it will be made again" in caplog.text


def test_the_time_of_all_starts_adds_up(begun):
    (begun / "summary.json").write_text(json.dumps({"wall_seconds": 1000.0, "device": "cpu"}))
    run = RunDir(begun)
    run.begin("smoke", EXPERIMENTS["smoke"](), INFO)
    run.record(diffusion={"steps": 5})
    summary = run.summary()
    assert 1000 <= summary.pop("wall_seconds") < 1100
    assert summary == {"device": "cpu", "diffusion": {"steps": 5}}
