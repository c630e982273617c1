"""`convert` and `check`: published weights become a run directory."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import tyro
from etils import epath

from ldm_jax.bounds import violations
from ldm_jax.commands import cli
from ldm_jax.errors import UserError
from ldm_jax.experiments.config import Experiment
from ldm_jax.model.find import find_run, is_run
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.load import load_first_stage, load_published, load_run
from ldm_jax.model.parts import network_parts
from ldm_jax.model.published import (
    Described,
    checked_words,
    described,
    finished_state,
    published_experiment,
)
from ldm_jax.model.published_info import published_info, with_counts
from ldm_jax.model.run_dir import RunDir
from ldm_jax.paths import user_path
from ldm_jax.pretrained.files import read_checkpoint
from ldm_jax.pretrained.match import check_keys
from ldm_jax.training.step import TrainState

CONVERT, CHECK = "python -m ldm_jax convert", "python -m ldm_jax check"
File = Annotated[str, tyro.conf.arg(metavar="FILE")]


@dataclass(frozen=True)
class ConvertCommand:
    """Makes a run directory, from which sample.py samples, of published weights.

    Any field of the model can be changed: --diffusion.prediction v.
    """

    file: tyro.conf.Positional[File]
    """A CompVis checkpoint, .ckpt or .safetensors; the folder of a diffusers pipeline, or of a part
    of one; or a run directory, which gets another --first-stage."""
    out: str
    """The run directory to make."""
    model: str = ""
    """Whose weights they are: an experiment, such as celeba256; '': the file says it itself, as
    those of `export` do."""
    ema: bool = True
    """Take the averaged weights, where the file has them."""
    tokenizer: str = ""
    """For a model of texts: file tokenizer.json, or a folder with one, or with vocab.json and
    merges.txt, or vocab.txt; '': the pipeline's own, or else downloaded once."""
    names: str = ""
    """File with a name a line, in the model's order, for its classes or the objects of its layouts;
    '': they are called by their numbers, from 0 on."""
    first_stage: str = ""
    """Another file, folder or run directory, whose first stage is used; '': the file's own."""


@dataclass(frozen=True)
class CheckCommand:
    """Reports how the names of a checkpoint map onto a model's parameters.

    Exits with 0 only when they map one to one, and the checkpoint says nothing of itself (noise
    schedule, scale factor, prediction) that the model is not. Allocates nothing. Any field of the
    model can be changed: --diffusion.unet.channels 64.
    """

    keys: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="KEYS.json")]
    """A JSON object: name of each array -> its shape. Or a checkpoint itself, or a folder."""
    model: str = ""
    """An experiment, such as celeba256; '': the file says it itself."""


def convert_main(words: Sequence[str]) -> None:
    """`python -m ldm_jax convert FILE --model NAME --out RUN`."""
    own, fields = _split(words, ConvertCommand)
    command = cli.parse(ConvertCommand, own, CONVERT)
    cli.start_jax()
    print(convert(command, fields))


def check_main(words: Sequence[str]) -> None:
    """`python -m ldm_jax check KEYS.json --model NAME`."""
    own, fields = _split(words, CheckCommand)
    command = cli.parse(CheckCommand, own, CHECK)
    cli.start_jax()
    print(check_names(command, fields))


def convert(command: ConvertCommand, fields: Sequence[str] = ()) -> str:
    """Reads the file, writes the run directory, returns a report. UserError for what is wrong.

    Args:
      fields: words that change the experiment.
    """
    run = RunDir(command.out)
    with run.held("--out"):
        if is_run(command.file):
            return _with_first_stage(find_run(command.file), command.first_stage, run, fields)
        return _convert(command, run, fields)


def _convert(command: ConvertCommand, run: RunDir, fields: Sequence[str]) -> str:
    of = _described(command.file, command.model, fields, CONVERT)
    _check_new(run, of.name, of.experiment)
    published = load_published(
        command.file,
        of,
        first_stage=command.first_stage,
        ema=command.ema,
        tokenizer=command.tokenizer,
        names=command.names,
    )
    model = published.model
    _write(run, of.name, model, published.stage, published.state, command.file)
    lines = [published.report.summary(), _saved(model), f"run directory: {run.path}"]
    return "\n".join(filter(None, lines))


def _with_first_stage(old: RunDir, first_stage: str, new: RunDir, fields: Sequence[str]) -> str:
    """Writes a run's model with another first stage; returns a line that says so."""
    if not first_stage or fields:
        raise UserError(
            f"{old.path} is a run directory already; what can be changed is its --first-stage alone"
        )
    name, experiment, _ = old.load()
    _check_new(new, name, experiment)
    model = load_run(old)
    if model.weights.params is None:
        raise UserError(f"{old.path} has no second stage; use {first_stage} itself")
    autoencoder = load_first_stage(first_stage, model)
    params, constants = model.weights.params, model.weights.constants
    constants = {**constants, "autoencoder": autoencoder}
    state = finished_state(experiment.diffusion, params, constants)
    _write(new, name, model, "diffusion", state, old.path)
    return f"the first stage of {first_stage} in {old.path}\nrun directory: {new.path}"


def _check_new(run: RunDir, name: str, experiment: Experiment) -> None:
    if run.summary() or run.begun():
        raise UserError(f"{run.path} is a run already; choose another --out")
    run.resumed(name, experiment)


def _write(
    run: RunDir, name: str, model: LatentDiffusion, stage: str, state: TrainState, source: str
) -> None:
    run.begin(name, model.config, model.info)
    checkpoints = run.checkpoints(stage)
    checkpoints.save(int(state.step), state)
    checkpoints.close()
    entries = {"converted_from": epath.Path(source).name, "finished": True}
    stages = ["autoencoder", "diffusion"] if stage == "diffusion" else ["autoencoder"]
    run.record(**{one: entries for one in stages})


def _saved(model: LatentDiffusion) -> str:
    """What was saved beside the parameters; '' for a first stage."""
    if model.weights.params is None:
        return ""
    stage, schedule = model.config.diffusion, model.config.diffusion.schedule
    ends = (
        "" if schedule.kind == "cosine" else f", {schedule.beta_start:g} to {schedule.beta_end:g}"
    )
    return (
        f"the latents are multiplied by {model.scale_factor:g}; the network predicts "
        f"{stage.prediction}; noise schedule: {schedule.kind}{ends}, {schedule.timesteps} steps"
    )


def check_names(command: CheckCommand, fields: Sequence[str] = ()) -> str:
    """The report of a list of names that fits; one that does not is printed, then a UserError."""
    if is_run(command.keys):
        raise UserError(f"{command.keys} is a run directory: its names are this program's own")
    of = _described(command.keys, command.model, fields, CHECK)
    arrays, stage = _read_arrays(command.keys), of.experiment.diffusion
    keys = _read_names(command.keys) if arrays is None else _shapes(arrays)
    info = of.info or published_info(stage, of.stage)
    info = with_counts(info, stage, keys, keys.__getitem__)
    report = check_keys(keys, network_parts(LatentDiffusion(of.experiment, info), of.stage))
    if report.problem:
        print(report.summary())
        raise UserError(f"{command.keys} as {of.name}: {report.problem}")
    if arrays is not None:
        try:
            checked_words(command.keys, of, arrays)
        except UserError:
            print(report.summary())
            raise
    return f"{report.summary()}\none to one: yes"


def _described(file: str, model: str, fields: Sequence[str], program: str) -> Described:
    """Whose weights a file holds, with the fields that the words change."""
    of = published_experiment(model) if model else None
    if not user_path(file).exists():
        raise UserError(f"there is no file {file}")
    if of is None and not file.endswith(".json"):
        of = described(file)
    if of is None:
        raise UserError(
            f"{file} does not say whose weights it holds: give --model, such as --model celeba256"
        )
    if not fields:
        return of
    program = f"{program} {file} --model {of.name}"
    experiment = cli.parse(Experiment, fields, program, of.experiment)
    if wrong := list(violations(experiment)):
        raise UserError("; ".join(wrong))
    return dataclasses.replace(of, experiment=experiment)


def _split(words: Sequence[str], command: type) -> tuple[list[str], list[str]]:
    """(words for the command itself, words for fields of the experiment)."""
    own, fields, known = [], [], {field.name for field in dataclasses.fields(command)}
    top = {field.name for field in dataclasses.fields(Experiment)} - known
    target = own
    for word in words:
        if option := re.match(r"--([\w.-]+)", word):
            name = option[1].replace("-", "_")
            target = fields if "." in name or name in top else own
        target.append(word)
    return own, fields


def _read_arrays(file: str) -> Mapping[str, np.ndarray] | None:
    """Name -> array of a checkpoint; None for a list of names."""
    path = user_path(file)
    return None if path.suffix == ".json" else read_checkpoint(path)


def _shapes(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in arrays.items()}


def _read_names(file: str) -> dict[str, tuple[int, ...]]:
    path = user_path(file)
    try:
        keys = json.loads(path.read_text())
        return {str(name): tuple(int(n) for n in shape) for name, shape in keys.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is not a list of names (a JSON object: name -> shape): {error}"
        ) from error
