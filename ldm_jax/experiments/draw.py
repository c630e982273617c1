"""Draws pictures from a run directory: what `python sample.py` does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import jax
import numpy as np
import tyro
from etils import epath

from ldm_jax import plots
from ldm_jax.errors import UserError
from ldm_jax.experiments.ask import ask, lines_of
from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.edit import Edit, EditOptions, Request, prepare
from ldm_jax.experiments.guide import GuideOptions, prepare_guides
from ldm_jax.experiments.models import SecondStage
from ldm_jax.experiments.reconstruct import reconstruct_from_run
from ldm_jax.experiments.run_dir import RunDir, check_writable
from ldm_jax.experiments.second_stage import NAME
from ldm_jax.sampling.solvers import SOLVERS, Sampler
from ldm_jax.sampling.timesteps import Spacing


@dataclass(frozen=True)
class DrawCommand:
    """Draws pictures from a trained run and writes them as one grid.

    Options that are left out are those of the run's own configuration.
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run directory, such as runs/scenes."""
    caption: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Captions to draw, each in quotes, for a model of texts."""
    class_label: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Names or numbers of classes to draw, for a model of classes; with --classifier-scale, for any
    model, those to guide towards. Captions have one each, or one for all; or are left out."""
    from_file: str = ""
    """A text file with one caption or class a line."""
    reconstruct: str = ""
    """An image, or a folder of them: encodes and decodes these instead of drawing."""
    num_images: int = 4
    """Pictures for each caption or class; in all, for an unconditional model."""
    steps: int | None = None
    """Solver steps S, 1 to T."""
    sampler: Sampler | None = None
    """Solver; heun and dpmpp-2s ask the network twice a step."""
    spacing: Spacing | None = None
    """Which of the T timesteps are visited; the compvis ones are the published code's."""
    guidance: float | None = None
    """Guidance scale s; 1 is none."""
    eta: float | None = None
    """Stochasticity of ddim, 0 to 1; the other solvers have none."""
    temperature: float = 1.0
    """Factor on the noise that a stochastic solver adds."""
    seed: int = 0
    """Picture i depends on the seed, i and its condition alone."""
    batch_size: int = 8
    """Pictures drawn at a time; changes speed and memory, not the pictures."""
    out: Annotated[str, tyro.conf.arg(metavar="FILE.png")] = "samples.png"
    """Where the grid goes; the settings are in its metadata."""
    edit: tyro.conf.OmitArgPrefixes[EditOptions] = EditOptions()
    guide: tyro.conf.OmitArgPrefixes[GuideOptions] = GuideOptions()


def draw_from_run(command: DrawCommand) -> str:
    """Draws, writes the grid, returns a line that says so. UserError for anything that is wrong."""
    run = RunDir(command.run)
    _, experiment, facts = run.load()
    if not command.out.lower().endswith(".png"):
        raise UserError(f"--out is {command.out!r}; the grid is a .png")
    out = epath.Path(command.out).expanduser()
    check_writable(out.parent)
    if command.num_images < 1 or command.batch_size < 1:
        raise UserError("--num-images and --batch-size must be at least 1")
    if command.reconstruct:
        if command.edit.given() or command.guide.given():
            raise UserError("--reconstruct draws nothing: it takes no options of editing or guides")
        return reconstruct_from_run(run, command.reconstruct, out, command.num_images)
    command.guide.check(command.edit)
    second = SecondStage(experiment, facts)
    captions, classes = (
        [word for words in given for word in words]
        for given in (command.caption, command.class_label)
    )
    lines = lines_of(command.from_file) if command.from_file else []
    asked, labels, towards = ask(second, captions, classes, lines, command.guide)
    defaults = experiment.sampling
    if command.edit.invert:  # as it goes best; what is given is taken all the same
        defaults = replace(defaults, sampler="ddim", guidance=1.0, eta=0.0)
    asks = second.guidable and bool(np.any(asked != second.generator.null))
    guidance = _given(command.guidance, defaults.guidance if asks else 1.0)
    sampler = _given(command.sampler, defaults.sampler)
    settings = {
        "sampler": sampler,
        "steps": _given(command.steps, defaults.steps),
        "spacing": _given(command.spacing, defaults.spacing),
        "guidance": guidance,
        "eta": _given(command.eta, defaults.eta if SOLVERS[sampler].has_eta else 0.0),
        "temperature": command.temperature,
        "seed": command.seed,
    }
    second.generator.check(conditional=asked is not None, **settings)
    copies = 1 if command.edit.invert else command.num_images
    request = Request(experiment, second, asked, labels, copies, settings)
    edit = prepare(command.edit, request) or draw_as_asked(request)
    guides = prepare_guides(command.guide, request, run, towards)
    weights = load_weights(run, experiment)
    options = {"batch_size": command.batch_size, "progress": "sampling", **settings}
    options["guides"] = guides(weights)
    grid, said = edit(weights, partial(second.generator, *weights, **options))
    out.parent.mkdir(parents=True, exist_ok=True)
    made_by = {"run": command.run, **settings, **command.edit.filled().given()}
    made_by |= command.guide.given()
    plots.save_png(out, grid, made_by | {"conditions": "\n".join(request.all_labels)})
    return f"{said} in {out}"


def draw_as_asked(request: Request) -> Edit:
    """No edit: a picture for each condition, with that printed under it."""
    labels, copies = request.all_labels, request.copies

    def edit(weights, draw):
        images = draw(request.conditions, num_images=len(labels))
        columns = min(8, copies if len(labels) > copies else 8)
        return plots.labelled_grid(images, labels, columns), f"{len(images)} pictures"

    return edit


def load_weights(run: RunDir, experiment: Experiment) -> tuple[dict, dict]:
    """(parameters, constants) of the newest checkpoint of a run's second stage, for `Generator`.

    The parameters are the running average where the run keeps one. UserError without a checkpoint.
    """
    name = "ema" if experiment.diffusion.ema_decay else "params"
    saved = run.checkpoints(NAME).restore_part([name, "constants"])
    if saved is None:
        raise UserError(f"{run.path} has no checkpoint of its diffusion model yet; train it first")
    return jax.device_put((saved[name], saved["constants"]))


def _given(value, default):
    return default if value is None else value
