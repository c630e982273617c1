"""Fine-tuning: what of another run's weights a model starts from, and what is refused."""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest

from ldm_jax.commands.train.run import parse_command
from ldm_jax.errors import UserError
from ldm_jax.model.data_info import DataInfo
from ldm_jax.model.initial import InitialWeights, check_frozen, read_initial, start_from
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.run_dir import RunDir
from ldm_jax.training.step import TrainState
from tests.runs import TINY

BOTH = ("autoencoder", "diffusion")
CLASSES = DataInfo(3, "class", class_names=("cat", "dog", "owl"))
WORDS = DataInfo(3, "text", vocabulary=("ball", "cube", "red"), caption_length=3)


@functools.cache
def model_of(info, *words):
    words = ["folder", "--data.path", "images", *TINY.split(), *map(str, words)]
    return LatentDiffusion(parse_command(words)[1].experiment, info)


def random_params(model, stage, seed):
    """Parameters of a stage, a number of their own each."""
    objective = {"autoencoder": model.first.objective, "diffusion": model.objective}[stage]
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """`saved(model)`: its run directory, with random weights; and these, averages of stage 2."""

    def save(model, stages=BOTH):
        run = RunDir(tmp_path_factory.mktemp("runs") / "source")
        run.begin("folder", model.config, model.info)
        weights = {stage: random_params(model, stage, i) for i, stage in enumerate(stages)}
        constants = {"autoencoder": weights["autoencoder"]["autoencoder"]}
        constants |= {"scale_factor": np.float32(0.5)}
        for stage, params in weights.items():
            kept = constants if stage == "diffusion" else {}
            averaged = getattr(model.config, stage).ema_decay > 0
            raw = jax.tree.map(np.zeros_like, params) if averaged else params
            state = TrainState(np.int32(4), raw, params if averaged else None, {}, kept)
            checkpoints = run.checkpoints(stage)
            checkpoints.save(4, state)
            checkpoints.close()
        return run.path, weights

    return save


@pytest.fixture(scope="module")
def of_classes(saved):
    return saved(model_of(CLASSES))


def started(model, stage, weights, averaged=True):
    """Weights and average of a stage of `model` that starts from `weights`, else from minus one."""
    fresh = jax.tree.map(lambda leaf: -np.ones_like(leaf), random_params(model, stage, 0))
    fresh = jax.device_put(fresh)
    state = start_from(TrainState(0, fresh, fresh if averaged else None, {}, {}), weights)
    return state.params, state.ema


def assert_equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_both_stages_start_from_the_averaged_weights_of_a_run(of_classes):
    path, weights = of_classes
    initial = read_initial(str(path), model_of(CLASSES), BOTH)
    assert initial.scale_factor == 0.5
    assert initial.origin == {"run": RunDir(path).id, "steps": {"autoencoder": 4, "diffusion": 4}}
    for stage in BOTH:
        params, ema = started(model_of(CLASSES), stage, getattr(initial, stage))
        assert_equal(params, weights[stage])
        assert_equal(ema, weights[stage])


def test_one_stage_alone_can_start_from_a_run(of_classes):
    initial = read_initial(str(of_classes[0]), model_of(CLASSES), ["diffusion"])
    assert initial.diffusion and not initial.autoencoder
    initial = read_initial(str(of_classes[0]), model_of(CLASSES), ["autoencoder"])
    assert initial.autoencoder and not initial.diffusion and not initial.scale_factor


@pytest.mark.parametrize("entry", ["cross-attention", "time"])
def test_classes_keep_their_embedding_by_their_names(saved, of_classes, entry, caplog):
    words = ["--diffusion.class-entry", entry]
    path, weights = of_classes if entry != "time" else saved(model_of(CLASSES, *words))
    other = replace(CLASSES, class_names=("ant", "owl", "cat", "yak"))
    model = model_of(other, *words)
    with caplog.at_level("INFO"):
        initial = read_initial(str(path), model, ["diffusion"])
    assert "2 of 4 classes are known; new: ant, yak" in caplog.text
    params, _ = started(model, "diffusion", initial.diffusion)
    part = {"cross-attention": ("tau", "embedding"), "time": ("unet", "label")}[entry]
    rows, there = (tree[part[0]][part[1]]["embedding"] for tree in (params, weights["diffusion"]))
    assert (rows[0] == -1).all() and (rows[3] == -1).all()
    np.testing.assert_array_equal(rows[1], there[2])
    np.testing.assert_array_equal(rows[2], there[0])
    np.testing.assert_array_equal(rows[4], there[3])  # of no class
    assert_equal(params["unet"]["conv_in"], weights["diffusion"]["unet"]["conv_in"])


def test_words_keep_their_embedding_and_places_theirs(saved):
    path, weights = saved(model_of(WORDS))
    model = model_of(replace(WORDS, vocabulary=("a", "blue", "cube"), caption_length=5))
    initial = read_initial(str(path), model, ["diffusion"])
    params, _ = started(model, "diffusion", initial.diffusion)
    rows, there = (tree["tau"]["tok_emb"]["embedding"] for tree in (params, weights["diffusion"]))
    np.testing.assert_array_equal(rows[:2], there[:2])  # padding, unknown
    assert (rows[2:4] == -1).all()
    np.testing.assert_array_equal(rows[4], there[3])  # cube
    places, there = (tree["tau"]["pos_emb"]["embedding"] for tree in (params, weights["diffusion"]))
    np.testing.assert_array_equal(places[:3], there)
    assert (places[3:] == -1).all()


def test_a_condition_of_another_kind_gets_a_new_encoder(of_classes, caplog):
    words = ["--diffusion.text.dim", 8]
    model = model_of(WORDS, *words)
    with caplog.at_level("INFO"):
        initial = read_initial(str(of_classes[0]), model, ["diffusion"])
    assert "encoder of its condition starts from random weights" in caplog.text
    assert all(name.startswith("unet/") for name in initial.diffusion)


def test_without_captions_all_but_attention_starts_from_a_conditional_model(of_classes, caplog):
    model = model_of(DataInfo(3, "none"))
    with caplog.at_level("INFO"):
        initial = read_initial(str(of_classes[0]), model, ["diffusion"])
    assert "the attention layers start from random weights" in caplog.text
    params, _ = started(model, "diffusion", initial.diffusion)
    there = of_classes[1]["diffusion"]["unet"]
    np.testing.assert_array_equal(params["unet"]["conv_in"]["kernel"], there["conv_in"]["kernel"])
    attention = params["unet"]["mid"][0]["attention"]
    assert all((leaf == -1).all() for leaf in jax.tree.leaves(attention))
    taken = {name for name in initial.diffusion if "/attention/" not in name}
    assert taken == set(initial.diffusion) and len(taken) > 10


def test_a_run_without_a_second_stage_gives_its_first(saved, caplog):
    path, weights = saved(model_of(CLASSES), ["autoencoder"])
    with caplog.at_level("INFO"):
        initial = read_initial(str(path), model_of(CLASSES), BOTH)
    assert "has no second stage" in caplog.text
    assert initial.autoencoder and not initial.diffusion


def test_a_discriminator_comes_along_where_it_fits(saved, caplog):
    words = ["--autoencoder.loss.disc-weight", 1, "--data.size", 32]
    words += ["--autoencoder.discriminator.channels", 4, "--autoencoder.discriminator.layers", 1]
    path, weights = saved(model_of(CLASSES, *words), ["autoencoder"])
    initial = read_initial(str(path), model_of(CLASSES, *words), ["autoencoder"])
    params, _ = started(model_of(CLASSES, *words), "autoencoder", initial.autoencoder, False)
    assert_equal(params, weights["autoencoder"])
    words[-3] = 8
    with caplog.at_level("INFO"):
        initial = read_initial(str(path), model_of(CLASSES, *words), ["autoencoder"])
    assert "its discriminator starts from random weights" in caplog.text
    assert all(name.startswith("autoencoder/") for name in initial.autoencoder)


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ["--diffusion.unet.channels", 16],
            r"its unet does not fit: --diffusion.unet.channels is 8 there, 16 here "
            r"\(unet/.* is \[.*\] there, \[.*\] here; .* more\)",
        ),
        (
            ["--diffusion.class-dim", 16],
            r"its unet does not fit \(unet/.* is \[8, 8\] there, \[16, 8\] here",
        ),
        (
            ["--autoencoder.network.z-channels", 4],
            "its autoencoder does not fit: --autoencoder.network.z-channels is 2 there, 4 here",
        ),
        (["--autoencoder.network.bottleneck", "vq"], "autoencoder/codebook is missing there"),
    ],
)
def test_networks_of_other_sizes_are_refused_by_option_and_array(of_classes, words, said):
    with pytest.raises(UserError, match=said):
        read_initial(str(of_classes[0]), model_of(CLASSES, *words), BOTH)


def test_what_is_no_run_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"weights")
    for path in ("nowhere", tmp_path, tmp_path / "model.ckpt"):
        with pytest.raises(UserError, match="is no run directory: .* ldm_jax convert FILE"):
            read_initial(str(path), model_of(CLASSES), BOTH)


def test_a_run_that_has_not_begun_has_no_weights_to_start_from(tmp_path):
    model = model_of(CLASSES)
    RunDir(tmp_path).begin("folder", model.config, model.info)
    with pytest.raises(UserError, match="has no trained autoencoder"):
        read_initial(str(tmp_path), model, BOTH)


def test_other_predictions_are_warned_of(of_classes, caplog):
    read_initial(str(of_classes[0]), model_of(CLASSES, "--diffusion.prediction", "z_0"), BOTH)
    assert "it was trained with another --diffusion.prediction" in caplog.text


def test_an_encoder_that_is_not_trained_has_to_have_weights(of_classes):
    freeze = "--diffusion.freeze-encoder", "True"
    frozen, nothing = model_of(CLASSES, *freeze), InitialWeights()
    check_frozen(frozen, read_initial(of_classes[0], frozen, BOTH), BOTH)
    check_frozen(model_of(CLASSES), nothing, BOTH)
    check_frozen(model_of(DataInfo(3, "none"), *freeze), nothing, BOTH)  # it has none
    of_words = model_of(WORDS, *freeze)
    for model, initial in (
        (frozen, nothing),
        (of_words, read_initial(of_classes[0], of_words, BOTH)),  # an encoder of another kind
    ):
        with pytest.raises(UserError, match="its weights have to be in --init-from RUN"):
            check_frozen(model, initial, BOTH)


def test_an_encoder_of_images_that_is_not_trained_has_to_have_weights(of_classes):
    frozen = model_of(CLASSES, "--autoencoder.freeze-encoder", "True")
    check_frozen(frozen, read_initial(of_classes[0], frozen, BOTH), BOTH)
    check_frozen(frozen, InitialWeights(), ["diffusion"])  # a first stage that is there already
    with pytest.raises(UserError, match="--autoencoder.freeze-encoder True: .*--init-from RUN"):
        check_frozen(frozen, InitialWeights(), BOTH)
