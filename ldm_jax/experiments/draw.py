"""Draws pictures from a run directory: what `python sample.py` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import jax
import numpy as np
import tyro
from etils import epath

from ldm_jax import plots
from ldm_jax.conditioning.class_label import ClassLabels
from ldm_jax.errors import UserError
from ldm_jax.experiments.config import Experiment
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
    """Names or numbers of classes to draw, for a model of classes."""
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
        return reconstruct_from_run(run, command.reconstruct, out, command.num_images)
    second = SecondStage(experiment, facts)
    asked, labels = _conditions(command, second)
    defaults = experiment.sampling
    guidance = _given(command.guidance, defaults.guidance if second.guidable else 1.0)
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
    images = second.generator(
        *load_weights(run, experiment),
        asked,
        num_images=len(labels),
        batch_size=command.batch_size,
        progress="sampling",
        **settings,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    columns = min(8, command.num_images if len(labels) > command.num_images else 8)
    grid = plots.labelled_grid(images, labels, columns)
    plots.save_png(out, grid, {"run": command.run, **settings, "conditions": "\n".join(labels)})
    return f"{len(images)} pictures in {out}"


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


def _conditions(command: DrawCommand, second: SecondStage) -> tuple[np.ndarray | None, list[str]]:
    """What the command asks for, encoded, and the label of each picture."""
    wanted = [w for words in command.caption + command.class_label for w in words]
    if command.from_file:
        wanted += _lines(command.from_file)
    if second.encoder is None and second.conditional:
        raise UserError("this run's condition is neither a caption nor a class: it cannot be drawn")
    if second.encoder is None:
        if wanted:
            raise UserError("this run is unconditional: it takes no captions and no classes")
        return None, [""] * command.num_images
    takes = "classes" if isinstance(second.encoder, ClassLabels) else "captions"
    wrong = command.class_label if takes == "captions" else command.caption
    if wrong:
        option = "--caption" if takes == "captions" else "--class-label"
        raise UserError(f"this run was trained on {takes}: use {option}")
    if not wanted:
        example = '--caption "..."' if takes == "captions" else "--class-label NAME"
        raise UserError(f"this run draws {takes}: give {example} or --from-file FILE")
    labels = [w for w in wanted for _ in range(command.num_images)]
    return second.encoder.encode(labels), labels


def _lines(file: str) -> list[str]:
    path = epath.Path(file).expanduser()
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--from-file {file} cannot be read: {error}") from error
    if not any(lines):
        raise UserError(f"--from-file {file} has no line with a caption or class")
    return [line for line in lines if line]
