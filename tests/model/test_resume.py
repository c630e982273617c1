"""What a run can be resumed with, field by field."""

import dataclasses
import re
from dataclasses import replace

import pytest

from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.model.data_info import DataInfo
from ldm_jax.model.resume import changes, other_data, same_split, unfit, with_words_of

BOTH = {"autoencoder": 40, "diffusion": 20}
FOLDER = EXPERIMENTS["folder"]()
FOLDER = replace(FOLDER, data=replace(FOLDER.data, path="images"))


def other(experiment, path, value):
    """The experiment with one field changed."""
    name, _, rest = path.partition(".")
    inner = getattr(experiment, name)
    return replace(experiment, **{name: other(inner, rest, value) if rest else value})


def change(path, value, begun, saved=FOLDER):
    [found] = changes(saved, other(saved, path, value), begun)
    assert found.option == path.replace("_", "-")
    return found


def test_the_same_configuration_is_no_change():
    assert changes(FOLDER, FOLDER, BOTH) == []


@pytest.mark.parametrize(
    "path, value",
    [
        ("data.path", "images/"),
        ("data.path", "/mnt/elsewhere/images"),
        ("autoencoder.progress.save_every", 7),
        ("diffusion.progress.preview_every", 7),
        ("sampling.steps", 7),
        ("sampling.guidance", 7.0),
        ("evaluation.num_images", 7),
        ("loader.threads", 7),
        ("autoencoder.loss.perceptual_file", "vgg.pth"),
    ],
)
def test_what_changes_no_numbers_is_free_and_worth_no_line(path, value):
    found = change(path, value, BOTH)
    assert not found.refused and not found.effect


@pytest.mark.parametrize(
    "path, value", [("mesh.fsdp", 4), ("diffusion.remat", True), ("autoencoder.remat", True)]
)
def test_what_changes_rounding_alone_is_free_and_says_so(path, value):
    found = change(path, value, BOTH)
    assert not found.refused and "rounding" in found.effect


@pytest.mark.parametrize(
    "path, value",
    [
        ("seed", 7),
        ("precision", "bfloat16"),
        ("data.size", 128),
        ("data.validation", 0.2),
        ("data.captions", "captions.json"),  # where there was none
        ("autoencoder.from_run", "runs/other"),
        ("autoencoder.network.channels", 8),
        ("autoencoder.optimiser.learning_rate", 1.0),
        ("diffusion.optimiser.learning_rate", 1.0),
        ("diffusion.batch_size", 7),
        ("diffusion.accumulate", 2),
        ("diffusion.ema_decay", 0.5),
    ],
)
def test_what_decides_numbers_is_refused_by_its_name_with_both_values(path, value):
    found = change(path, value, BOTH)
    assert found.refused
    assert str(found).startswith(f"--{path.replace('_', '-')} is ")
    assert str(found).endswith(f" there, {value} here")


@pytest.mark.parametrize("path", ["autoencoder.optimiser.learning_rate", "seed", "data.min_crop"])
def test_before_the_first_checkpoint_everything_may_change(path):
    found = change(path, 0.5, {})
    assert not found.refused and "trained yet" in found.effect


def test_a_stage_that_has_not_begun_may_be_configured():
    begun = {"autoencoder": 40}
    assert not change("diffusion.unet.channels", 8, begun).refused
    assert not change("diffusion.optimiser.learning_rate", 1.0, begun).refused
    assert not change("classifier.steps", 7, begun).refused
    assert change("autoencoder.batch_size", 7, begun).refused
    assert change("diffusion.schedule.timesteps", 7, {"classifier": 5}).refused  # of its latents


def test_no_file_at_all_is_shown_as_such():
    assert str(change("data.boxes", "b.json", BOTH)) == "--data.boxes is '' there, b.json here"


def test_a_run_can_be_lengthened_or_end_earlier_but_not_before_where_it_is():
    longer = change("diffusion.steps", 10**6, BOTH)
    assert not longer.refused and "learning rate" in longer.effect
    assert not change("diffusion.steps", 20, BOTH).refused
    assert change("diffusion.steps", 19, BOTH).refused
    assert not change("autoencoder.steps", 10**6, {"autoencoder": 40}).refused


def test_a_first_stage_is_not_lengthened_under_a_second_one():
    assert change("autoencoder.steps", 10**6, BOTH).refused


@pytest.mark.parametrize(
    "schedule, decay_steps, said",
    [
        ("constant", 0, "the learning rate stays 0.001"),
        ("cosine", 200, "ends at step 200, as before"),
        ("cosine", 0, "ends at step 300: after step 100 the rate is 0.00075, .* before 0.0005"),
    ],
)
def test_lengthening_says_what_the_learning_rate_does(schedule, decay_steps, said):
    saved = other(FOLDER, "diffusion.steps", 200)
    optimiser = {"schedule": schedule, "decay_steps": decay_steps, "final_rate": 0.0}
    optimiser |= {"learning_rate": 1e-3, "warmup_steps": 0}
    new = replace(saved.diffusion.optimiser, **optimiser)
    saved = other(saved, "diffusion.optimiser", new)
    effect = change("diffusion.steps", 300, {"diffusion": 100}, saved).effect
    assert re.search(said, effect), effect


def test_data_of_another_kind_is_one_change():
    given = replace(FOLDER, data=EXPERIMENTS["smoke"]().data)
    [found] = changes(FOLDER, given, BOTH)
    assert found.refused and found.option == "data"


INFO = DataInfo(3, "text", class_names=("a", "b"), vocabulary=("ball", "red"), caption_length=2)


def test_facts_of_the_data_count_where_a_stage_was_built_on_them():
    words = dataclasses.replace(INFO, vocabulary=("ball", "blue", "red"))
    assert unfit(INFO, words, BOTH) == ["vocabulary (new: blue)"]
    assert unfit(INFO, words, {"autoencoder": 40}) == []
    grey = dataclasses.replace(INFO, channels=1)
    assert unfit(INFO, grey, {"autoencoder": 40}) == ["channels 3 there, 1 here"]
    classes = dataclasses.replace(INFO, class_names=("b", "c"))
    assert unfit(INFO, classes, BOTH) == []  # the model is one of texts
    by_class = dataclasses.replace(INFO, condition="class")
    found = unfit(by_class, dataclasses.replace(classes, condition="class"), BOTH)
    assert found == ["class names (new: c; gone: a)"]


KNOWN = replace(
    INFO, images=11, held_out=1, held_out_below=0.07, files_digest="1", labels_digest="2"
)


def test_other_data_is_described():
    assert other_data(KNOWN, KNOWN) == []
    assert other_data(KNOWN, replace(KNOWN, images=10, files_digest="3")) == [
        "11 training images there, 10 here",
        "other names or sizes of image files",
    ]
    assert other_data(KNOWN, replace(KNOWN, held_out=2)) == ["1 held-out images there, 2 here"]
    assert other_data(KNOWN, replace(KNOWN, labels_digest="3")) == ["other captions, boxes or maps"]
    [said] = other_data(INFO, KNOWN)  # begun by a version that did not say
    assert "other images are held out" in said
    assert other_data(INFO, replace(KNOWN, held_out_below=0.0)) == []


def test_networks_do_not_depend_on_which_data_it_is():
    assert unfit(KNOWN, replace(KNOWN, images=10, files_digest="3"), BOTH) == []


def test_the_words_of_a_run_stay_its_words():
    new = replace(KNOWN, vocabulary=("ball", "blue", "red"), caption_length=3)
    assert with_words_of(KNOWN, new) == KNOWN
    assert with_words_of(replace(KNOWN, vocabulary=()), new) == new


def test_what_is_held_out_stays_held_out():
    assert same_split(FOLDER.data, KNOWN).validation == 0.07
    assert same_split(FOLDER.data, INFO) == FOLDER.data
    scenes = EXPERIMENTS["smoke"]().data
    assert same_split(scenes, KNOWN) == scenes
