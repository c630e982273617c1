"""The benchmarks beside diffusers: the experiments' sizes, the same networks, honest figures."""

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from ldm_jax.diffusion.schedule import ScheduleConfig
from ldm_jax.experiments import EXPERIMENTS

FOLDER = Path(__file__).parents[2] / "benchmarks"
ALONE = """
import runpy, sys
sys.modules["tyro"] = sys.modules["tensorflow_datasets"] = None
sys.path.insert(0, sys.argv[1])
import profile_step, sampling
sys.argv = sys.argv[2:]
runpy.run_module("train_step", run_name="__main__")
"""


@pytest.fixture(scope="module")
def load():
    """Name -> a module of the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module


@pytest.mark.parametrize("size, name", [("laptop", "scenes"), ("paper", "celeba256")])
def test_the_unets_are_the_experiments(load, size, name):
    ours, experiment = load("side_by_side").UNETS[size], EXPERIMENTS[name]()
    stage, network = experiment.diffusion, experiment.autoencoder.network
    side = experiment.data.size // network.f
    assert ours.unet == stage.unet and ours.latent == (side, side, network.z_channels)
    assert (ours.prediction, stage.schedule, stage.loss_norm) == (
        stage.prediction,
        ScheduleConfig(),
        "l2",
    )
    assert (ours.optimiser, ours.ema_decay, ours.batch) == (
        dataclasses.replace(stage.optimiser, kind="adam"),  # which PyTorch has, too
        stage.ema_decay,
        stage.batch_size,
    )
    if ours.tokens:
        assert ours.tokens[1] == stage.text.dim


@pytest.mark.parametrize("size, name", [("laptop", "scenes"), ("paper", "kl-f8")])
def test_the_autoencoders_are_the_experiments(load, size, name):
    ours, experiment = load("side_by_side").AUTOENCODERS[size], EXPERIMENTS[name]()
    stage = experiment.autoencoder
    assert ours.network == stage.network and ours.image == experiment.data.size
    # But for the discriminator, LPIPS and scale equivariance
    left_out = {
        name: getattr(ours.loss, name)
        for name in (
            "disc_weight",
            "max_adaptive_weight",
            "perceptual_weight",
            "equivariance_weight",
        )
    }
    assert ours.loss == dataclasses.replace(stage.loss, **left_out)
    assert all(left_out[name] == 0 for name in left_out if name != "max_adaptive_weight")
    assert (ours.optimiser, ours.ema_decay, ours.batch) == (
        dataclasses.replace(stage.optimiser, kind="adam"),  # which PyTorch has, too
        stage.ema_decay,
        stage.batch_size,
    )


@pytest.mark.slow
def test_it_runs_without_tyro_and_tfds(tmp_path):
    file = tmp_path / "figures.json"
    options = "--model unet --size tiny --ways ours --rounds 2 --turn-seconds 0 --out".split()
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(FOLDER), "train_step", *options, str(file)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    (row,) = figures["rows"]
    assert row["way"] == "ours" and row["ratios"] == [1, 1] and len(row["all_seconds"]) == 2
    assert figures["flops"] > 0 and row["program_bytes"] > 0
    assert row["images_per_s"] == pytest.approx(4 / row["seconds"])
    rate = max(figures["matrix_product_flops_per_s"].values())
    assert row["share_of_peak"] == pytest.approx(figures["flops"] / row["seconds"] / rate)
    assert "| ours |" in done.stdout


def test_ratios_are_taken_within_a_round(load):
    sbs = load("side_by_side")
    ways = [sbs.Way(name, None) for name in "ab"]
    _, row = sbs.rows_of(ways, {"a": [1.0, 10.0, 2.0], "b": [3.0, 20.0, 2.0]})
    assert (row["seconds"], row["ratio"], row["ratios"]) == (3.0, 2.0, [1.0, 3.0])


@pytest.mark.parametrize("difference", [1e-3, float("nan")])
def test_what_differs_is_not_timed(load, difference):
    with pytest.raises(SystemExit, match="nothing is timed"):
        load("side_by_side").refuse_unless_equal({"output": 1e-6, "loss": difference})


@pytest.mark.parametrize("model", ["unet", "autoencoder"])
def test_diffusers_has_the_same_network(load, model):
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    train_step, sbs = load("train_step"), load("side_by_side")
    kind, sizes = train_step.MODELS[model]
    task = kind(sizes["tiny"], 2)
    params = sbs.random_weights(task.objective(jnp.float32).init)
    apart = train_step.check_equal(torch, task, params)
    assert set(apart) == {"output", "loss", "gradient_norm"} and max(apart.values()) < 1e-4
    theirs, others = task.theirs, jax.tree.map(lambda a: 1.01 * a, params)
    task.theirs = lambda torch, _: theirs(torch, others)
    with pytest.raises(SystemExit, match="nothing is timed"):
        train_step.check_equal(torch, task, params)


def test_the_profile_tells_the_three_convolutions_apart(load):
    profile = load("profile_step")

    def loss(x, kernel):
        axes = ("NHWC", "HWIO", "NHWC")
        return jnp.sum(
            jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=axes) ** 2
        )

    shapes = (jnp.zeros((2, 8, 8, 4)), jnp.zeros((3, 3, 4, 4)))
    program = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*shapes).compile()
    found, inside = profile.instructions(program.as_text())
    kinds = {profile.kind(name, found, inside) for name in found}
    assert {
        "convolution, forward",
        "convolution, gradient of the input",
        "convolution, gradient of the kernel",
    } <= kinds
