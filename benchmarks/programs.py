"""The programs of every experiment at its published size, traced and not run.

    python benchmarks/programs.py [EXPERIMENT ...] [--devices 1 4 8] [--skip steps|arrays]

prints two tables in Markdown. The first: what is computed for one image and the largest array in
each of these programs, before XLA fuses operations. The second: the training step of each stage,
as it goes to XLA, on each number of CPU devices. Where only the data would decide the condition it
is classes.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ldm_jax.autoencoder.vq import nearest_counts
from ldm_jax.commands.estimate.step import abstract_step
from ldm_jax.data.scenes import ScenesConfig
from ldm_jax.errors import UserError
from ldm_jax.experiments import EXPERIMENTS, TRAINED_ALONE
from ldm_jax.experiments.config import Experiment
from ldm_jax.model.check import check
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.placeholder import placeholder_data
from ldm_jax.sampling.guidance import Guidance
from ldm_jax.training.cost import largest_array
from ldm_jax.training.sharding import fitting_mesh
from ldm_jax.training.step import count_parameters, lower_step

MIB = 2**20
COUNTED = 512  # images whose codes are counted at a time
Shape = jax.ShapeDtypeStruct


def settled(experiment: Experiment) -> Experiment:
    """The experiment with classes for its condition where data that is not opened would decide."""
    stage = experiment.diffusion
    if stage.condition != "auto" or isinstance(experiment.data, ScenesConfig):
        return experiment
    return dataclasses.replace(experiment, diffusion=dataclasses.replace(stage, condition="class"))


def stages(name: str, experiment: Experiment) -> tuple[str, ...]:
    """Those that `python train.py NAME` trains, where no first stage is borrowed."""
    if name in TRAINED_ALONE:
        return ("autoencoder",)
    pixels = experiment.autoencoder.network.bottleneck == "none"
    return ("diffusion",) if pixels else ("autoencoder", "diffusion")


def of_one_image(name: str, experiment: Experiment) -> Iterator[tuple[str, Any]]:
    """(what is computed, its jaxpr): everything but the gradients, for one image."""
    info, _ = placeholder_data(experiment)
    model, size = LatentDiffusion(experiment, info), experiment.data.size
    key = jax.eval_shape(lambda: jax.random.key(0))
    image = Shape((1, size, size, info.channels), jnp.uint8)
    if model.first.bottleneck != "none":
        frozen = jax.eval_shape(model.first.objective.init, key)["autoencoder"]
        yield "encode and decode", jax.make_jaxpr(model.first.reconstruct)(frozen, image)
        if model.first.bottleneck == "vq":
            encoded = jax.eval_shape(model.first.encode, frozen, image)
            many = Shape((COUNTED, *encoded.shape[1:]), encoded.dtype)
            yield (
                f"codes of {COUNTED} images",
                jax.make_jaxpr(nearest_counts)(many, frozen["codebook"]),
            )
    if "diffusion" not in stages(name, experiment):
        return
    step = abstract_step(experiment, "diffusion")
    params = jax.eval_shape(model.objective.init, key)
    row = {key: Shape((1, *array.shape[1:]), array.dtype) for key, array in step.batch.items()}
    yield "loss", jax.make_jaxpr(model.objective.loss)(params, step.constants, row, key)
    y = model.condition and jax.eval_shape(model.condition.encode, step.constants, row)

    guidance = Guidance(Shape((), jnp.float32), Shape((), jnp.float32)) if model.guidable else None

    def predict(params, y, z_t, t, guidance):
        return model.sampler.predictor(params, y, guidance)(z_t, t)

    z_t, t = Shape((1, *model.geometry().shape), jnp.float32), Shape((1,), jnp.int32)
    yield "sampling step", jax.make_jaxpr(predict)(params, y, z_t, t, guidance)


def lowered(experiment: Experiment, stage: str, devices: int) -> tuple[Any, jax.sharding.Mesh]:
    """(abstract state, mesh) of a training step that has been lowered for so many devices.

    Raises:
      UserError: the configuration cannot be trained so.
    """
    config = getattr(experiment, stage)
    mesh = fitting_mesh(experiment.mesh, [config], jax.devices()[:devices])
    check(experiment, mesh, (stage,))
    step = abstract_step(experiment, stage)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state, _ = lower_step(step.objective, step.config, mesh, key, step.batch, step.constants)
    return state, mesh


def print_arrays(names: list[str]) -> None:
    """The first table."""
    print("| experiment | program | largest array | type | MiB |\n|---|---|---|---|---|")
    for name in names:
        for what, program in of_one_image(name, settled(EXPERIMENTS[name]())):
            a = largest_array(program)
            size = a.size * a.dtype.itemsize / MIB
            shape = "x".join(map(str, a.shape))
            print(f"| {name} | {what} | {shape} | {a.dtype} | {size:.0f} |", flush=True)


def print_steps(names: list[str], counts: list[int]) -> None:
    """The second table."""
    print("\n| experiment | stage | devices | used | parameters | batch on each | seconds |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        experiment = settled(EXPERIMENTS[name]())
        for stage in stages(name, experiment):
            for devices in counts:
                start = time.perf_counter()
                row = f"| {name} | {stage} | {devices} |"
                try:
                    state, mesh = lowered(experiment, stage, devices)
                except UserError as error:
                    print(f"{row} refused: {error} | | | |", flush=True)
                    continue
                batch = getattr(experiment, stage).batch_size // mesh.size
                seconds = time.perf_counter() - start
                numbers = count_parameters(state.params)
                print(f"{row} {mesh.size} | {numbers:,} | {batch} | {seconds:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiments", nargs="*", help="all without one")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--skip", choices=("arrays", "steps"))
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(options.devices))
    names = options.experiments or list(EXPERIMENTS)
    if options.skip != "arrays":
        print_arrays(names)
    if options.skip != "steps":
        print_steps(names, options.devices)


if __name__ == "__main__":
    main()
