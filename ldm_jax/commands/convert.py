"""`convert`, `check`, `export`: published weights into a run directory, and out of one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
from etils import epath

from ldm_jax.commands import cli
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.errors import UserError
from ldm_jax.experiments.config import Experiment
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.published import (
    network_parts,
    published_experiment,
    published_info,
    read_published,
)
from ldm_jax.model.run_dir import RunDir
from ldm_jax.paths import check_output, user_path
from ldm_jax.pretrained.buffers import schedule_buffers
from ldm_jax.pretrained.convert import write_compvis
from ldm_jax.pretrained.files import read_state_dict, write_ckpt, write_safetensors
from ldm_jax.pretrained.match import check_keys

File = Annotated[str, tyro.conf.arg(metavar="FILE")]


@dataclass(frozen=True)
class ConvertCommand:
    """Makes a run directory, from which sample.py samples, of published weights."""

    file: tyro.conf.Positional[File]
    """A CompVis checkpoint, .ckpt or .safetensors, or the folder of a diffusers pipeline."""
    model: str
    """Whose weights they are: an experiment, such as celeba256."""
    out: str
    """The run directory to make."""
    ema: bool = True
    """Take the averaged weights, where the file has them."""
    tokenizer: str = ""
    """File tokenizer.json, for a model of texts; '': downloaded once."""
    names: str = ""
    """File with a name a line, in the model's order, for its classes or the objects of its layouts;
    '': they are called by their numbers, from 0 on."""


@dataclass(frozen=True)
class CheckCommand:
    """Reports how the names of a checkpoint map onto a model's parameters.

    Exits with 0 only when they map one to one. Allocates nothing.
    """

    keys: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="KEYS.json")]
    """A JSON object: name of each array -> its shape. Or a checkpoint itself."""
    model: str
    """An experiment, such as celeba256."""


@dataclass(frozen=True)
class ExportCommand:
    """Writes a run's networks as CompVis/latent-diffusion stores them."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run directory."""
    out: File
    """A new file, .ckpt or .safetensors."""


def convert_main(words: Sequence[str]) -> None:
    """`python -m ldm_jax convert FILE --model NAME --out RUN`."""
    command = cli.parse(ConvertCommand, words, "python -m ldm_jax convert")
    cli.start_jax()
    print(convert(command))


def check_main(words: Sequence[str]) -> None:
    """`python -m ldm_jax check KEYS.json --model NAME`."""
    command = cli.parse(CheckCommand, words, "python -m ldm_jax check")
    cli.start_jax()
    print(check_names(command))


def export_main(words: Sequence[str]) -> None:
    """`python -m ldm_jax export RUN --out FILE`."""
    command = cli.parse(ExportCommand, words, "python -m ldm_jax export")
    cli.start_jax()
    print(export(command))


def convert(command: ConvertCommand) -> str:
    """Reads the file, writes the run directory, returns a report. UserError for what is wrong."""
    experiment, _ = published_experiment(command.model)
    run = RunDir(command.out)
    with run.held("--out"):
        return _convert(command, experiment, run)


def _convert(command: ConvertCommand, experiment: Experiment, run: RunDir) -> str:
    run.resumed(command.model, experiment)
    if run.summary():
        raise UserError(f"{run.path} is a run already; choose another --out")
    published = read_published(
        command.file,
        command.model,
        ema=command.ema,
        tokenizer=command.tokenizer,
        names=command.names,
    )
    run.begin(command.model, experiment, published.model.info)
    checkpoints = run.checkpoints(published.stage)
    checkpoints.save(int(published.state.step), published.state)
    checkpoints.close()
    entries = {"converted_from": epath.Path(command.file).name, "finished": True}
    stages = ["autoencoder", "diffusion"] if published.stage == "diffusion" else ["autoencoder"]
    run.record(**{name: entries for name in stages})
    return f"{published.report.summary()}\nrun directory: {run.path}"


def check_names(command: CheckCommand) -> str:
    """The report of a list of names that fits; one that does not is printed, then a UserError."""
    experiment, stage = published_experiment(command.model)
    info = published_info(experiment.diffusion, stage)
    model = LatentDiffusion(experiment, info)
    report = check_keys(_read_keys(command.keys), network_parts(model, stage))
    if report.problem:
        print(report.summary())
        raise UserError(f"{command.keys} as {command.model}: {report.problem}")
    return f"{report.summary()}\none to one: yes"


def export(command: ExportCommand) -> str:
    """Writes the file; returns a line that says so."""
    run, out = RunDir(command.run), user_path(command.out)
    _, experiment, info = run.load()
    write = {".ckpt": write_ckpt, ".safetensors": write_safetensors}.get(out.suffix)
    if write is None:
        raise UserError(f"--out is {command.out!r}; it ends with .ckpt or .safetensors")
    if out.exists():
        raise UserError(f"{out} exists already; choose another --out")
    check_output(out)
    trained = run.checkpoints("diffusion").latest_step() is not None
    stage = "diffusion" if trained else "autoencoder"
    config = getattr(experiment, stage)
    average = ["ema"] if config.ema_decay else []
    saved = run.checkpoints(stage).restore_part(["params", "constants", *average])
    if saved is None:
        raise UserError(f"{run.path} has no checkpoint yet; train it first")
    parts = network_parts(LatentDiffusion(experiment, info), stage)
    params, ema, buffers, scale = saved["params"], saved.get("ema"), {}, None
    if stage == "diffusion":
        # Sampling uses tau's average; CompVis files have one copy of it, and no average
        tau = {name: tree for name, tree in (ema or {}).items() if name == "tau"}
        shared = {"autoencoder": saved["constants"]["autoencoder"]}
        params = {**(params or ema), **tau, **shared}
        ema = ema and {"unet": ema["unet"]}
        scale = float(saved["constants"]["scale_factor"])
        buffers = schedule_buffers(make_schedule(experiment.diffusion.schedule))
    elif ema:
        params, ema = ema, None  # first stages are published without an average
    arrays = write_compvis(params, parts, ema=ema, scale_factor=scale, buffers=buffers)
    write(out, arrays)
    return f"{len(arrays)} arrays in {out}"


def _read_keys(file: str) -> dict[str, tuple[int, ...]]:
    path = user_path(file)
    if path.suffix != ".json":
        return {name: tuple(array.shape) for name, array in read_state_dict(path).items()}
    try:
        keys = json.loads(path.read_text())
        return {str(name): tuple(int(n) for n in shape) for name, shape in keys.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is not a list of names (a JSON object: name -> shape): {error}"
        ) from error
