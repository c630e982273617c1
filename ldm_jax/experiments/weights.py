"""Published weights of an experiment's networks, into a run directory and out of one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from etils import epath

from ldm_jax.conditioning.clip_text import ClipTextConfig
from ldm_jax.conditioning.subwords import SubwordTokenizer
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.errors import UserError
from ldm_jax.experiments import EXPERIMENTS, FIRST_STAGES, PUBLISHED
from ldm_jax.experiments.assumed import assumed_facts
from ldm_jax.experiments.config import DiffusionStage, Experiment
from ldm_jax.experiments.data import published_tokenizer
from ldm_jax.experiments.first_stage import NAME as AUTOENCODER
from ldm_jax.experiments.mechanism import SUBWORDS, build_model, mechanism
from ldm_jax.experiments.models import FirstStage
from ldm_jax.experiments.run_dir import DataInfo, RunDir
from ldm_jax.experiments.second_stage import NAME as DIFFUSION
from ldm_jax.parameters import abstract_params
from ldm_jax.pretrained import names
from ldm_jax.pretrained.buffers import schedule_buffers
from ldm_jax.pretrained.convert import read_compvis, read_diffusers, write_compvis
from ldm_jax.pretrained.files import (
    read_component,
    read_state_dict,
    write_ckpt,
    write_safetensors,
)
from ldm_jax.pretrained.match import Part, check_keys
from ldm_jax.training.state import TrainState

# Where a part lies in a diffusers pipeline: releases have given the folder several names.
FOLDERS = {"vae": ("vae", "vqvae"), "unet": ("unet",), "text_encoder": ("text_encoder", "bert")}


@dataclass(frozen=True)
class ConvertCommand:
    """Makes a run directory, from which sample.py draws, of published weights.

    Two more commands: check KEYS.json --model NAME, and export RUN --out FILE.
    """

    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")]
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
    out: Annotated[str, tyro.conf.arg(metavar="FILE")]
    """A new file, .ckpt or .safetensors."""


def convert(command: ConvertCommand) -> str:
    """Reads the file, writes the run directory, returns a report. UserError for what is wrong."""
    experiment = published(command.model)
    run = RunDir(command.out)
    run.check(command.model, experiment)
    if run.summary():
        raise UserError(f"{run.path} is a run already; choose another --out")
    stage = AUTOENCODER if command.model in FIRST_STAGES else DIFFUSION
    facts = published_facts(experiment, stage, command.tokenizer, with_tokenizer=True)
    facts = with_names(facts, command.names) if command.names else facts
    wanted = parts(experiment, facts, stage)
    if epath.Path(command.file).expanduser().is_dir():
        trees, report = read_diffusers(_component_reader(command.file), wanted)
    else:
        trees, report = read_compvis(read_state_dict(command.file), wanted, ema=command.ema)
    state = _state(experiment, stage, trees, report.scale_factor, command.file)
    run.begin(command.model, experiment, facts)
    checkpoints = run.checkpoints(stage)
    checkpoints.save(int(state.step), state)
    checkpoints.close()
    entries = {"converted_from": epath.Path(command.file).name, "finished": True}
    stages = [AUTOENCODER] if stage == AUTOENCODER else [AUTOENCODER, DIFFUSION]
    run.record(**{name: entries for name in stages})
    return f"{report.summary()}\nrun directory: {run.path}"


def check_names(command: CheckCommand) -> str:
    """The report of a list of names that fits; for one that does not, it is printed: UserError."""
    experiment = published(command.model)
    stage = AUTOENCODER if command.model in FIRST_STAGES else DIFFUSION
    facts = published_facts(experiment, stage)
    report = check_keys(_read_keys(command.keys), parts(experiment, facts, stage))
    if report.problem:
        print(report.summary())
        raise UserError(f"{command.keys} as {command.model}: {report.problem}")
    return f"{report.summary()}\none to one: yes"


def export(command: ExportCommand) -> str:
    """Writes the file; returns a line that says so."""
    run, out = RunDir(command.run), epath.Path(command.out).expanduser()
    _, experiment, facts = run.load()
    write = {".ckpt": write_ckpt, ".safetensors": write_safetensors}.get(out.suffix)
    if write is None:
        raise UserError(f"--out is {command.out!r}; it ends with .ckpt or .safetensors")
    if out.exists():
        raise UserError(f"{out} exists already; choose another --out")
    stage = AUTOENCODER if run.checkpoints(DIFFUSION).latest_step() is None else DIFFUSION
    config = experiment.autoencoder if stage == AUTOENCODER else experiment.diffusion
    average = ["ema"] if config.ema_decay else []
    saved = run.checkpoints(stage).restore_part(["params", "constants", *average])
    if saved is None:
        raise UserError(f"{run.path} has no checkpoint yet; train it first")
    wanted = parts(experiment, facts, stage)
    params, ema, buffers, scale = saved["params"], saved.get("ema"), {}, None
    if stage == DIFFUSION:
        # tau's average is what sampling uses; CompVis files have one copy of it, and no average
        shared = {"autoencoder": saved["constants"]["autoencoder"]}
        params = {
            **(params or ema),
            **{k: v for k, v in (ema or {}).items() if k == "tau"},
            **shared,
        }
        ema = ema and {"unet": ema["unet"]}
        scale = float(saved["constants"]["scale_factor"])
        buffers = schedule_buffers(make_schedule(experiment.diffusion.schedule))
    elif ema:
        params, ema = ema, None  # first stages are published without an average
    arrays = write_compvis(params, wanted, ema=ema, scale_factor=scale, buffers=buffers)
    write(out, arrays)
    return f"{len(arrays)} arrays in {out}"


def published(name: str) -> Experiment:
    """The experiment of this name; a UserError lists those whose weights were published."""
    if name not in EXPERIMENTS:
        known = ", ".join([*FIRST_STAGES, *PUBLISHED])
        raise UserError(f"unknown model {name!r}; published were: {known}")
    return EXPERIMENTS[name]()


def published_facts(
    experiment: Experiment,
    stage_name: str,
    tokenizer_file: str = "",
    *,
    with_tokenizer: bool = False,
) -> DataInfo:
    """What the data of a published model would have told of itself."""
    stage = experiment.diffusion
    if stage_name == AUTOENCODER:
        return DataInfo(channels=3, condition="none")
    if stage.condition == "auto" or (stage.condition == "text" and stage.tokenizer == "words"):
        raise UserError("this experiment has no published weights: its data decides its networks")
    facts = assumed_facts(stage)
    if stage.condition == "text" and with_tokenizer:
        given = DiffusionStage(tokenizer=stage.tokenizer, tokenizer_file=tokenizer_file)
        facts = replace(facts, tokenizer=published_tokenizer(given))
        size = SubwordTokenizer(facts.tokenizer, stage.tokenizer).size
        if size > (most := SUBWORDS[stage.tokenizer]):
            raise UserError(f"this tokenizer.json has {size} tokens; the model knows {most}")
    return facts


def with_names(facts: DataInfo, file: str) -> DataInfo:
    """The classes, or the objects of layouts, called as a file says that has a name a line.

    Raises:
      UserError: one line for a file that is not that, for names that are not as many as the model
        has, or two alike, and for a model without names.
    """
    field = {"class": "class_names", "layout": "box_names"}.get(facts.condition)
    if field is None:
        raise UserError("--names is for a model of classes or layouts, which this is not")
    try:
        names = tuple(epath.Path(file).expanduser().read_text().strip().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--names {file} cannot be read: {error}") from error
    names = tuple(name.strip() for name in names)
    if len(names) != (known := len(getattr(facts, field))):
        raise UserError(f"--names {file} has {len(names)} lines; the model knows {known} names")
    if twice := [name for name, n in Counter(names).items() if n > 1 or not name]:
        raise UserError(f"--names {file} has the line {twice[0]!r} twice, or it is empty")
    return replace(facts, **{field: names})


def parts(experiment: Experiment, facts: DataInfo, stage: str) -> list[Part]:
    """The networks of a run and where CompVis and diffusers keep them, with our shapes."""
    first = experiment.autoencoder
    rows = names.autoencoder_rows(first.network)
    if first.network.bottleneck == "none":
        found = []
    else:
        shapes = jax.eval_shape(FirstStage(experiment, facts).problem.init, jax.random.key(0))
        alone = stage == AUTOENCODER
        prefix = "" if alone else "first_stage_model."
        found = [Part("autoencoder", rows, shapes["autoencoder"], prefix, component="vae")]
        if alone and "discriminator" in shapes:
            critic = names.discriminator_rows(first.discriminator)
            found.append(
                Part(
                    "discriminator",
                    critic,
                    shapes["discriminator"],
                    "loss.discriminator.",
                    optional=True,
                )
            )
    if stage == AUTOENCODER:
        return found
    shapes = abstract_params(partial(build_model, experiment, facts))
    how = mechanism(experiment, facts)
    unet = names.unet_rows(
        experiment.diffusion.unet,
        cross_attention=how.context_dim > 0,
        class_labels=how.classes > 0,
    )
    found.insert(0, Part("unet", unet, shapes["unet"], "model.diffusion_model.", component="unet"))
    if "tau" in shapes:
        rows = _tau_rows(experiment, facts)
        component = "text_encoder" if facts.condition == "text" else None
        found.append(Part("tau", rows, shapes["tau"], "cond_stage_model.", component=component))
    return found


def _tau_rows(experiment: Experiment, facts: DataInfo):
    stage = experiment.diffusion
    if facts.condition == "class":
        return names.class_embedder_rows()
    if facts.condition == "semantic":
        return names.rescaler_rows()
    if facts.condition == "text" and stage.tokenizer == "clip":
        return names.clip_text_rows(ClipTextConfig().depth)
    return names.transformer_rows(stage.text)


def _state(
    experiment: Experiment,
    stage: str,
    trees: dict[str, Any],
    scale_factor: float | None,
    file: str,
) -> TrainState:
    """What a finished training would have left, without the optimiser."""
    if stage == AUTOENCODER:
        config, constants, params = experiment.autoencoder, {}, trees
    else:
        config = experiment.diffusion
        scale = config.scale_factor or scale_factor
        if not scale:
            raise UserError(f"{file} does not say by what the latents were multiplied")
        constants = {"autoencoder": trees.pop("autoencoder"), "scale_factor": jnp.float32(scale)}
        params = trees
    averaged = config.ema_decay > 0
    return TrainState(
        step=jnp.int32(config.steps),
        params={} if averaged else params,
        ema=params if averaged else None,
        opt_state={},
        constants=constants,
    )


def _component_reader(folder: str):
    def read(name: str) -> Mapping[str, np.ndarray]:
        there = [n for n in FOLDERS[name] if (epath.Path(folder).expanduser() / n).is_dir()]
        return read_component(folder, there[0] if there else name)

    return read


def _read_keys(file: str) -> dict[str, tuple[int, ...]]:
    path = epath.Path(file).expanduser()
    if path.suffix != ".json":
        return {name: tuple(array.shape) for name, array in read_state_dict(path).items()}
    try:
        keys = json.loads(path.read_text())
        return {str(name): tuple(int(n) for n in shape) for name, shape in keys.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is not a list of names (a JSON object: name -> shape): {error}"
        ) from error
