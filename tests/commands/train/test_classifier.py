"""`python train.py EXPERIMENT --stage classifier`: what it leaves, resumes from and refuses."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ldm_jax.model.run_dir import RunDir
from ldm_jax.training.metrics import read

pytestmark = pytest.mark.slow

ALONE = ["--stage", "classifier"]


def without_classifier(run):
    """The entry of the classifier taken out of the summary."""
    summary = RunDir(run).summary()
    del summary["classifier"]
    (run / "summary.json").write_text(json.dumps(summary))


def test_a_classifier_is_trained_beside_a_finished_run(classified, smoke, parts):
    ended, run = classified
    assert ended.code == 0, ended.err
    for fact in (
        "autoencoder: ",
        " | diffusion: ",
        " | classifier: ",
        "right (least to most noise",
    ):
        assert fact in ended.out
    summary, before = (RunDir(path).summary() for path in (run, smoke[1]))
    for stage in ("autoencoder", "diffusion"):
        assert parts(run, stage) == parts(smoke[1], stage)
        assert summary[stage] == before[stage]
    assert summary["wall_seconds"] > before["wall_seconds"]
    assert RunDir(run).checkpoints("classifier").latest_step() == 40
    part = summary["classifier"]
    assert part["finished"] and part["steps"] == 40 and part["held_out_images"] == 64
    for number in ("parameters", "peak_bytes", "flops", "seconds", "images_per_s"):
        assert part[number] > 0
    levels = [part[f"accuracy_{level}_noise"] for level in ("least", "less", "more", "most")]
    assert all(0 <= share <= 1 for share in levels)
    assert abs(np.mean(levels) - part["accuracy"]) < 1e-3
    assert RunDir(run).load()[2].class_names[:2] == ("red ball", "yellow ball")


def test_metrics_have_loss_and_accuracy_by_noise_level(classified, smoke):
    lines = [
        line for line in read(classified[1] / "metrics.jsonl") if line["stage"] == "classifier"
    ]
    assert [line["step"] for line in lines] == list(range(5, 41, 5))
    for name in ("loss", "accuracy", "accuracy_least_noise", "accuracy_most_noise", "grad_norm"):
        assert all(np.isfinite(line[name]) for line in lines)
    assert lines[0]["loss"] == pytest.approx(np.log(32), abs=1.0)
    curves = [Image.open(run / "curves.png").size for run in (smoke[1], classified[1])]
    assert curves[1][1] > curves[0][1]  # a row more


def test_latents_are_scaled_as_the_diffusion_model_s(classified):
    run = RunDir(classified[1])
    one, other = (
        run.checkpoints(stage).restore_part(["constants"])["constants"]["scale_factor"]
        for stage in ("diffusion", "classifier")
    )
    assert one == other


def test_a_run_with_a_finished_classifier_says_so_at_once(classified, train):
    ended, run = classified
    for words in (ALONE, [], ["--classifier.steps", 7]):  # which the other stages do not ask for
        again = train("smoke", "--run-dir", run, *words)
        assert again.code == 0 and again.out == ended.out, again.err
        assert f"{run} is finished; to sample images" in again.err


def test_a_classifier_is_configured_when_its_training_begins(classified, train, tmp_path):
    run = shutil.copytree(classified[1], tmp_path / "run")
    changed = ["--run-dir", run, "--classifier.steps", 2, "--classifier.pool", "mean"]
    error = train("smoke", *changed, *ALONE).error
    assert "--classifier.steps is 40 there, 2 here" in error
    assert "--classifier.pool is attention there, mean here" in error
    assert "--seed is 0 there, 1 here" in train("smoke", *changed, *ALONE, "--seed", 1).error
    shutil.rmtree(run / "checkpoints" / "classifier")
    without_classifier(run)
    assert train("smoke", *changed, *ALONE).code == 0
    assert RunDir(run).load()[1].classifier.steps == 2
    assert RunDir(run).summary()["classifier"]["steps"] == 2
    assert [line["step"] for line in read(run / "metrics.jsonl")][-2:] == [40, 2]


def test_a_stopped_classifier_goes_on_and_ends_bit_for_bit_the_same(
    classified, process, ended, parts, tmp_path
):
    run = shutil.copytree(classified[1], tmp_path / "run")
    without_classifier(run)
    shutil.rmtree(run / "checkpoints" / "classifier" / "40")
    resumed = ended(process("train.py", "smoke", "--run-dir", run, *ALONE))
    assert "classifier: resumes at step 30 of 40" in resumed.err
    assert parts(run, "classifier") == parts(classified[1], "classifier")
    summaries = [RunDir(path).summary()["classifier"] for path in (run, classified[1])]
    assert len({summary["accuracy"] for summary in summaries}) == 1
    lines = [
        [(line["step"], line.get("loss")) for line in read(path / "metrics.jsonl")]
        for path in (run, classified[1])
    ]
    assert lines[0] == lines[1]


def test_a_run_that_began_before_there_were_classifiers_gets_one(trained, train_tiny, tmp_path):
    """Its configuration knows nothing of them, and nothing of classes it was not asked to learn."""
    _, path = trained("classes")
    run = shutil.copytree(path, tmp_path / "run")
    saved = json.loads((run / "config.json").read_text())
    del saved["config"]["classifier"]
    (run / "config.json").write_text(json.dumps(saved))
    words = ["--data.path", saved["config"]["data"]["path"]]
    words += ["--data.crop", "centre", "--data.flip", True, "--run-dir", run]
    ended = train_tiny("folder", *words, *ALONE)
    assert ended.code == 0, ended.err
    assert RunDir(run).load()[1].classifier.unet.channels == 8


@pytest.mark.parametrize("layout", ["flat", "captions"])
def test_images_without_classes_cannot_be_classified(layout, trained, train_tiny):
    _, run = trained(layout)
    data = RunDir(run).load()[1].data
    words = ["--data.path", data.path, "--data.crop", data.crop, "--data.flip", data.flip]
    ended = train_tiny("folder", *words, "--run-dir", run, *ALONE)
    said = "error: this data has no class labels, which a classifier needs"
    assert ended.code == 2 and ended.err.splitlines()[-1] == said


@pytest.mark.parametrize(
    "words, said",
    [
        ([], ["has no trained autoencoder (step 0 of 40); leave out --stage classifier"]),
        (["--classifier.batch-size", 12, "--mesh.data", 8], ["--classifier.batch-size", "8 or 16"]),
        (["--classifier.unet.groups", 3], ["--classifier.unet.groups 3 does not divide the 16"]),
        (["--classifier.unet.head-channels", 24], ["--classifier.unet.head-channels 24 does not"]),
        (
            ["--classifier.unet.channel-mult", 1, 1, 1, 1, 1, 1],
            ["--data.size 32 is not divisible by 64", "the classifier by 32"],
        ),
        (["--classifier.steps", 0], ["--classifier.steps is 0; it must be at least 1"]),
        (["--classifier.pool", "max"], ["'max'", "'mean'"]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(words, said, train, tmp_path):
    error = train("smoke", "--run-dir", tmp_path / "run", *ALONE, *words).error
    assert all(part in error for part in said), error
    assert not list(tmp_path.iterdir())


def test_sizes_of_a_classifier_that_is_not_trained_do_not_matter(train, tmp_path):
    words = ["--classifier.unet.groups", 3, "--stage", "diffusion", "--run-dir", tmp_path / "run"]
    assert "no trained autoencoder" in train("smoke", *words).error


def test_a_classifier_alone_starts_from_no_other_weights(train_tiny, trained, tmp_path):
    first = trained("flat")[1]
    words = ["--autoencoder.from-run", first, "--init-from", first, "--run-dir", tmp_path / "run"]
    error = train_tiny("folder", *ALONE, *words).error
    assert "leave out --init-from" in error and not (tmp_path / "run" / "config.json").exists()
