"""A trained run of scenes, ready to draw: what the benchmarks here begin with."""

import argparse
import dataclasses
from functools import partial

import jax
from ldm_jax.experiments.models import SecondStage
from ldm_jax.experiments.trained import load_weights, placed

from ldm_jax.data.loader import Batch
from ldm_jax.data.scenes import ScenesSource
from ldm_jax.model.run_dir import RunDir


def options_of(description: str, images: int = 256) -> argparse.ArgumentParser:
    """The arguments RUN and --images; the benchmark may add its own."""
    jax.config.update("jax_num_cpu_devices", 2)  # one a core, as sample.py has them
    arguments = argparse.ArgumentParser(description=description.splitlines()[0])
    arguments.add_argument("run", help="a run directory, such as runs/scenes")
    arguments.add_argument("--images", type=int, default=images)
    return arguments


class TrainedRun:
    """`draw` is the run's generator with its weights; it takes conditions and settings.

    Args:
      path: the run directory. n: images that will be drawn of each kind.
    """

    def __init__(self, path: str, n: int):
        self.run, self.n = RunDir(path), n
        _, self.experiment, self.facts = self.run.load()
        self.second = SecondStage(self.experiment, self.facts)
        weights = load_weights(self.run, self.experiment)
        self.weights, self.split = placed(weights, self.experiment, n)
        self.draw = partial(
            self.second.generator, *self.weights, sharding=self.split, batch_size=32, num_images=n
        )

    def held_out(self) -> Batch:
        """n scenes of the run's kind that it was not trained on."""
        data = dataclasses.replace(self.experiment.data, validation_count=self.n)
        source = ScenesSource(data, "validation", self.experiment.seed)
        return source.read(range(self.n))
