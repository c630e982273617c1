"""`python sample.py [MODEL] [...]`: from the command line to images, top to bottom."""

from __future__ import annotations

import logging
import shlex
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import jax
import numpy as np

from ldm_jax import plots
from ldm_jax.commands import cli
from ldm_jax.commands.sample.command import SampleCommand, check_options, given
from ldm_jax.commands.sample.condition_files import FILES, open_condition
from ldm_jax.commands.sample.draw import plan_draw
from ldm_jax.commands.sample.edit import edit_strength, plan_edit
from ldm_jax.commands.sample.guide import make_guides
from ldm_jax.commands.sample.images import ALPHA
from ldm_jax.commands.sample.interpolate import plan_interpolation
from ldm_jax.commands.sample.invert import plan_inversion
from ldm_jax.commands.sample.outputs import ManyImages
from ldm_jax.commands.sample.plan import Plan, Request, Result
from ldm_jax.commands.sample.prompts import parse_negative, parse_prompts
from ldm_jax.commands.sample.reconstruct import reconstruct
from ldm_jax.commands.sample.size import check_size
from ldm_jax.data.loader import Batch
from ldm_jax.model.conditions import with_size_of
from ldm_jax.model.find import find_run
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.load import load_run
from ldm_jax.model.run_dir import RunDir
from ldm_jax.paths import check_output, user_path
from ldm_jax.sampling.guides import Guide
from ldm_jax.sampling.settings import SamplingSettings, unguided
from ldm_jax.sampling.solvers import SOLVERS
from ldm_jax.shipped import DEFAULT

PLANS = {
    "draw": plan_draw,
    "edit": plan_edit,
    "interpolate": plan_interpolation,
    "invert": plan_inversion,
}
# Options that name a file: what is in it counts, not where it lies.
FILE_OPTIONS = ("image", "mask", "layout", "semantic_map", "low_res", "embedding", "guide_image")
PROGRAM = "python sample.py"
# What is sampled when nothing is asked for
EXAMPLE = (
    *(DEFAULT, "--num-images", "2"),
    *("--prompt", "a red ball on a checkered floor by day"),
    *("--prompt", "a large blue cube left of a small yellow cone on a plain floor at night"),
    *("--prompt", "a green cone"),
    *("--prompt", "at night"),
)
log = logging.getLogger(__name__)


def main(words: Sequence[str], load: Callable[[RunDir], LatentDiffusion] = load_run) -> None:
    """`python sample.py [MODEL] [...]`; see `exit_code.ExitCode` for failures.

    load: what opens a run. A model that is open already keeps its compiled programs.
    """
    words = words or EXAMPLE
    command = cli.parse(SampleCommand, words, PROGRAM)
    check_options(command)
    check_output(command.out)
    run = find_run(command.model)
    if words is EXAMPLE:
        log.info("an example: %s %s", PROGRAM, shlex.join(EXAMPLE))
    elif command.model not in words:
        log.info("the model is %s, which comes with the package", command.model)
    cli.start_jax(command.hosts)
    model = load(run)
    # Once more: what is left out is as the model's own configuration says.
    own = SampleCommand(command.model, sampling=model.settings)
    cli.say(sample(cli.parse(SampleCommand, words, PROGRAM, own), model))


def sample(command: SampleCommand, model: LatentDiffusion) -> str:
    """Samples, writes, returns a line about it. UserError for anything that is wrong.

    Of several processes each reads what the command names, and process 0 writes.
    """
    # Check, and open all files
    kind = check_options(command, model.settings)
    out, run = user_path(command.out), find_run(command.model)
    if command.edit.reconstruct:
        return reconstruct(model, command.edit.reconstruct, out, command.num_images)
    prompts = open_condition(command.condition, command.edit, command.sampling, model)
    job = "draw" if prompts and command.job == "edit" else command.job  # in-painting by its model
    if prompts is None:
        prompts = parse_prompts(command.condition, command.guide, model)
    settings = sampling_settings(command, model, prompts.conditions)
    images_per_prompt = 1 if job == "invert" else command.num_images
    negative = parse_negative(command.condition.negative_prompt, model)
    request = Request(
        model, prompts.conditions, prompts.labels, images_per_prompt, settings, negative
    )
    model.sampler.check(settings, prompts.conditions is not None, negative is not None)
    check_size(command, kind, request)
    plan = PLANS[job](command, request)
    guides = make_guides(command.guide, request, run, prompts.targets)
    made_by = _made_by(command, model, settings)

    # Sample, and write
    if kind in ("folder", "archive"):
        files = {name: made_by[name] for name in FILE_OPTIONS if name in made_by}
        if files.get("mask") == ALPHA:  # of the image, which is among the files
            del files["mask"]
        which = {name: _checksum(file) for name, file in files.items()}
        which |= {"run": run.id, "step": run.begun().get("diffusion")}
        names = files | {"model": made_by.pop("model")}
        with ManyImages(out, kind, request, made_by | which, names) as writer:
            return _sample_many(writer, plan, guides)
    result = _sample_together(plan, request, guides)
    if jax.process_index() == 0:
        out.parent.mkdir(parents=True, exist_ok=True)
        if kind == "animation":
            plots.save_gif(out, result.figure, made_by)
        else:
            labels = {"conditions": "\n".join(request.all_labels)}
            plots.save_png(out, result.figure, made_by | labels)
    return f"{result.text} in {out}"


def _sample_together(plan: Plan, request: Request, guides: tuple[Guide, ...]) -> Result:
    """All images of a plan at once."""
    batches = request.model.batches(
        replace(plan.inputs(), guides=guides),
        request.settings,
        trajectory=plan.trajectory,
        progress="sampling",
    )
    return plan.result(np.concatenate(list(batches)))


def _sample_many(writer: ManyImages, plan: Plan, guides: tuple[Guide, ...]) -> str:
    """The images of a plan that are not there yet, each written as soon as it is sampled."""
    request = writer.request
    if not plan.streams:
        writer.write_all(_sample_together(plan, request, guides).images)
    elif len(writer.missing):
        inputs = replace(plan.inputs(), guides=guides).subset(writer.missing)
        done = 0
        for images in request.model.batches(inputs, request.settings, progress="sampling"):
            writer.write(done, _composited(request, images, writer.missing[done:]))
            done += len(images)
    return writer.finish()


def sampling_settings(
    command: SampleCommand, model: LatentDiffusion, conditions: Batch | None
) -> SamplingSettings:
    """The settings of the command, without those of the model that make no sense with them."""
    settings, own = command.sampling, model.settings
    if command.edit.invert:  # which is best without guidance; what is given is taken all the same
        best = {"sampler": "ddim", "guidance": 1.0, "eta": 0.0}
        kept = {
            name: v for name, v in best.items() if getattr(settings, name) == getattr(own, name)
        }
        settings = replace(settings, **kept)
    if not SOLVERS[settings.sampler].has_eta and settings.eta == own.eta:
        settings = replace(settings, eta=0.0)
    steps = (settings.steps, settings.spacing)
    if steps != (own.steps, own.spacing) and settings.timesteps == own.timesteps:
        settings = replace(settings, timesteps=())
    null = model.condition is not None and model.condition.null
    is_null = model.guidable and bool(np.all(conditions["condition"] == null))
    if is_null and settings.guidance == own.guidance:
        settings = unguided(settings)
    if settings.guidance == 1.0 and settings.guidance_rescale == own.guidance_rescale:
        settings = unguided(settings)
    return with_size_of(conditions, settings, model.first.f)


def _composited(request: Request, images: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Images of these ids, with their known part put back."""
    parts = [request.composite(image[None], int(i)) for image, i in zip(images, ids, strict=False)]
    return np.concatenate(parts)


def _checksum(file: str) -> str:
    """What tells a file from all others, wherever it lies."""
    return f"crc32 {zlib.crc32(user_path(file).read_bytes()):08x}"


def _made_by(
    command: SampleCommand, model: LatentDiffusion, settings: SamplingSettings
) -> dict[str, object]:
    """What made the images, for their metadata."""
    made_by = {"model": command.model} | asdict(settings)
    del made_by["batch_size"]
    for name in ("steps", "spacing") if settings.timesteps else ("timesteps",):
        del made_by[name]
    made_by |= given(command.edit)
    if command.edit.image and model.info.condition not in FILES:
        made_by["strength"] = edit_strength(command.edit)
    guide = command.guide
    if guide.classifier_scale:
        made_by["classifier_scale"] = guide.classifier_scale
    if guide.guide_image:
        names = ("guide_image", "guide_scale", "guide_factor")
        made_by |= {name: getattr(guide, name) for name in names}
    written = ("layout", "semantic_map", "low_res", "embedding", "negative_prompt")
    made_by |= {n: v for n, v in given(command.condition).items() if n in written}
    return {name: value for name, value in made_by.items() if value is not None}
