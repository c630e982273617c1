"""A text model of scenes is also asked for single clauses, for nothing, and guided otherwise."""

import json
from functools import partial

import numpy as np
import pytest
from etils import epath

from ldm_jax.commands.evaluate.prompts import (
    draw_further,
    further_lines,
    further_requests,
    judge_further,
)
from ldm_jax.commands.evaluate.run import main
from ldm_jax.commands.sample.plan import Request
from ldm_jax.data.scenes import ScenesConfig, ScenesSource
from ldm_jax.evaluation.scene_captions import parse_caption
from ldm_jax.evaluation.scene_prompts import CLAUSES, clause_prompts
from ldm_jax.evaluation.scene_reports import derangement

N = 16


@pytest.fixture(scope="module")
def model(trained_task, loaded):
    """A text model of scenes that has hardly learnt."""
    ended, run = trained_task("text")
    assert ended.code == 0, ended.err
    return loaded(run)


def request_of(model, n, **changes):
    captions = [f"a small red ball on a plain floor {'by day' * (i % 2)}" for i in range(n)]
    conditions = model.condition.to_cache({"caption": captions})
    settings = model.settings
    return Request(model, conditions, [""] * n, 1, settings.__class__(steps=2, **changes))


def test_each_kind_of_clause_has_its_prompts():
    prompts = clause_prompts(128)
    kinds = [prompt.kind for prompt in prompts]
    assert {kind: kinds.count(kind) for kind in CLAUSES} == {"object": 64, "floor": 32, "sky": 32}
    assert len({prompt.text for prompt in prompts}) == 32 + 4 + 4
    for kind, text in prompts:
        scene = parse_caption(text)
        said = {"object": bool(scene.objects), "floor": scene.floor, "sky": scene.sky}
        assert [name for name, value in said.items() if value] == [kind]
    assert clause_prompts(5) == prompts[:5]


def test_an_eighth_of_the_images_is_sampled_for_each_question(model):
    found = further_requests(request_of(model, 96, guidance=3.0))
    assert list(found) == ["clauses", "null", "s = 1", "s = 6"]  # 3 is that of the main samples
    assert {len(one.all_labels) for one in found.values()} == {12}
    assert found["null"].settings.guidance == 1
    np.testing.assert_array_equal(found["null"].conditions["condition"][0], model.condition.null)
    words = model.condition.encoder.encode(["a", "on a", "a"], strict=False)
    assert [row[0] for row in found["clauses"].conditions["condition"][:3]] == [
        row[0] for row in words
    ]
    few = further_requests(request_of(model, 11, guidance=3.0))
    assert {len(one.all_labels) for one in few.values()} == {10}  # as few as are measured
    rescaled = further_requests(request_of(model, 40, guidance=2.0, guidance_rescale=0.5))
    assert rescaled["s = 1"].settings.guidance_rescale == 0
    assert rescaled["s = 6"].settings.guidance_rescale == 0.5


@pytest.mark.slow
def test_images_at_the_scale_of_the_main_samples_are_those(model, tmp_path):
    request = request_of(model, N, guidance=3.0)
    samples = np.zeros((N, 32, 32, 3), np.uint8)
    folder = epath.Path(tmp_path)
    images = draw_further(request, samples, folder, "weights")
    assert set(images) == {"clauses", "null", "s = 1", "s = 3", "s = 6"}
    assert {x.shape for x in images.values()} == {(10, 32, 32, 3)}
    assert not images["s = 3"].any()
    assert (images["s = 1"] != images["s = 6"]).any()
    files = {file: file.stat().st_mtime_ns for file in tmp_path.glob("samples-*.npz")}
    again = draw_further(request, samples, folder, "weights")
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("samples-*.npz")} == files
    assert len(files) == 4
    assert all((again[name] == images[name]).all() for name in images)


@pytest.fixture(scope="module")
def answers():
    """A true render for each prompt, and true renders of captions."""
    source = ScenesSource(ScenesConfig(32, "single", 400))
    scenes = [source.scene(i) for i in range(400)]

    def shows(prompt, scene):
        asked = parse_caption(prompt.text)
        one, (solid,) = (asked.objects or (None,))[0], scene.objects
        fits = one is None or (one.shape, one.colour) == (solid.shape, solid.colour)
        return fits and asked.floor in (None, scene.floor) and asked.sky in (None, scene.sky)

    numbers = [next(i for i, s in enumerate(scenes) if shows(p, s)) for p in clause_prompts(N)]
    return source.read(numbers)["image"], source.read(range(N))["image"]


def test_renders_answer_the_prompts_and_those_of_others_do_not(answers):
    right, truth = answers
    grey = np.repeat(truth.mean(axis=-1, keepdims=True), 3, axis=-1).astype(np.uint8)
    images = {"clauses": right, "null": truth, "s = 1": truth, "s = 3": grey, "s = 6": right}
    report = judge_further(images, truth)
    assert set(report["clauses"]) == {"object", "floor", "sky", "all"}
    assert all(one["share"] >= 0.75 for one in report["clauses"].values())
    assert report["clauses"]["all"]["n"] == N and report["clauses"]["sky"]["n"] == N // 4
    assert report["null"]["share"] >= 0.8
    assert report["saturation"]["s = 1"]["of_held_out"] == 1
    assert report["saturation"]["s = 3"]["mean"] == 0
    wrong = judge_further(images | {"clauses": right[derangement(N)], "null": grey[:, ::-1]}, truth)
    assert wrong["clauses"]["object"]["share"] <= 0.3 and wrong["null"]["share"] <= 0.2
    text = "\n".join(further_lines(report))
    assert "prompts of one clause, read in samples: object" in text
    assert "no prompt, proper scenes: 1" in text or "no prompt, proper scenes: 9" in text
    assert "s = 1 " in text and "(-100%)" in text and json.dumps(report, allow_nan=False)


@pytest.mark.slow
def test_evaluate_asks_a_text_model_all_of_it(command, loaded, trained_task, tmp_path):
    run, out = trained_task("text")[1], tmp_path / "out"
    words = [run, "--num-samples", N, "--features", "scene-reader", "--out", out]
    ended = command(partial(main, open_model=loaded), words)
    assert ended.code == 0, ended.err
    report = json.loads((out / "evaluation.json").read_text())
    scenes, rows = report["scenes"], report["features"]["scene-reader"]["rows"]
    assert set(scenes["clauses"]) == {"object", "floor", "sky", "all"}
    assert scenes["clauses"]["all"]["n"] == scenes["null"]["n"] == 10
    assert set(scenes["saturation"]) == {"held_out", "s = 1", "s = 3", "s = 6"}
    assert set(scenes["words_by_objects"]) == {"1", "2"}
    assert set(scenes["valid"]) == {"samples", "reconstructions", "held_out"}
    assert rows["blurred"]["kid"]["num_generated"] == rows["samples"]["kid"]["num_generated"] == N
    assert 0 < rows["blurred"]["kid"]["mean"] < rows["samples"]["kid"]["mean"]
    assert "blurred" in ended.out and "captions of 2 objects" in ended.out
