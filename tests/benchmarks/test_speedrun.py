"""benchmarks/speedrun.py: what it asks of train.py, how it plans, its table and its record."""

import argparse
import importlib
import json
from pathlib import Path

import pytest

from ldm_jax.commands.train.run import parse_command
from ldm_jax.errors import UserError

FOLDER = Path(__file__).parents[2] / "benchmarks"
PROBE = {
    "autoencoder": {"compile_seconds": 20.0, "images_per_s": 80.0, "seconds": 12.0},
    "diffusion": {"compile_seconds": 30.0, "images_per_s": 64.0, "seconds": 15.0},
    "wall_seconds": 90.0,
}
BATCH = {"autoencoder": 16, "diffusion": 32}


@pytest.fixture
def speedrun(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("speedrun")


@pytest.fixture
def options(tmp_path):
    return argparse.Namespace(
        experiment="scenes", first_stage="", split=0.3, side=0, seconds=600.0, folder=tmp_path
    )


def test_a_variant_has_the_words_of_all_and_its_own(speedrun, options):
    one = speedrun.variant("muon-1: --split 0.5 --diffusion.optimiser.kind muon", options)
    assert (one.name, one.split) == ("muon-1", 0.5)
    name, command = parse_command(one.words)
    experiment = command.experiment
    assert name == "scenes" and experiment.diffusion.optimiser.kind == "muon"
    for stage in (experiment.autoencoder, experiment.diffusion):
        assert (stage.optimiser.schedule, stage.optimiser.final_rate) == ("cosine", 0)
    assert experiment.evaluation.judged_images == 0
    assert speedrun.variant("today:", options).split == 0.3


def test_a_borrowed_first_stage_gets_no_seconds(speedrun, options):
    options.first_stage = "runs/x"
    one = speedrun.variant("today:", options)
    assert one.split == 0
    assert parse_command(one.words)[1].experiment.autoencoder.from_run == "runs/x"


@pytest.mark.parametrize(
    "text, said",
    [
        ("muon", "a variant is 'name: words for train.py'"),
        ("a/b: --seed 1", "a variant is 'name: words for train.py'"),
        ("x: --diffusion.optimiser.kind shampoo", "shampoo"),
        ("x: --diffusion.stepz 5", "--diffusion.stepz"),
        ("x: --diffusion.unet.groups 3", "--diffusion.unet.groups 3 does not divide"),
        ("x: --split 1", "--split is 1; it must be more than 0 and less than 1"),
    ],
)
def test_what_train_py_would_refuse_is_refused_before_any_training(speedrun, options, text, said):
    with pytest.raises(UserError, match=said):
        speedrun.variant(text, options)


def test_samples_are_enlarged_by_whole_factors(speedrun, options):
    options.side = 64
    speedrun.variant("today:", options)
    with pytest.raises(UserError, match="--side 64 is no multiple of the 24 pixels of x"):
        speedrun.variant("x: --data.size 24", options)


def test_a_plan_is_kept_and_none_but_its_own_goes_on(speedrun, options, tmp_path):
    one = speedrun.variant("today:", options)
    (tmp_path / "today").mkdir()
    kept = {"name": one.name, "words": one.words, "split": one.split, "seconds": 600.0}
    (tmp_path / "today" / "plan.json").write_text(json.dumps(kept | {"steps": ["--x=1"]}))
    assert speedrun.variant("today:", options) == one
    options.seconds = 700.0
    with pytest.raises(UserError, match="other words or seconds"):
        speedrun.variant("today:", options)


def test_steps_fill_the_seconds(speedrun):
    """550 s are left after compiling: 165 s of 5 steps a second, 385 s of 2."""
    words = speedrun.plan(600.0, 0.3, PROBE, BATCH)
    assert words == ["--autoencoder.steps=825", "--diffusion.steps=770"]
    assert speedrun.plan(600.0, 0.0, PROBE, BATCH) == ["--diffusion.steps=1140"]
    with pytest.raises(UserError, match="over before"):
        speedrun.plan(50.0, 0.3, PROBE, BATCH)


def test_the_clock_stands_still_for_all_but_compiling_and_steps(speedrun):
    assert speedrun.clock(PROBE) == 77.0
    assert speedrun.clock({"autoencoder": {"from_run": "x"}, "diffusion": PROBE["diffusion"]}) == 45


def test_what_is_settled_is_made_once(speedrun, tmp_path):
    numbers = iter([1, 2])
    made = [speedrun.settled(tmp_path / "x.json", lambda: next(numbers)) for _ in range(2)]
    assert made == [1, 1]
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def row(name, seed, kid, seconds=600.0, whole=0.5):
    return {
        "variant": name,
        "seed": seed,
        "steps": {"autoencoder": 825, "diffusion": 770},
        "seconds": seconds,
        "wall_seconds": seconds + 60,
        "kid": {"mean": kid, "standard_error": 0.002},
        "whole": whole,
    }


ROWS = [
    row("today", 0, 0.040),
    row("muon", 0, 0.020, 610.0, 0.6),
    row("today", 1, 0.044),
    {"variant": "muon", "seed": 1, "failed": "exit code 2, see x.log"},
    row("small", 0, 0.030, 400.0),
    row("small", 1, 0.034, 410.0, 0.7),
]


def test_the_table_has_a_line_for_each_variant_best_first(speedrun):
    head, _, *lines = speedrun.table(ROWS)
    assert head.startswith("| variant | seeds | steps | seconds |")
    assert lines == [
        "| muon | 1 | 825 + 770 | 610 | 670 | 0.0200 ± 0.0020 | 60.0% |",
        "| small | 2 | 825 + 770 | 405 | 465 | 0.0320 ± 0.0020 | 60.0% ± 10.0% |",
        "| today | 2 | 825 + 770 | 600 | 660 | 0.0420 ± 0.0020 | 50.0% ± 0.0% |",
        "\nmuon, seed 1, failed: exit code 2, see x.log",
    ]


def test_the_record_is_of_all_seeds(speedrun):
    assert speedrun.fastest(ROWS, 0.035, seeds=2)["variant"] == "small"
    assert speedrun.fastest(ROWS, 0.05, seeds=2)["seconds"] == 405
    assert speedrun.fastest(ROWS, 0.025, seeds=2) is None


def test_only_a_faster_run_of_the_same_task_takes_a_record(speedrun):
    task = {"target": 0.03, "experiment": "scenes", "num_samples": 1000, "side": 0, "machine": "x"}
    first, slower = task | {"seconds": 400.0}, task | {"seconds": 500.0}
    other = slower | {"target": 0.02}
    records = speedrun.with_record(speedrun.with_record([], slower), first)
    assert records == [first] and speedrun.with_record(records, slower) == records
    assert speedrun.with_record(records, other) == [first, other]
