"""A run of the smallest networks, packed."""

import jax
import numpy as np
import pytest

from ldm_jax.commands import cli
from ldm_jax.commands.pack import main as pack_main
from ldm_jax.data.scenes.captions import VOCABULARY
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.experiments.config import Experiment
from ldm_jax.model.data_info import DataInfo
from ldm_jax.model.networks import Networks
from ldm_jax.model.published import finished_state
from ldm_jax.model.run_dir import RunDir
from tests.runs import TINY

FIELDS = [*TINY.split(), "--data.count", "16", "--data.validation-count", "16"]


@pytest.fixture(scope="session")
def run_of(tmp_path_factory):
    """`run_of(*words)`: a run directory with random weights, as training would have left it.

    stages: those that are trained.
    """

    def make(*words, stages=("autoencoder", "diffusion")):
        config = cli.parse(Experiment, [*FIELDS, *map(str, words)], "", EXPERIMENTS["smoke"]())
        info = DataInfo(3, "text", vocabulary=VOCABULARY, caption_length=24)
        rng, networks = np.random.default_rng(0), Networks(config, info)
        run = RunDir(tmp_path_factory.mktemp("runs") / "tiny")
        run.begin("smoke", config, info)
        first, second = (
            jax.tree.map(
                lambda leaf: (0.3 * rng.normal(size=leaf.shape)).astype(np.float32),
                jax.eval_shape(objective.init, jax.random.key(0)),
            )
            for objective in (networks.first.objective, networks.objective)
        )
        constants = {"autoencoder": first["autoencoder"], "scale_factor": np.float32(0.7)}
        states = {
            "autoencoder": finished_state(config.autoencoder, first, {}),
            "diffusion": finished_state(config.diffusion, second, constants),
        }
        for stage in stages:
            checkpoints = run.checkpoints(stage)
            checkpoints.save(4, states[stage])
            checkpoints.close()
        return run.path

    return make


@pytest.fixture(scope="session")
def run(run_of):
    """A run of both stages."""
    return run_of()


@pytest.fixture(scope="session")
def pack(command):
    """`pack(RUN, FOLDER)` is `python -m ldm_jax pack RUN --out FOLDER`."""
    return lambda run, folder: command(pack_main, [run, "--out", folder])


@pytest.fixture(scope="session")
def packed(pack, run, tmp_path_factory):
    """The same run, packed."""
    folder = tmp_path_factory.mktemp("shipped") / "tiny"
    assert pack(run, folder).code == 0
    return folder
