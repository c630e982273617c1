"""What is said of a run's time and memory after its first seconds."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from ldm_jax.commands.train.abstract import abstract_step, work_of
from ldm_jax.commands.train.estimate import duration, estimate_line
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.model.data_info import DataInfo
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.training.step import lower_step


@pytest.mark.parametrize(
    "seconds, said",
    [
        (0.2, "1 second"),
        (42.4, "42 seconds"),
        (90, "2 minutes"),
        (3300, "55 minutes"),
        (5400, "1.5 hours"),
        (47 * 3600, "47.0 hours"),
        (3 * 86400, "3.0 days"),
    ],
)
def test_a_duration_is_said_as_people_say_it(seconds, said):
    assert duration(seconds) == said


def test_the_line_has_the_whole_run_and_its_parts():
    line = estimate_line("autoencoder", 1200, 2100, 1.42e9, "cpu")
    assert line.startswith("autoencoder: about 55 minutes from here and 1.4 GB of memory: ")
    assert "20 minutes for these steps, 35 minutes for the diffusion model" in line
    alone = estimate_line("classifier", 30, 0, 2e9, "gpu")
    assert alone.startswith("classifier: about 30 seconds from here and 2.0 GB on each GPU; ")


def test_the_work_is_what_a_training_step_costs(one_device):
    """By the loss alone, which takes a second, as by the step with its gradient and optimiser."""
    experiment = EXPERIMENTS["smoke"]()
    info = DataInfo(3, "none")
    model = LatentDiffusion(
        replace(experiment, diffusion=replace(experiment.diffusion, condition="none")), info
    )
    example = {"image": np.zeros((1, 32, 32, 3), np.uint8)}
    step = abstract_step(model, "diffusion", example, cached=True)
    work = work_of(model, step, cached=True)
    key = jax.eval_shape(lambda: jax.random.key(0))
    args = step.objective, step.config, one_device, key, step.batch, step.constants
    counted = lower_step(*args)[1].cost_analysis()["flops"]
    stage = experiment.diffusion
    assert work.training / stage.steps == pytest.approx(counted, rel=0.15)
    # 2 previews of 16 images and 32 at the end, 5 steps, twice with guidance: a third of the work
    # of a training step for each
    passes = 64 * experiment.sampling.steps * (1 if experiment.sampling.guidance == 1 else 2)
    share = passes / (3 * stage.batch_size * stage.steps)
    assert work.sampling == pytest.approx(share * work.training)
    images = work_of(model, abstract_step(model, "diffusion", example, cached=False), cached=False)
    assert images.sampling == pytest.approx(work.sampling, rel=0.05)
    assert images.training > 1.1 * work.training  # the encoder
