"""Compiles a training step for a machine that is not there, and says what it would cost."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Literal

import jax
import tyro

from ldm_jax.commands import cli
from ldm_jax.commands.estimate.step import abstract_step
from ldm_jax.errors import UserError
from ldm_jax.experiments import TRAINED_ALONE
from ldm_jax.experiments.config import Experiment
from ldm_jax.model.check import check
from ldm_jax.paths import check_output, user_path
from ldm_jax.training.cost import Collectives, Cost, collectives, cost_of, estimated_cycles
from ldm_jax.training.sharding import make_mesh
from ldm_jax.training.step import count_parameters, lower_step, step_flops, trained_part
from ldm_jax.training.topology import Chip, machine

log = logging.getLogger(__name__)
GIB = 2**30


@dataclass(frozen=True)
class EstimateCommand:
    """Says what a training step of an experiment needs on a machine that is not there.

    It compiles the step that train.py would run and opens no data.
    """

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    topology: str
    """The machine: v5e:4x4 is a slice of 16 TPU chips, cpu:8 eight CPU devices."""
    stage: Literal["autoencoder", "diffusion"]
    """Whose training step."""
    out: str = ""
    """File .json for the numbers; '': print them only."""


@dataclass(frozen=True)
class Estimate:
    """Of one training step. None: not known of this machine."""

    experiment: str
    stage: str
    topology: str
    devices: int
    device_kind: str
    mesh: dict[str, int]
    precision: str
    batch_size: int
    """Over all devices."""
    batch: dict[str, list[int]]
    parameters: int
    cost: Cost
    """Of one device; with accumulation that of one part and the update, and so are the
    collectives."""
    collectives: dict[str, Collectives]
    """Of one device."""
    flops: float
    """Of all devices."""
    hbm_bytes: float | None
    """Of one chip."""
    step_s: float | None
    """An estimate, not a measurement: see `step_seconds`."""
    mfu: float | None
    """FLOPs of a chip / (step_s x its peak rate for bfloat16). What XLA computes twice to save
    memory counts twice."""
    examples_per_s: float | None
    compile_s: float
    versions: dict[str, str]


def main(words: Sequence[str]) -> None:
    """`python -m ldm_jax estimate [EXPERIMENT] [...]`."""
    jax.config.update("jax_platforms", "cpu")  # a TPU that is there is left alone
    name, experiment, fields = cli.named_experiment(words)
    stage = "autoencoder" if name in TRAINED_ALONE else "diffusion"
    default = EstimateCommand(experiment, "v5e:4x4", stage)
    program = f"python -m ldm_jax estimate {name}"
    print(estimate(name, cli.parse(EstimateCommand, fields, program, default)))


def estimate(name: str, command: EstimateCommand) -> str:
    """The report as text; writes it as JSON too.

    Raises:
      UserError: bad configuration or topology, before anything is compiled; or a step that does not
        fit into the memory of a chip.
    """
    if command.out:
        check_output(command.out)
    experiment, place = command.experiment, machine(command.topology)
    sizes = experiment.mesh
    mesh = make_mesh(sizes.data, sizes.fsdp, sizes.tensor, devices=place.devices)
    check(experiment, mesh, (command.stage,))
    step = abstract_step(experiment, command.stage)
    log.info("compiling the training step for %s", command.topology)
    start = time.perf_counter()
    key = jax.eval_shape(lambda: jax.random.key(0))
    state, lowered = lower_step(step.objective, step.config, mesh, key, step.batch, step.constants)
    compiled = _compile(lowered, f"{command.topology}, {_of(mesh.shape)}")
    cost, hlo = cost_of(compiled), compiled.as_text()
    sent = collectives(hlo, mesh.size)
    config, chip = getattr(experiment, command.stage), place.chip
    batch_size, parts = config.batch_size, config.accumulate
    flops = step_flops(cost.flops, config, trained_part(step.objective, state.params))
    # XLA counts the loop over the parts once. The update's cycles are not in it, but few.
    step_s = chip and parts * step_seconds(flops / parts, estimated_cycles(hlo), sent, chip)
    result = Estimate(
        experiment=name,
        stage=command.stage,
        topology=command.topology,
        devices=mesh.size,
        device_kind=place.devices[0].device_kind,
        mesh=dict(mesh.shape),
        precision=experiment.precision,
        batch_size=batch_size,
        batch={key: list(array.shape) for key, array in step.batch.items()},
        parameters=count_parameters(state.params),
        cost=cost,
        collectives=sent,
        flops=flops * mesh.size,
        hbm_bytes=chip and chip.hbm_bytes,
        step_s=step_s,
        mfu=chip and flops / (step_s * chip.peak_flops),
        examples_per_s=chip and batch_size / step_s,
        compile_s=round(time.perf_counter() - start, 1),
        versions={name: _version(name) for name in ("jax", "jaxlib", "libtpu")},
    )
    if command.out:
        text = json.dumps(dataclasses.asdict(result), indent=2) + "\n"
        user_path(command.out).write_text(text)
    return "\n".join(_lines(result))


def step_seconds(flops: float, cycles: int, sent: dict[str, Collectives], chip: Chip) -> float:
    """The longest of three times: of a chip's cycles, of its FLOPs at the peak rate, of its links.

    The second is there so that no MFU exceeds 1, whatever the compiler's estimates leave out.
    """
    sent_bytes = sum(kind.sent_bytes for kind in sent.values())
    return max(cycles / chip.clock, flops / chip.peak_flops, sent_bytes / chip.ici_bytes)


def _compile(lowered: jax.stages.Lowered, where: str) -> jax.stages.Compiled:
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"this step does not fit on {where}: {_excess(str(error))}") from error


def _excess(message: str) -> str:
    """How much is wanted and there is of a chip's memory, from what XLA says of it."""
    numbers = re.search(r"Used (\S+) of (\S+) hbm\. Exceeded hbm capacity by (\S+?)\.?\s", message)
    if numbers is None:
        return message.splitlines()[0]
    used, there, excess = numbers.groups()
    return (
        f"a chip needs {used} of {there}, {excess} too much; a larger --mesh.fsdp splits the "
        "state over more chips, a smaller batch or more chips leave less to each"
    )


def _lines(result: Estimate) -> Iterator[str]:
    cost, mesh = result.cost, _of(result.mesh)
    batch = ", ".join(f"{name} {'x'.join(map(str, n))}" for name, n in result.batch.items())
    yield f"{result.experiment}, training step of the {result.stage}, {result.precision}"
    yield f"  machine      {result.topology}: {result.devices} x {result.device_kind}; mesh: {mesh}"
    yield f"  batch        {result.batch_size} ({batch})"
    yield f"  parameters   {result.parameters:,}"
    there = f" of {result.hbm_bytes / GIB:.0f} GiB" if result.hbm_bytes else ""
    yield (
        f"  memory       {cost.peak_bytes / GIB:.2f} GiB{there} a device: "
        f"arguments {cost.argument_bytes / GIB:.2f}, temporaries {cost.temporary_bytes / GIB:.2f}"
    )
    each = result.flops / result.devices
    yield f"  compute      {each:.3e} FLOPs a device, {result.flops:.3e} in all"
    for kind, some in result.collectives.items():
        yield (
            f"  {kind:<18} {some.count:>4}, {some.bytes / 1e6:,.1f} MB; "
            f"a device sends {some.sent_bytes / 1e6:,.1f} MB"
        )
    if result.step_s is None:
        yield "  not known    step time, MFU, memory of a chip: these are CPU devices; TPU chips"
        yield "               can be compiled for where libtpu is installed, without a TPU"
        return
    yield (
        f"  a step       {1e3 * result.step_s:.1f} ms, MFU {result.mfu:.0%}, "
        f"{result.examples_per_s:,.0f} examples a second: the compiler's estimate, nothing was run"
    )


def _of(mesh: Mapping[str, int]) -> str:
    return " x ".join(f"{axis} {n}" for axis, n in mesh.items())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
