"""First stages: with codes, with LPIPS, borrowed from another run, and none at all."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax.autoencoder.perceptual import abstract_params
from ldm_jax.commands.train.autoencoder import check_unchanged, load_autoencoder_from
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.model.data_info import DataInfo
from ldm_jax.model.run_dir import RunDir
from ldm_jax.training.metrics import read
from ldm_jax.training.step import TrainState

pytestmark = pytest.mark.slow

# 25 steps, dead codes reset after steps 10 and 20; the checkpoints of 15, 20 and 25 are kept.
VQ = """
    --autoencoder.network.bottleneck vq --autoencoder.network.codebook-size 64
    --autoencoder.reset-dead-codes-every 10
    --autoencoder.steps 25 --autoencoder.progress.save-every 5 --autoencoder.progress.log-every 5
""".split()
ALWAYS = ["--diffusion.drop-probability", 0]
ALONE = ["--stage", "autoencoder"]


@pytest.fixture(scope="module")
def train_on(train_tiny, photographs):
    """`train_on('captions', run, *words)` trains the smallest networks on that folder."""
    views = ["--data.crop", "centre", "--data.flip", False]

    def run(layout, path, *words):
        words = ["--data.path", photographs / layout, *views, *words, "--run-dir", path]
        return train_tiny("folder", *words)

    return run


def saved(run, stage, *names):
    """What the newest checkpoint of a stage holds under these names, as bytes."""
    state = RunDir(run).checkpoints(stage).restore_part(names)
    return as_bytes(state if len(names) > 1 else state[names[0]])


def as_bytes(tree):
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def of_autoencoder(arrays):
    """Those of the autoencoder alone, under the names that they have in it."""
    mark = "['autoencoder']"
    return {k.removeprefix(mark): v for k, v in arrays.items() if k.startswith(mark)}


ALL = ("step", "params", "ema", "opt_state", "constants")


def without_newest(run, copy, stage, newest):
    """A copy of a run as it was killed before these checkpoints of its stage."""
    shutil.copytree(run, copy)
    (copy / "summary.json").unlink()
    for step in newest:
        shutil.rmtree(copy / "checkpoints" / stage / str(step))
    return copy


# --- codes


@pytest.fixture(scope="module")
def vq(train_on, tmp_path_factory):
    """(how it ended, its run directory): codes, and captions that are never dropped."""
    run = tmp_path_factory.mktemp("runs") / "vq"
    return train_on("captions", run, *VQ, *ALWAYS), run


def test_a_run_with_codes_tells_of_their_use(vq):
    ended, run = vq
    assert ended.code == 0, ended.err
    lines = [line for line in read(run / "metrics.jsonl") if line["stage"] == "autoencoder"]
    lines = [line for line in lines if "loss" in line]  # not those of held-out images
    assert len(lines) == 5 and lines[-1]["loss"] < lines[0]["loss"]
    for line in lines:
        assert 1 / 64 <= line["codebook_usage"] <= 1
        assert 1 <= line["codebook_perplexity"] <= 64
        assert line["vq_loss"] > 0 and "kl_per_element" not in line
    summary = RunDir(run).summary()["autoencoder"]
    assert 0 < summary["codebook_usage"] <= 1 and 1 <= summary["codebook_perplexity"] <= 64
    assert f"{summary['codebook_usage']:.0%} of the codes in use" in ended.out
    assert summary["psnr"] > 0 and (run / "curves.png").exists() and (run / "samples.png").exists()


def test_a_run_with_codes_that_was_killed_resets_the_same_ones(vq, train_on, tmp_path):
    """From the checkpoint of step 15, over the reset after step 20."""
    copy = without_newest(vq[1], tmp_path / "run", "autoencoder", (20, 25))
    resumed = train_on("captions", copy, *VQ, *ALWAYS, *ALONE)
    assert resumed.code == 0, resumed.err
    assert "resumes at step 15 of 25" in resumed.err
    assert saved(copy, "autoencoder", *ALL) == saved(vq[1], "autoencoder", *ALL)


def test_a_reset_moves_the_codes_that_nothing_uses(vq):
    """They start within 1/K of zero, and one that is never used has no gradient to leave by."""
    lines = read(vq[1] / "metrics.jsonl")
    before = max(line["codebook_usage"] for line in lines if line["step"] in (5, 10))
    assert before < 0.8
    state = RunDir(vq[1]).checkpoints("autoencoder").restore_part(["params", "ema"])
    for name in ("params", "ema"):
        codebook = state[name]["autoencoder"]["codebook"]
        assert (np.abs(codebook) <= 1 / 64).all(-1).mean() < 0.1


def test_a_model_that_never_lost_its_condition_cannot_be_guided(vq, sample, tmp_path):
    """Its previews and final images were drawn without guidance."""
    drawn = sample(vq[1], "--prompt", "a red square", "--out", tmp_path / "a.png")
    assert drawn.code == 0, drawn.err
    error = sample(vq[1], "--prompt", "a red square", "--guidance", 2).error
    assert "never trained without its condition" in error and "guidance is 1" in error


# --- LPIPS

# Place in torchvision's `features` of each layer.
PLACES = {"conv1": 0, "fire2": 3, "fire3": 4, "fire4": 6, "fire5": 7, "fire6": 9}
PLACES |= {"fire7": 10, "fire8": 11, "fire9": 12}
HEADS = ("conv1", "fire3", "fire5", "fire6", "fire7", "fire8", "fire9")


def random_squeezenet():
    """Names and arrays of an .npz with LPIPS' SqueezeNet, of noise."""
    rng = np.random.default_rng(0)
    arrays = {}
    for path, like in jax.tree_util.tree_leaves_with_path(abstract_params("squeezenet")):
        layer, *part, leaf = (entry.key for entry in path)
        if layer == "heads":
            arrays[f"head{HEADS.index(leaf)}"] = rng.uniform(0, 1, like.shape)
            continue
        noise = rng.normal(size=like.shape)
        if leaf == "kernel":
            noise *= (2 / np.prod(like.shape[:-1])) ** 0.5
        name = {"kernel": "weight"}.get(leaf, leaf)
        arrays["_".join([str(PLACES[layer]), *part, name])] = (
            0.1 * noise if name == "bias" else noise
        )
    return {name: array.astype(np.float32) for name, array in arrays.items()}


LPIPS = """
    --data.size 20 --autoencoder.loss.perceptual-weight 1 --autoencoder.loss.perceptual squeezenet
    --autoencoder.ema-decay 0 --stage autoencoder
""".split()


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "squeezenet.npz"
    np.savez(file, **random_squeezenet())
    return file


@pytest.fixture(scope="module")
def perceptual(train_on, squeezenet, tmp_path_factory):
    """(how it ended, its run directory): stage 1 alone, with LPIPS in its loss."""
    run = tmp_path_factory.mktemp("runs") / "perceptual"
    file = ["--autoencoder.loss.perceptual-file", squeezenet]
    return train_on("flat", run, *LPIPS, *file), run


def test_a_run_with_lpips_trains_and_tells_it(perceptual, squeezenet):
    ended, run = perceptual
    assert ended.code == 0, ended.err
    summary = RunDir(run).summary()["autoencoder"]
    assert summary["lpips_squeezenet"] > 0
    assert f"LPIPS (squeezenet) {summary['lpips_squeezenet']:.3f}" in ended.out
    kept = RunDir(run).checkpoints("autoencoder").restore_part(["constants"])["constants"]
    with np.load(squeezenet) as arrays:
        for name, layer in (("0_weight", "conv1"), ("head0", "heads")):
            here = kept["perceptual"][layer]["kernel" if name == "0_weight" else "conv1"]
            np.testing.assert_array_equal(here, arrays[name])


def test_a_run_that_goes_on_needs_the_file_no_more(perceptual, squeezenet, train_on, tmp_path):
    copy = without_newest(perceptual[1], tmp_path / "run", "autoencoder", (4,))
    away = squeezenet.with_suffix(".away")
    squeezenet.rename(away)
    try:
        words = ["--autoencoder.loss.perceptual-file", squeezenet]
        resumed = train_on("flat", copy, *LPIPS, *words)
    finally:
        away.rename(squeezenet)
    assert resumed.code == 0, resumed.err
    assert "resumes at step 2 of 4" in resumed.err
    names = ("step", "params", "opt_state", "constants")
    assert saved(copy, "autoencoder", *names) == saved(perceptual[1], "autoencoder", *names)
    here, there = (RunDir(run).summary()["autoencoder"] for run in (copy, perceptual[1]))
    assert here["lpips_squeezenet"] == there["lpips_squeezenet"]


@pytest.mark.parametrize("broken", ["missing", "no npz", "incomplete"])
def test_a_feature_network_that_cannot_be_read_is_refused(broken, train_on, tmp_path):
    file = tmp_path / "weights.npz"
    if broken == "no npz":
        file.write_bytes(b"no arrays")
    if broken == "incomplete":
        arrays = random_squeezenet()
        del arrays["12_squeeze_weight"]
        np.savez(file, **arrays)
    words = ["--autoencoder.loss.perceptual-file", file]
    # Before any data is opened: there is none here.
    words += ["--data.path", tmp_path / "nowhere"]
    error = train_on("flat", tmp_path / "run", *LPIPS, *words).error
    assert str(file) in error
    if broken == "incomplete":
        assert "fire9.squeeze.kernel is missing" in error
    assert not (tmp_path / "run").exists()


# --- borrowed


def borrower(run, **network):
    """smoke with a network of its own, and the autoencoder of that run."""
    smoke = EXPERIMENTS["smoke"]()
    network_there = RunDir(run).load()[1].autoencoder.network
    stage = dataclasses.replace(
        smoke.autoencoder, from_run=str(run), network=dataclasses.replace(network_there, **network)
    )
    return dataclasses.replace(smoke, autoencoder=stage)


def train_a_little_more(run):
    """A newer checkpoint of the first stage, of other weights."""
    checkpoints = RunDir(run).checkpoints("autoencoder")
    state = TrainState(**checkpoints.restore_part(ALL))
    ema = jax.tree.map(lambda array: array + 1, state.ema)
    checkpoints.save(99, dataclasses.replace(state, ema=ema))
    checkpoints.close()


def test_the_autoencoder_of_another_run_is_used_bit_for_bit(vq, train_on, sample, tmp_path):
    """The average that it keeps. None is trained: no steps, no checkpoints, no curves of it."""
    run, lender = tmp_path / "run", shutil.copytree(vq[1], tmp_path / "lender")
    lent = of_autoencoder(saved(lender, "autoencoder", "ema"))
    ended = train_on("captions", run, *VQ, *ALWAYS, "--autoencoder.from-run", lender)
    assert ended.code == 0, ended.err
    assert f"autoencoder: from {lender}, held-out PSNR" in ended.out
    assert of_autoencoder(saved(run, "diffusion", "constants")) == lent
    assert not (run / "checkpoints" / "autoencoder").exists()
    assert {line["stage"] for line in read(run / "metrics.jsonl")} == {"diffusion"}
    here, there = (RunDir(path).summary()["autoencoder"] for path in (run, vq[1]))
    assert here["from_run"] == str(lender) and "steps" not in here
    for score in ("psnr", "codebook_usage", "codebook_perplexity"):
        assert here[score] == there[score]
    drawn = sample(run, "--prompt", "a red square", "--out", tmp_path / "a.png")
    assert drawn.code == 0, drawn.err
    # and a borrower may lend in turn
    weights, _ = load_autoencoder_from(borrower(run).autoencoder)
    assert as_bytes(weights) == lent
    # but when its lender is trained again, the second stage does not go on
    check_unchanged(RunDir(run), weights)
    (run / "summary.json").unlink()
    train_a_little_more(lender)
    words = ["--autoencoder.from-run", lender]
    error = train_on("captions", run, *VQ, *ALWAYS, *words).error
    assert f"diffusion stage of {run} began on another autoencoder, which has been trained" in error


def test_a_lender_may_have_its_first_stage_alone(perceptual):
    """And no average: then its parameters are what is lent."""
    run = perceptual[1]
    assert not (run / "checkpoints" / "diffusion").exists()
    lent, _ = load_autoencoder_from(borrower(run).autoencoder)
    assert as_bytes(lent) == of_autoencoder(saved(run, "autoencoder", "params"))


def test_a_lender_may_have_kept_its_second_stage_alone(vq, tmp_path):
    copy = shutil.copytree(vq[1], tmp_path / "run")
    shutil.rmtree(copy / "checkpoints" / "autoencoder")
    lent = as_bytes(load_autoencoder_from(borrower(copy).autoencoder)[0])
    averaged, last = (of_autoencoder(saved(vq[1], "autoencoder", n)) for n in ("ema", "params"))
    assert lent == averaged != last


def test_a_lender_needs_no_summary_once_its_last_checkpoint_is_there(vq, tmp_path):
    copy = shutil.copytree(vq[1], tmp_path / "run")
    (copy / "summary.json").unlink()
    lent, _ = load_autoencoder_from(borrower(copy).autoencoder)
    assert as_bytes(lent) == of_autoencoder(saved(vq[1], "autoencoder", "ema"))


def test_what_cannot_be_borrowed_is_refused(vq, train_on, tmp_path):
    def refused(lender, *words):  # before any data is opened: there is none here
        words = [*VQ, "--autoencoder.from-run", lender, "--data.path", tmp_path / "none", *words]
        return train_on("captions", tmp_path / "run", *words).error

    assert f"{tmp_path}/nowhere is no run directory" in refused(tmp_path / "nowhere")
    error = refused(vq[1], "--autoencoder.network.z-channels", 3)
    assert f"the autoencoder of {vq[1]} is another network: z-channels is 2 there, 3 here" in error

    begun = RunDir(tmp_path / "begun")
    begun.begin("folder", RunDir(vq[1]).load()[1], DataInfo(3, "none"))
    assert f"{begun.path} has no trained autoencoder" in refused(begun.path)
    half = without_newest(vq[1], tmp_path / "half", "autoencoder", (25,))
    assert f"the autoencoder of {half} is not trained to its end yet" in refused(half)
    (begun.path / "config.json").write_text("{}")
    assert "config.json has version None" in refused(begun.path)
    assert not (tmp_path / "run").exists()


def test_an_autoencoder_of_colours_cannot_be_borrowed_for_grey_images(
    vq, train_tiny, photographs, tmp_path
):
    for file in (photographs / "flat").glob("*.png"):
        (tmp_path / "grey").mkdir(exist_ok=True)
        Image.open(file).convert("L").save(tmp_path / "grey" / file.name)
    words = ["--data.path", tmp_path / "grey", *VQ, "--autoencoder.from-run", vq[1]]
    refused = train_tiny("folder", *words, "--run-dir", tmp_path / "run")
    assert refused.code == 2
    last = refused.err.splitlines()[-1]  # after a notice of what the crop cuts off
    assert last.startswith("error: ") and "number of channels: 3, not 1" in last
    assert not (tmp_path / "run").exists()


# --- none


PIXELS = ["--autoencoder.network.bottleneck", "none", "--diffusion.class-entry", "time"]


def test_a_model_of_pixels_whose_classes_enter_with_the_time(train_on, sample, tmp_path):
    run = tmp_path / "run"
    alone = train_on("classes", run, *PIXELS, *ALONE)
    assert (alone.code, alone.out) == (0, "autoencoder: none, on pixels\n"), alone.err

    ended = train_on("classes", run, *PIXELS)
    assert ended.code == 0, ended.err
    assert ended.out.startswith("autoencoder: none, on pixels | diffusion: ")
    assert "encoding images" not in ended.err
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["diffusion"]
    assert {line["stage"] for line in read(run / "metrics.jsonl")} == {"diffusion"}
    summary = json.loads((run / "summary.json").read_text())
    assert summary["autoencoder"] == {"pixels": True, "finished": True}
    state = RunDir(run).checkpoints("diffusion").restore_part(["params", "constants"])
    assert not state["constants"].get("autoencoder")
    params = state["params"]
    assert set(params) == {"unet"} and params["unet"]["label"]["embedding"].shape == (3, 32)
    for words in ([], ["--guidance", 1], ["--guidance", 5]):
        drawn = sample(run, "--class-label", "red", 0, *words, "--out", tmp_path / "a.png")
        assert drawn.out == f"8 images in {tmp_path / 'a.png'}\n", drawn.err
    again = train_on("classes", run, *PIXELS)
    assert again.out == ended.out and f"{run} is finished" in again.err
