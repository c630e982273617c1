"""Draws images from a run directory: what `python sample.py` does."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated

import jax
import numpy as np
import tyro
from etils import epath

from ldm_jax import plots
from ldm_jax.data.loader import Batch
from ldm_jax.errors import UserError
from ldm_jax.experiments.ask import ask, lines_of
from ldm_jax.experiments.condition_files import ConditionFiles, open_condition
from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.edit import Drawn, Edit, EditOptions, Request, prepare
from ldm_jax.experiments.guide import GuideOptions, prepare_guides
from ldm_jax.experiments.hosts import Hosts
from ldm_jax.experiments.models import SecondStage
from ldm_jax.experiments.outputs import Kind, ManyImages, kind_of
from ldm_jax.experiments.reconstruct import reconstruct_from_run
from ldm_jax.experiments.run_dir import RunDir, check_writable
from ldm_jax.experiments.sizes import SizeOptions
from ldm_jax.experiments.trained import load_weights, placed
from ldm_jax.sampling.solvers import SOLVERS, Sampler
from ldm_jax.sampling.timesteps import Spacing


@dataclass(frozen=True)
class DrawCommand:
    """Draws images from a trained run: as a grid, an animation, an array, or one by one.

    Options that are left out are those of the run's own configuration.
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run directory, such as runs/scenes."""
    caption: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Captions to draw, each in quotes, for a model of texts."""
    class_label: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Names or numbers of classes to draw, or all, for a model of classes; with --classifier-scale,
    for any model, those to guide towards. Captions have one each, or one for all, or none."""
    from_file: str = ""
    """A text file with one caption or class a line."""
    reconstruct: str = ""
    """An image, or a folder of them: encodes and decodes these instead of drawing."""
    num_images: int = 4
    """Images for each caption or class; in all, for an unconditional model."""
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
    """Image i depends on the seed, i and its condition alone."""
    batch_size: int = 8
    """Images drawn at a time; changes speed and memory, not the images."""
    out: Annotated[str, tyro.conf.arg(metavar="FILE|FOLDER")] = "samples.png"
    """Where they go: FILE.png a grid, FILE.gif an animation of the denoising, FILE.npz one array
    (ADM's format), FOLDER single images. Given again, an array or folder goes on where it was
    stopped. The settings are in the metadata."""
    trajectory: int = 0
    """In the grid, so many of the estimates of z_0 on the way to each image; 0: none."""
    condition: tyro.conf.OmitArgPrefixes[ConditionFiles] = ConditionFiles()
    size: tyro.conf.OmitArgPrefixes[SizeOptions] = SizeOptions()
    edit: tyro.conf.OmitArgPrefixes[EditOptions] = EditOptions()
    guide: tyro.conf.OmitArgPrefixes[GuideOptions] = GuideOptions()
    hosts: Hosts = field(default_factory=Hosts)

    def check(self) -> Kind:
        """The kind of output. UserError for options that cannot be, or do not go together."""
        kind, edits = kind_of(self.out), self.edit.given()
        if self.num_images < 1 or self.batch_size < 1:
            raise UserError("--num-images and --batch-size must be at least 1")
        if self.reconstruct and (edits or self.guide.given() or self.size.given()):
            raise UserError(
                "--reconstruct draws nothing: it takes no options of editing, guides or size"
            )
        if (self.reconstruct or "invert" in edits) and kind != "grid":
            raise UserError(f"--out is {self.out!r}; what is compared side by side is a .png")
        if self.trajectory < 0 or (self.trajectory and kind != "grid"):
            raise UserError("--trajectory is a number of columns of a grid: --out FILE.png")
        if edits and (self.trajectory or kind == "animation"):
            raise UserError("--trajectory and animations show how images are drawn, not edited")
        return kind


def draw_from_run(command: DrawCommand) -> str:
    """Draws, writes, returns a line that says so. UserError for anything that is wrong.

    Of several processes each reads what the command names, and process 0 writes.
    """
    run, kind = RunDir(command.run), command.check()
    _, experiment, facts = run.load()
    out = epath.Path(command.out).expanduser()
    check_writable(out.parent)
    if command.reconstruct:
        return reconstruct_from_run(run, command.reconstruct, out, command.num_images)
    command.guide.check(command.edit)
    second = SecondStage(experiment, facts)
    captions, classes = (
        [word for words in given for word in words]
        for given in (command.caption, command.class_label)
    )
    lines = lines_of(command.from_file) if command.from_file else []
    edits, size_options = command.edit, command.size
    if opened := open_condition(command.condition, edits, size_options, second, experiment):
        seen, labels, size_options = opened
        towards = []
        edits = edits if second.kind != "inpainting" else replace(edits, image="", mask="")
    else:
        seen, labels, towards = ask(second, captions, classes, lines, command.guide)
    settings = _settings(command, second, experiment, seen)
    second.generator.check(conditional=seen is not None, **settings)
    copies = 1 if edits.invert else command.num_images
    size = size_options.of(experiment, second.generator.shape[-1])
    request = Request(experiment, second, seen, labels, copies, settings, size)
    edit = prepare(edits, request)
    guides = prepare_guides(command.guide, request, run, towards)
    made_by = {"run": command.run, **settings, **command.size.given()}
    made_by |= command.edit.filled().given() | command.guide.given() | command.condition.given()
    writer = None
    if kind in ("folder", "archive"):
        writer = ManyImages(out, kind, request, run, made_by)
        if not edit and not len(writer.missing):
            return writer.finish()
    n = len(request.all_labels)
    weights, split = placed(load_weights(run, experiment), experiment, n)
    options = settings | {"batch_size": command.batch_size, "progress": "sampling"}
    options |= {"shape": size.shape, "windows": size.windows, "tiles": size.tiles}
    options |= {"guides": guides(weights), "sharding": split}
    if writer and not edit:
        return writer.draw(weights, options)
    edit = edit or draw_as_asked(request, command.trajectory, kind == "animation")
    drawn = edit(weights, partial(second.generator, *weights, **options))
    if writer:
        return writer.keep(drawn.images)
    if jax.process_index() == 0:
        out.parent.mkdir(parents=True, exist_ok=True)
        if kind == "animation":
            plots.save_gif(out, drawn.grid, made_by)
        else:
            conditions = {"conditions": "\n".join(request.all_labels)}
            plots.save_png(out, drawn.grid, made_by | conditions)
    return f"{drawn.said} in {out}"


def _settings(
    command: DrawCommand, second: SecondStage, experiment: Experiment, seen: Batch | None
) -> dict:
    """Of the sampler: what the command gives, else what the run's configuration does."""
    defaults = experiment.sampling
    if command.edit.invert:  # as it goes best; what is given is taken all the same
        defaults = replace(defaults, sampler="ddim", guidance=1.0, eta=0.0)
    asks = second.guidable and bool(np.any(seen["condition"] != second.generator.null))
    sampler = _given(command.sampler, defaults.sampler)
    return {
        "sampler": sampler,
        "steps": _given(command.steps, defaults.steps),
        "spacing": _given(command.spacing, defaults.spacing),
        "guidance": _given(command.guidance, defaults.guidance if asks else 1.0),
        "eta": _given(command.eta, defaults.eta if SOLVERS[sampler].has_eta else 0.0),
        "temperature": command.temperature,
        "seed": command.seed,
    }


def draw_as_asked(request: Request, trajectory: int, animated: bool) -> Edit:
    """No edit: an image for each condition, with that printed under it.

    Args:
      trajectory: so many of its estimates beside it, if any. animated: all of them, the grid of
        each step in place of one: uint8 `[S, H', W', 3]`.
    """
    labels, copies = request.all_labels, request.copies
    columns = min(8, copies if len(labels) > copies else 8, len(labels))

    def edit(weights, draw):
        images = draw(
            request.conditions(weights),
            num_images=len(labels),
            trajectory=animated or bool(trajectory),
        )
        said = f"{len(images)} images"
        if animated:
            grids = [plots.grid(step, columns) for step in images.swapaxes(0, 1)]
            return Drawn(images[:, -1], np.stack(grids), f"{said}, step by step,")
        if trajectory:
            chosen = np.linspace(0, images.shape[1] - 1, min(trajectory, images.shape[1]))
            shown = images[:, np.rint(chosen).astype(int)]
            beside = [word for label in labels for word in [*[""] * (len(chosen) - 1), label]]
            grid = plots.labelled_grid(np.concatenate(shown), beside, len(chosen))
            return Drawn(images[:, -1], grid, f"{said} and {len(chosen)} estimates of each")
        images = request.finish(images)
        if request.shown is None:
            return Drawn(images, plots.labelled_grid(images, labels, columns), said)
        rows = images.reshape(-1, copies, *images.shape[1:])
        high = max(images.shape[1], request.shown.shape[1])
        beside = [
            np.stack([condition, *plots.enlarged(row, high)])
            for condition, row in zip(plots.enlarged(request.shown, high), rows, strict=True)
        ]
        return Drawn(images, plots.grid(np.concatenate(beside), copies + 1), said)

    return edit


def _given(value, default):
    return default if value is None else value
