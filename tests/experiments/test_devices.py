"""One device and eight give the same training, through the networks of the experiments."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.experiments.models import SecondStage
from ldm_jax.experiments.run_dir import DataFacts
from ldm_jax.training import sharding
from ldm_jax.training.compile import prepare
from ldm_jax.training.sharding import make_mesh, put_batch
from ldm_jax.training.state import Stage

STEPS = 4


@pytest.fixture(scope="module")
def experiment():
    """smoke with fewer levels, and an adversary that is there from the start."""
    smoke = EXPERIMENTS["smoke"]()
    first, second = smoke.autoencoder, smoke.diffusion
    return dataclasses.replace(
        smoke,
        data=dataclasses.replace(smoke.data, size=8),
        autoencoder=dataclasses.replace(
            first,
            network=dataclasses.replace(first.network, channel_mult=(1,)),
            loss=dataclasses.replace(first.loss, disc_start=0),
        ),
        diffusion=dataclasses.replace(
            second, unet=dataclasses.replace(second.unet, channel_mult=(1,), dropout=0.1)
        ),
    )


@pytest.fixture(scope="module")
def losses(experiment):
    """`losses(stage, mesh)`: every metric of the first steps, `[STEPS, metrics]`."""
    second = SecondStage(experiment, DataFacts(3, "text", (), tuple("abcdefgh"), 5))
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
    frozen = second.first.problem.init(jax.random.key(3))["autoencoder"]
    constants = {"autoencoder": {}, "diffusion": {"autoencoder": frozen, "scale_factor": 0.7}}

    def run(stage, mesh):
        config = getattr(experiment, stage)
        problem = second.first.problem if stage == "autoencoder" else second.problem
        # Adam divides rounding errors by themselves wherever a gradient is zero in theory (a bias
        # before a norm), so it would measure its own amplification here; SGD does not.
        engine = Stage(problem.init, problem.grads, optax.sgd(0.01), config.ema_decay)
        init, _, step = prepare(
            engine, mesh, jax.random.key(5), batches[stage][0], constants[stage]
        )
        state, rows = init(), []
        for one in batches[stage]:
            state, metrics = step(state, put_batch(one, mesh))
            rows.append([float(metrics[name]) for name in sorted(metrics)])
        return np.array(rows)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_eight_devices_train_as_one(stage, losses, one_device, monkeypatch):
    monkeypatch.setattr(sharding, "SMALLEST_SHARDED", 64)  # so that fsdp splits these networks too
    one = losses(stage, one_device)
    assert np.isfinite(one).all() and one.shape == (STEPS, one.shape[1])
    for sizes in ({"data": 8}, {"data": 2, "fsdp": 4}):
        np.testing.assert_allclose(losses(stage, make_mesh(**sizes)), one, rtol=1e-4, atol=1e-5)
