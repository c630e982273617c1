"""What a training step would cost on a machine that is not there."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import jax
import pytest

from ldm_jax.commands.estimate import report
from ldm_jax.commands.estimate.step import abstract_step
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.training.cost import Collectives
from ldm_jax.training.topology import CHIPS

SMALL = """
    --data.size 8 --data.count 16
    --autoencoder.network.channel-mult 1 --diffusion.unet.channel-mult 1
""".split()
# Wide enough that fsdp splits the weights: 2**14 numbers or more.
WIDE = ["--autoencoder.network.channels", "48", "--diffusion.unet.channels", "64"]
HEAD = {"autoencoder": "image 8x8x8x3", "diffusion": "encoded 16x8x8x4, condition 16x13"}


@pytest.fixture(scope="module")
def estimate(command):
    """`estimate('smoke', ...)` is `python -m ldm_jax estimate smoke ...`."""
    return lambda *words: command(report.main, words)


@pytest.fixture(scope="module")
def on_eight(estimate, tmp_path_factory):
    """`on_eight(stage, fsdp)`: (the report, its numbers) of a small smoke on eight CPU devices."""
    done = {}

    def run(stage, fsdp):
        if (stage, fsdp) not in done:
            out = tmp_path_factory.mktemp("estimates") / "estimate.json"
            words = ["--topology", "cpu:8", "--stage", stage, "--mesh.fsdp", fsdp, "--out", out]
            ended = estimate("smoke", *SMALL, *WIDE, *words)
            assert ended.code == 0, ended
            done[stage, fsdp] = ended.out, json.loads(out.read_text())
        return done[stage, fsdp]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_it_says_what_a_step_needs_and_what_it_cannot_know(stage, on_eight):
    text, numbers = on_eight(stage, 4)
    assert HEAD[stage] in text and "not known    step time, MFU" in text
    assert f"{numbers['parameters']:,}" in text
    assert numbers["mesh"] == {"data": 2, "fsdp": 4, "tensor": 1} and numbers["devices"] == 8
    assert numbers["flops"] == 8 * numbers["cost"]["flops"] > 0
    assert numbers["cost"]["peak_bytes"] > numbers["cost"]["argument_bytes"] > 0
    unknown = ("step_s", "mfu", "examples_per_s", "hbm_bytes")
    assert [numbers[name] for name in unknown] == [None] * 4


@pytest.mark.slow
def test_fsdp_splits_the_state_and_gathers_the_weights(on_eight):
    (_, whole), (_, split) = on_eight("diffusion", 1), on_eight("diffusion", 4)
    assert split["parameters"] == whole["parameters"]
    # weights, average and two moments, of which the small ones stay whole; batch and autoencoder
    assert split["cost"]["argument_bytes"] < whole["cost"]["argument_bytes"] / 2
    assert "all-gather" in split["collectives"] and "all-gather" not in whole["collectives"]
    gradients = whole["collectives"]["all-reduce"]
    assert gradients["bytes"] >= 4 * whole["parameters"]  # float32, summed over the devices


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_the_step_is_the_one_that_training_compiles(stage, smoke, tmp_path):
    _, run = smoke
    out = tmp_path / "estimate.json"
    alone(["smoke", "--topology", "cpu:1", "--stage", stage, "--out", str(out)])
    here, trained = json.loads(out.read_text()), json.loads((run / "summary.json").read_text())
    assert here["parameters"] == trained[stage]["parameters"]
    assert (here["flops"], here["cost"]["peak_bytes"]) == (
        trained[stage]["flops"],
        trained[stage]["peak_bytes"],
    )


def alone(words):
    """The command as a process of its own, which sees one device."""
    command = [sys.executable, "-m", "ldm_jax", "estimate", *words]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert ended.returncode == 0, ended
    return ended.stdout


@pytest.mark.parametrize(
    ("flops", "cycles", "sent", "seconds"),
    [(197e9, 3e6, 0, 2e-3), (591e9, 3e6, 0, 3e-3), (197e9, 3e6, 8e8, 4e-3), (197e9, 0, 0, 1e-3)],
)
def test_a_step_takes_the_longest_of_its_times(flops, cycles, sent, seconds):
    links = {"all-reduce": Collectives(1, int(sent), int(sent))}
    assert report.step_seconds(flops, cycles, links, CHIPS["v5e"]) == pytest.approx(seconds)


@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs libtpu")
def test_a_slice_of_tpu_chips_is_compiled_for(tmp_path):
    out = tmp_path / "estimate.json"
    text = alone(["smoke", *SMALL, "--topology", "v5e:2x2", "--out", str(out)])
    numbers = json.loads(out.read_text())
    assert "ms, MFU" in text and "of 16 GiB" in text
    assert (numbers["devices"], numbers["device_kind"]) == (4, "TPU v5 lite")
    assert 0 < numbers["mfu"] < 1
    assert numbers["step_s"] > numbers["cost"]["argument_bytes"] / 819e9  # reads its weights
    assert numbers["examples_per_s"] == pytest.approx(16 / numbers["step_s"])
    assert numbers["collectives"]["all-reduce"]["sent_bytes"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--topology", "v9:4x4"], "unknown topology 'v9:4x4'"),
        (["--topology", "cpu"], "unknown topology 'cpu'"),
        (["--topology", "v5e:0x4"], "unknown topology 'v5e:0x4'"),
        (["--topology", "v5e:2x2x2"], "a pod of v5e has 2 axes"),
        (["--topology", "v5e:32x32"], "at most 256 chips"),
        (["--topology", "cpu:99"], "99 CPU devices were asked for"),
        (["--topology", "cpu:8", "--mesh.fsdp", "3"], "there are 8"),
        (["--topology", "cpu:8", "--diffusion.batch-size", "12"], "diffusion.batch-size"),
        (["--topology", "cpu:8", "--data.size", "33"], "not divisible"),
        (["--topology", "cpu:8", "--stage", "classifier"], "classifier"),
        (["--topology", "cpu:8", "--out", "/dev/null/x.json"], "/dev/null"),
    ],
)
def test_what_cannot_be_is_one_line(words, said, estimate):
    assert said in estimate("smoke", *words).error


def test_an_experiment_has_to_be_known_and_its_condition(estimate):
    assert "perhaps you meant smoke" in estimate("smok", "--topology", "cpu:8").error
    assert "--diffusion.condition" in estimate("folder", "--topology", "cpu:8").error


def test_the_other_stage_need_not_fit_the_machine(estimate):
    """Its batch is never split over these devices."""
    words = ["--stage", "diffusion", "--topology", "cpu:8", "--diffusion.batch-size", "12"]
    assert "autoencoder" not in estimate("smoke", *words, "--autoencoder.batch-size", "9").error


# What a step on data of its own reads of each condition, at 64x64 with f = 4.
READS = {
    "none": {},
    "class": {"condition": (4,)},
    "text": {"condition": (4, 77)},
    "layout": {"condition": (4, 92)},
    "semantic": {"semantic": (4, 64, 64)},
    "super-resolution": {"low_res": (4, 8, 8, 3)},
    "image-embedding": {"condition": (4, 1, 768)},
    "inpainting": {"masked": (4, 64, 64, 3), "mask": (4, 64, 64)},
}


@pytest.mark.parametrize("crop", ["random", "centre"])
@pytest.mark.parametrize("condition", READS)
def test_a_batch_is_as_training_would_have_it(condition, crop):
    folder = EXPERIMENTS["folder"]()
    experiment = dataclasses.replace(
        folder,
        data=dataclasses.replace(folder.data, crop=crop),
        diffusion=dataclasses.replace(folder.diffusion, condition=condition, batch_size=4),
    )
    shapes = {
        name: array.shape for name, array in abstract_step(experiment, "diffusion").batch.items()
    }
    latents = {"image": (4, 64, 64, 3)} if crop == "random" else {"encoded": (4, 8, 8, 16)}
    assert shapes == latents | READS[condition]


def test_too_little_memory_is_said_by_how_much():
    class Lowered:
        def compile(self):
            raise jax.errors.JaxRuntimeError(
                "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 22.50G of 15.75G "
                "hbm. Exceeded hbm capacity by 6.75G.\n\nTotal hbm usage >= 22.75G"
            )

    with pytest.raises(report.UserError, match="22.50G of 15.75G, 6.75G too much"):
        report._compile(Lowered(), "v5e:4x4")
