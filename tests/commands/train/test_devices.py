"""One device and eight give the same training, through the networks of the experiments."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.model.data_info import DataInfo
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.training.cost import collectives
from ldm_jax.training.optimiser import OptimiserConfig
from ldm_jax.training.sharding import SMALLEST_SHARDED, make_mesh, put_batch
from ldm_jax.training.step import compile_step

STEPS = 10
MESHES = ({"data": 8}, {"data": 2, "fsdp": 4}, {"data": 2, "fsdp": 2, "tensor": 2})


@pytest.fixture(scope="module")
def experiment():
    """smoke with fewer levels, an adversary that is there from the start, and weights so large that
    fsdp splits them."""
    smoke = EXPERIMENTS["smoke"]()
    first, second = smoke.autoencoder, smoke.diffusion
    return dataclasses.replace(
        smoke,
        data=dataclasses.replace(smoke.data, size=8),
        autoencoder=dataclasses.replace(
            first,
            network=dataclasses.replace(first.network, channels=48, channel_mult=(1,)),
            loss=dataclasses.replace(first.loss, disc_start=0),
        ),
        diffusion=dataclasses.replace(
            second,
            unet=dataclasses.replace(
                second.unet, channels=128, head_channels=64, channel_mult=(1,), dropout=0.1
            ),
        ),
    )


@pytest.fixture(scope="module")
def trained_on(experiment):
    return trainer(experiment, OptimiserConfig(1e-6))


def trainer(experiment, optimiser):
    """`run(stage, mesh)`: (every metric of the first steps, state after them, program)."""
    model = LatentDiffusion(experiment, DataInfo(3, "text", (), tuple("abcdefgh"), 5))
    rng = np.random.default_rng(0)

    def batch(stage):
        n = getattr(experiment, stage).batch_size
        if stage == "autoencoder":
            return {"image": rng.integers(0, 256, (n, 8, 8, 3), np.uint8)}
        moments = rng.normal(size=(n, 8, 8, 4)).astype(np.float32)
        return {"encoded": moments, "condition": rng.integers(0, 10, (n, 5), np.int32)}

    batches = {
        stage: [batch(stage) for _ in range(STEPS)] for stage in ("autoencoder", "diffusion")
    }
    frozen = model.first.objective.init(jax.random.key(3))["autoencoder"]
    constants = {"autoencoder": {}, "diffusion": {"autoencoder": frozen, "scale_factor": 0.7}}

    def run(stage, mesh):
        objective = model.first.objective if stage == "autoencoder" else model.objective
        # Adam divides rounding errors by themselves wherever a gradient is zero in theory (a bias
        # before a norm). So its rate is small here, and its moments are compared as well.
        config = dataclasses.replace(getattr(experiment, stage), optimiser=optimiser, ema_decay=0.9)
        init, _, step = compile_step(
            objective, config, mesh, jax.random.key(5), batches[stage][0], constants[stage]
        )
        state, rows = init(), []
        for one in batches[stage]:
            state, metrics = step(state, put_batch(one, mesh))
            rows.append(metrics)
        metrics = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        return metrics, state, step.compiled.as_text()

    return run


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_eight_devices_train_as_one(stage, trained_on, one_device):
    one, alone, _ = trained_on(stage, one_device)
    assert {len(values) for values in one.values()} == {STEPS}
    assert np.isfinite(list(one.values())).all() and one["loss"][-1] != one["loss"][0]
    sent = {}
    for sizes in MESHES:
        mesh = make_mesh(**sizes)
        many, state, program = trained_on(stage, mesh)
        check_same((many, state), (one, alone), sizes)
        for part in ("params", "ema", "opt_state"):
            check_split(getattr(state, part), mesh)
        sent[tuple(sizes)] = collectives(program, mesh.size)
        if sizes.keys() == {"data", "fsdp"}:
            split = [x for x in jax.tree.leaves(state.params) if not x.is_fully_replicated]
            check_sent(sent["data",], sent["data", "fsdp"], sum(x.nbytes for x in split))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_eight_devices_train_as_one_with_every_option(stage, experiment, one_device):
    """With Muon, equivariance, weights of noise levels and another density of t."""
    first, second = experiment.autoencoder, experiment.diffusion
    loss = dataclasses.replace(first.loss, equivariance_weight=0.25)
    options = dataclasses.replace(
        experiment,
        autoencoder=dataclasses.replace(first, loss=loss),
        diffusion=dataclasses.replace(second, min_snr_gamma=5.0, timestep_density="logit-normal"),
    )
    trained_on = trainer(options, OptimiserConfig(1e-6, kind="muon"))
    one, alone, _ = trained_on(stage, one_device)
    sizes = {"data": 2, "fsdp": 4}
    mesh = make_mesh(**sizes)
    many, state, _ = trained_on(stage, mesh)
    check_same((many, state), (one, alone), sizes)
    check_split(state.opt_state, mesh)


def check_same(many, one, sizes):
    """(metrics of each step, state after them): but for rounding."""
    for name, expected in one[0].items():
        exact = {"rtol": 1e-5} if "loss" in name else {"rtol": 1e-4, "atol": 1e-5}
        np.testing.assert_allclose(many[0][name], expected, **exact, err_msg=f"{name} {sizes}")
    for part, close in (("ema", (1e-4, 1e-5)), ("opt_state", (1e-3, 1e-6))):
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=close[0], atol=close[1]),
            getattr(many[1], part),
            getattr(one[1], part),
        )


def check_sent(by_data, by_fsdp, split):
    """With fsdp the weights are gathered, once, beside the sums that there are without it: no
    activation moves."""
    assert by_data.keys() == {"all-reduce"} and by_fsdp.keys() == {"all-reduce", "all-gather"}
    assert by_fsdp["all-gather"].bytes == split
    assert by_fsdp["all-reduce"].bytes == pytest.approx(by_data["all-reduce"].bytes, rel=0.05)


def check_split(tree, mesh):
    """Each device has its share of every array that can be split, and of the rest all."""
    held, whole = 0, 0
    for array in jax.tree.leaves(tree):
        [share] = {shard.data.nbytes for shard in array.addressable_shards}
        divides = any(n % mesh.shape["fsdp"] == 0 for n in array.shape)
        if array.size >= SMALLEST_SHARDED and divides:
            assert array.nbytes / share in (
                mesh.shape["fsdp"],
                mesh.shape["fsdp"] * mesh.shape["tensor"],
            )
        held, whole = held + share, whole + array.nbytes
    assert (
        whole / (mesh.shape["fsdp"] * mesh.shape["tensor"])
        <= held
        <= whole * (1 / mesh.shape["fsdp"] + 0.05)
    )
