"""What the benchmarks of a trained run of scenes begin with: options, and held-out scenes."""

import argparse
import dataclasses

import jax

from ldm_jax import LatentDiffusion
from ldm_jax.data.loader import Batch
from ldm_jax.data.scenes import ScenesSource


def options_of(description: str, images: int = 256) -> argparse.ArgumentParser:
    """The arguments RUN and --images; the benchmark may add its own."""
    jax.config.update("jax_num_cpu_devices", 2)  # one a core, as sample.py has them
    arguments = argparse.ArgumentParser(description=description.splitlines()[0])
    arguments.add_argument("run", help="a run directory, such as runs/scenes")
    arguments.add_argument("--images", type=int, default=images)
    return arguments


def held_out(model: LatentDiffusion, n: int, size: int | None = None) -> Batch:
    """n scenes of the kind that the model was trained on, but none of those."""
    data, seed = model.config.data, model.config.seed
    data = dataclasses.replace(data, size=size or data.size, validation_count=n)
    return ScenesSource(data, "validation", seed).read(range(n))
