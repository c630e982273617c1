"""A whole run: data, stage 1, stage 2, images, summary; or its classifier."""

from __future__ import annotations

import json
import logging
import zlib
from importlib.metadata import version
from typing import Any, Literal

import jax
import numpy as np

from ldm_jax import plots
from ldm_jax.diffusion.step import NOISE_LEVELS
from ldm_jax.errors import UserError
from ldm_jax.experiments.check import check
from ldm_jax.experiments.classifier_stage import NAME as CLASSIFIER
from ldm_jax.experiments.classifier_stage import train_classifier
from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.data import OpenData, open_data
from ldm_jax.experiments.first_stage import NAME as AUTOENCODER
from ldm_jax.experiments.first_stage import (
    check_unchanged,
    first_stage_constants,
    load_autoencoder_from,
    score_autoencoder,
    train_autoencoder,
    trained_autoencoder,
)
from ldm_jax.experiments.judge import is_judged, judge
from ldm_jax.experiments.models import SecondStage
from ldm_jax.experiments.run_dir import RunDir, to_json
from ldm_jax.experiments.second_stage import NAME as DIFFUSION
from ldm_jax.experiments.second_stage import HeldOut, draw, guidance_of, train_diffusion
from ldm_jax.experiments.stages import Trained
from ldm_jax.pretrained.lpips import load_lpips
from ldm_jax.training.processes import gathered, together
from ldm_jax.training.sharding import in_batches, make_mesh

log = logging.getLogger(__name__)
StageName = Literal["both", "autoencoder", "diffusion", "classifier"]


def train(name: str, experiment: Experiment, run: RunDir, stage: StageName = "both") -> str:
    """Runs an experiment in its directory, from wherever it stands; returns the summary line.

    Raises:
      UserError: bad configuration, data or directory, before any compute; or a failed run.
      training.interruption.Interrupted: asked to stop, and saved.
    """
    mesh = make_mesh(experiment.mesh.data, experiment.mesh.fsdp, experiment.mesh.tensor)
    wanted = (AUTOENCODER, DIFFUSION) if stage == "both" else (stage,)
    check(experiment, mesh, wanted)
    # The classifier is configured when its own training begins.
    configures = stage == CLASSIFIER and run.checkpoints(CLASSIFIER).latest_step() is None
    settled = stage == CLASSIFIER and not configures
    run.check(name, experiment, but_for="" if settled else "classifier")
    summary = run.summary()
    if all(summary.get(s, {}).get("finished") for s in wanted):
        log.info("%s is finished; %s", run.path, _what_next(run, summary, stage))
        return summary_line(summary)
    pixels = experiment.autoencoder.network.bottleneck == "none"
    steps = 0 if experiment.autoencoder.from_run or pixels else experiment.autoencoder.steps
    at = run.checkpoints(AUTOENCODER).latest_step() or 0
    if stage in (DIFFUSION, CLASSIFIER) and at < steps:
        raise UserError(
            f"{run.path} has no trained autoencoder (step {at} of {steps}); "
            f"leave out --stage {stage}"
        )

    borrowed, channels = None, None
    if experiment.autoencoder.from_run:
        borrowed, channels = load_autoencoder_from(experiment)
        check_unchanged(run, borrowed)
    constants = {} if stage == CLASSIFIER else first_stage_constants(experiment, run)
    file = experiment.sampling.perceptual_file
    judge_weights = together(lambda: load_lpips("squeezenet", file) if file else None)
    data = together(lambda: open_data(experiment, needs_classes=stage == CLASSIFIER))
    _check_same_data(data)
    if channels not in (None, data.facts.channels):
        raise UserError(
            f"the autoencoder of {experiment.autoencoder.from_run} was trained on images with "
            f"another number of channels: {channels}, not {data.facts.channels}"
        )
    run.begin(name, experiment, data.facts, renew=configures)
    log.info(
        "%s: %d training images, %d held out, condition: %s",
        run.path,
        len(data.train),
        len(data.validation),
        data.facts.condition,
    )
    try:
        _train(experiment, data, run, mesh, stage, borrowed, constants, judge_weights)
    finally:
        run.record()  # also the time of a start that was stopped
    return summary_line(run.summary())


def _check_same_data(data: OpenData) -> None:
    """Raises UserError when the processes have opened different data."""
    facts = zlib.crc32(json.dumps(to_json(data.facts)).encode())
    theirs = gathered([len(data.train), len(data.validation), facts])
    for process, those in enumerate(theirs):
        if list(those) != list(theirs[0]):
            raise UserError(
                f"the data is not the same on all hosts: process 0 has {theirs[0][0]} images to "
                f"train on, process {process} has {those[0]}, or their conditions differ"
            )


def _train(
    experiment: Experiment,
    data: OpenData,
    run: RunDir,
    mesh: jax.sharding.Mesh,
    stage: StageName,
    weights: dict | None,
    constants: dict[str, Any],
    judge_weights: dict | None,
) -> None:
    key = jax.random.key(experiment.seed)
    if stage == CLASSIFIER:
        if experiment.autoencoder.network.bottleneck == "none":
            weights = {}
        elif weights is None:
            weights = trained_autoencoder(run, experiment)
            check_unchanged(run, weights)
        key = jax.random.fold_in(key, 2)  # neither of those below
        trained = train_classifier(experiment, data, weights, run, mesh, key)
        _finish(run, CLASSIFIER, trained.summary)
        return
    key_autoencoder, key_diffusion = jax.random.split(key)
    if experiment.autoencoder.network.bottleneck == "none":
        weights, scores = {}, {"pixels": True}
    elif weights is None:
        weights, scores = train_autoencoder(experiment, data, run, mesh, key_autoencoder, constants)
    else:
        scores = score_autoencoder(experiment, data, mesh, weights, constants)
        scores["from_run"] = experiment.autoencoder.from_run
    _finish(run, AUTOENCODER, scores)
    if stage == AUTOENCODER:
        return
    if not experiment.autoencoder.from_run:
        check_unchanged(run, weights)
    trained, second = train_diffusion(experiment, data, weights, run, mesh, key_diffusion)
    results = _final_images(experiment, data, run, mesh, trained, second, judge_weights)
    _finish(run, DIFFUSION, trained.summary | results)


def _what_next(run: RunDir, summary: dict[str, Any], stage: StageName) -> str:
    if summary.get(DIFFUSION, {}).get("finished"):
        return f"to draw images from it: python sample.py {run.path}"
    return f"its second stage is trained without --stage {stage}"


def _final_images(
    experiment: Experiment,
    data: OpenData,
    run: RunDir,
    mesh: jax.sharding.Mesh,
    trained: Trained,
    second: SecondStage,
    weights: dict | None,
) -> dict[str, Any]:
    """The figure at the end, and the numbers of the task."""
    settings, guidance = experiment.sampling, guidance_of(experiment, second)
    judged = settings.oracle_images if is_judged(experiment, second.kind) else 0
    held_out = HeldOut.of(data, second, max(settings.num_images, judged))
    images = draw(experiment, second, mesh, trained.state, held_out, progress="sampling")
    if jax.process_index() == 0:
        figure = held_out.figure(images[: settings.num_images])
        plots.save_png(run.path / "samples.png", figure, vars(settings) | {"guidance": guidance})
        log.info("images for held-out conditions: %s", run.path / "samples.png")
    if not judged:
        return {}

    def reconstruct(x: np.ndarray) -> np.ndarray:
        if second.first.bottleneck == "none":
            return x
        autoencoder = trained.state.constants["autoencoder"]
        return in_batches(jax.jit(second.first.reconstruct), (autoencoder,), (x,), mesh)

    numbers = judge(experiment, second.kind, held_out, images[:judged], reconstruct, weights)
    return {name: report | {"guidance": guidance} for name, report in numbers.items()}


def _finish(run: RunDir, stage: str, results: dict[str, Any]) -> None:
    device = jax.devices()[0]
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")
    run.record(
        **{stage: results | {"finished": True}},
        device=f"{jax.device_count()} x {device.device_kind}",
        versions={package: version(package) for package in packages},
    )


def summary_line(summary: dict[str, Any]) -> str:
    """One line for people: what was trained, how well, how fast."""
    parts = []
    for stage in (AUTOENCODER, DIFFUSION, CLASSIFIER):
        if not (s := summary.get(stage)):
            continue
        facts = [f"from {s['from_run']}"] if "from_run" in s else []
        facts += ["none, on pixels"] if "pixels" in s else []
        facts += [f"published weights of {s['converted_from']}"] if "converted_from" in s else []
        if "steps" in s:
            facts += [
                f"{s['parameters'] / 1e6:.2f}M parameters",
                f"{s['steps']} steps in {s['seconds'] / 60:.1f} min",
                f"{s['images_per_s']} images/s",
                f"peak {s['peak_bytes'] / 1e6:.0f} MB",
            ]
        if "accuracy" in s:
            levels = [f"{s[f'accuracy_{level}']:.0%}" for level in NOISE_LEVELS]
            facts.append(f"{s['accuracy']:.1%} right (least to most noise {', '.join(levels)})")
        if "psnr" in s:
            facts.append(f"PSNR {s['psnr']:.1f} dB")
        facts += [f"LPIPS ({key[6:]}) {s[key]:.3f}" for key in s if key.startswith("lpips_")]
        if "codebook_usage" in s:
            facts.append(f"{s['codebook_usage']:.0%} of the codes in use")
        facts += _judged(s)
        parts.append(f"{stage}: " + ", ".join(facts))
    return " | ".join(parts)


# What a report's number is called when it is said in a line.
_SAID = {
    "both": "shape and colour as asked",
    "valid": "proper scenes",
    "iou": "box IoU",
    "mean_iou": "mean IoU",
    "objects": "objects of the captions there",
}


def _judged(summary: dict[str, Any]) -> list[str]:
    """The first number of each report, with what it is compared to."""
    facts = []
    if report := summary.get("oracle"):
        name = next(name for name in _SAID if name in report["samples"])
        others = {"ceiling": "true renders", "reconstructed": "reconstructed", "floor": "shuffled"}
        beside = ", ".join(f"{others[o]} {report[o][name]:.1%}" for o in others if o in report)
        facts.append(f"{_SAID[name]} {report['samples'][name]:.1%} ({beside})")
    if report := summary.get("restored"):
        for who, scores in report.items():
            if isinstance(scores, dict):
                numbers = [f"{scores['psnr']:.1f} dB", f"SSIM {scores['ssim']:.3f}"]
                if "lpips_squeezenet" in scores:
                    numbers.append(f"LPIPS (squeezenet) {scores['lpips_squeezenet']:.3f}")
                facts.append(f"{who.replace('_', ' ')} " + " ".join(numbers))
    return facts
