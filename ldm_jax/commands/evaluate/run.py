"""`python -m ldm_jax evaluate MODEL [...]`: from the command line to a report, top to bottom."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath

from ldm_jax.commands import cli
from ldm_jax.commands.evaluate.command import (
    NUM_SAMPLES,
    EvaluateCommand,
    check_options,
    parse,
    parse_without_data,
)
from ldm_jax.commands.evaluate.generated import draw, reconstruct, sampling_request, simplest
from ldm_jax.commands.evaluate.image_files import read_images
from ldm_jax.commands.evaluate.judge import judge_by
from ldm_jax.commands.evaluate.networks import default_features, load_networks
from ldm_jax.commands.evaluate.prompts import draw_further, judge_further
from ldm_jax.commands.evaluate.reference import Reference, open_reference
from ldm_jax.commands.evaluate.report import (
    distortions,
    environment,
    lines,
    model_facts,
    write_nearest,
    write_report,
)
from ldm_jax.commands.evaluate.scenes import blurred, can_be_read, judge_scenes
from ldm_jax.commands.sample.command import SampleCommand
from ldm_jax.commands.sample.plan import Request
from ldm_jax.commands.sample.run import sampling_settings
from ldm_jax.data.scenes import ScenesConfig
from ldm_jax.errors import UserError
from ldm_jax.lock import Lock
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.load import load
from ldm_jax.paths import user_path
from ldm_jax.pretrained.lpips import load_lpips
from ldm_jax.training.processes import on_all, on_first


def main(words: Sequence[str], open_model: Callable[[str], LatentDiffusion] = load) -> None:
    """`python -m ldm_jax evaluate MODEL [...]`; see `exit_code.ExitCode` for failures.

    open_model: what opens a model. One that is open already keeps its compiled programs.
    """
    command = parse_without_data(words)
    check_options(command, words)
    cli.start_jax(command.hosts)
    model = open_model(command.model) if command.model else None
    # Once more: what is left out is as the model's own configuration says.
    command = parse(words, model)
    check_options(command, words)
    cli.say(evaluate(command, model))


@dataclass(frozen=True)
class Opened:
    """Everything that a command names, open and checked."""

    networks: dict[str, dict]
    """Name -> weights."""
    lpips: dict | None
    reference: Reference
    samples: np.ndarray | None
    """The images of --samples."""
    request: Request | None
    """What is to be sampled."""


def evaluate(command: EvaluateCommand, model: LatentDiffusion | None) -> str:
    """Judges, writes, returns a few lines about it. UserError for anything that is wrong.

    Of several processes each reads what the command names, and process 0 measures and writes.
    """
    started, folder = time.perf_counter(), user_path(command.folder)
    opened = on_all(lambda: _open(command, model))
    reference = opened.reference
    report: dict[str, Any] = {"data": reference.facts}
    if model is not None:
        report["model"] = model_facts(command.model, model)

    with _alone(folder):
        # Images
        sets = {"real": reference.real, "examples": reference.examples.truth["image"]}
        readable = can_be_read(command.data, sets["real"].shape[1]) and not command.real
        further: dict[str, np.ndarray] = {}
        if opened.samples is not None:
            sets["samples"] = opened.samples
            report["samples"] = {"file": command.samples, "num": len(opened.samples)}
        elif opened.request is not None:
            weights = report["model"]["weights_sha256"]
            samples = draw(opened.request, folder, weights)
            sets["samples"] = samples.images
            report["samples"] = samples.facts
            if readable and model.info.condition == "text":
                further = draw_further(opened.request, samples.images, folder, weights)
            sets |= simplest(model, reference.examples)
        if model is not None and model.first.bottleneck != "none":
            sets["reconstructions"] = reconstruct(model, sets["examples"])
        if readable:
            sets["blurred"] = blurred(sets["examples"])
        restored = "bicubic" in sets or "mean_fill" in sets
        report["distortion"] = on_first(lambda: distortions(sets, restored, opened.lpips))

        # Scenes
        if readable:
            kind = "none" if opened.samples is not None or model is None else model.info.condition
            of = (sets, reference.examples, command.data, kind, folder, opened.lpips)
            report["scenes"] = on_first(lambda: judge_scenes(*of))
        if further:
            report["scenes"] |= on_first(lambda: judge_further(further, sets["examples"]))

        # Measures
        judged = {
            name: judge_by(name, params, sets, reference, command.sampling.batch_size)
            for name, params in opened.networks.items()
        }
        report["features"] = {name: one.report for name, one in judged.items()}

        # Report
        report |= environment() | {"seconds": round(time.perf_counter() - started, 1)}
        on_first(lambda: write_report(folder, report, sets))
        name, first = next(iter(judged.items()))
        if jax.process_index() == 0 and first.nearest is not None:
            write_nearest(folder, name, first.nearest, sets, reference.train)
    return "\n".join([*lines(report), f"the numbers and a figure: {folder}/evaluation.json, .png"])


def _open(command: EvaluateCommand, model: LatentDiffusion | None) -> Opened:
    """Checks everything, and opens it; nothing is sampled or measured."""
    weights = command.weight_files
    scenes = isinstance(command.data, ScenesConfig) and not command.real
    networks = load_networks(command.features or default_features(scenes, weights), weights)
    lpips_file = weights.get("squeezenet", "")
    if model is not None and not lpips_file:
        lpips_file = model.config.evaluation.perceptual_file
    lpips = load_lpips("squeezenet", lpips_file) if lpips_file else None
    samples = read_images("--samples", command.samples) if command.samples else None
    sampled = model is not None and model.weights.params is not None and samples is None
    if command.training and samples is None and not sampled:
        raise UserError("--training is about samples, and this model is a first stage alone")
    num = command.num_samples or NUM_SAMPLES if samples is None else len(samples)
    reference = open_reference(command, model, num, sampled)
    if samples is not None and samples.shape[1:3] != reference.real.shape[1:3]:
        (h, w), (height, width) = samples.shape[1:3], reference.real.shape[1:3]
        raise UserError(
            f"--samples {command.samples} has images of {w}x{h}, and the real images are "
            f"{width}x{height}; resize either: a distance between sizes would measure the resizing"
        )
    request = _request(command, model, reference, num) if sampled else None
    return Opened(networks, lpips, reference, samples, request)


def _request(
    command: EvaluateCommand, model: LatentDiffusion, reference: Reference, num: int
) -> Request:
    conditions = reference.examples.conditions
    as_sample = SampleCommand(command.model, sampling=command.sampling)
    settings = sampling_settings(as_sample, model, conditions)
    model.sampler.check(settings, conditions is not None)
    size, (h, w) = model.geometry(settings), reference.real.shape[1:3]
    if (size.height, size.width) != (h, w):
        raise UserError(
            f"samples are as large as the real images, {w}x{h}: no --height, no --width"
        )
    return sampling_request(model, reference.examples, num, settings)


@contextlib.contextmanager
def _alone(folder: epath.Path) -> Iterator[None]:
    """Inside, no other command writes to the folder."""
    lock = Lock(folder, "--out")
    on_first(lock.acquire)
    try:
        yield
    finally:
        if jax.process_index() == 0:
            lock.release()
