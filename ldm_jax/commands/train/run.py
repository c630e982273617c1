"""`python train.py [EXPERIMENT]`: a whole run, from top to bottom."""

from __future__ import annotations

import contextlib
import json
import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Annotated, Any, Literal

import jax
import tyro
from jax.sharding import Mesh

from ldm_jax import plots
from ldm_jax.commands import cli
from ldm_jax.commands.hosts import Hosts
from ldm_jax.commands.train.abstract import Work, check_diffusion
from ldm_jax.commands.train.autoencoder import (
    autoencoder_task,
    borrowed_autoencoder,
    check_unchanged,
    is_trained_here,
    measure_autoencoder,
    perceptual_weights,
)
from ldm_jax.commands.train.classifier import classifier_task, measure_classifier
from ldm_jax.commands.train.diffusion import diffusion_task, trained_model
from ldm_jax.commands.train.stage import Recording, train_stage
from ldm_jax.commands.train.summary import summary_line
from ldm_jax.commands.train.training_images import training_images
from ldm_jax.errors import UserError
from ldm_jax.experiments import TRAINED_ALONE
from ldm_jax.experiments.config import Experiment
from ldm_jax.model.check import check
from ldm_jax.model.classifier import Classifier
from ldm_jax.model.config_json import to_json
from ldm_jax.model.data import OpenData, open_data
from ldm_jax.model.initial import InitialWeights, check_frozen, read_initial
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.load import autoencoder_weights
from ldm_jax.model.run_dir import RunDir
from ldm_jax.pretrained.lpips import load_lpips
from ldm_jax.training.config import TrainingConfig
from ldm_jax.training.processes import all_processes, on_all
from ldm_jax.training.sharding import fitting_mesh, replicate_fsdp

log = logging.getLogger(__name__)
ChangedData = Literal["refuse", "accept"]
StageName = Literal["both", "autoencoder", "diffusion", "classifier"]


@dataclass(frozen=True)
class TrainCommand:
    """Trains both stages of a latent diffusion model, as an experiment says."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    run_dir: str
    """Directory of the run; a run that is there already is resumed."""
    stage: StageName = "both"
    """Which stage to train; diffusion needs the autoencoder in the same run directory, and so does
    classifier, which can guide the diffusion model (both: all but the classifier)."""
    changed_data: ChangedData = "refuse"
    """Whether a run goes on when its images or captions are no longer those that it began with."""
    recording: tyro.conf.OmitArgPrefixes[Recording] = Recording()
    hosts: Hosts = field(default_factory=Hosts)


def main(words: Sequence[str]) -> None:
    """`python train.py [EXPERIMENT] [--field value ...]`; see `exit_code.ExitCode` for failures."""
    name, command = parse_command(words)
    if not command.run_dir:
        raise UserError(f"--run-dir is empty; without it, it is runs/{name}")
    command.recording.check()
    cli.start_jax(command.hosts)
    run = RunDir(command.run_dir)
    how = (command.stage, command.changed_data, command.recording)
    cli.say(train(name, command.experiment, run, *how))


def parse_command(words: Sequence[str]) -> tuple[str, TrainCommand]:
    """(name of the experiment, command) of the words behind `python train.py`."""
    name, experiment, fields = cli.named_experiment(words)
    stage = "autoencoder" if name in TRAINED_ALONE else "both"
    default = TrainCommand(experiment, f"runs/{name}", stage)
    return name, cli.parse(TrainCommand, fields, f"python train.py {name}", default)


def train(
    name: str,
    experiment: Experiment,
    run: RunDir,
    stage: StageName,
    changed_data: ChangedData,
    recording: Recording,
) -> str:
    """Runs an experiment in its directory, from wherever it stands; returns the summary line.

    Raises:
      UserError: bad configuration, data or directory, before any compute; or a failed run.
      errors.Interrupted: stopped by a signal, and saved.
    """
    mesh = fitting_mesh(experiment.mesh, _trainings(experiment, stage))
    check(experiment, mesh, _stages(stage))
    with run.held():
        return _train(name, experiment, run, stage, mesh, changed_data, recording)


def _train(
    name: str,
    experiment: Experiment,
    run: RunDir,
    stage: StageName,
    mesh: Mesh,
    changed_data: ChangedData,
    recording: Recording,
) -> str:
    """`train`, while no other command writes to the directory."""
    # Check
    if stage == "classifier" and experiment.init_from and not run.begun():
        raise UserError(
            "--init-from starts the autoencoder and the diffusion model from other weights; "
            "--stage classifier trains a classifier alone, from random ones: leave out --init-from"
        )
    experiment = run.resumed(name, experiment, stage)
    summary = run.summary()
    if _is_finished(run, experiment, stage, summary):
        log.info("%s is finished; %s", run.path, _what_next(run, summary, stage))
        if unused := run.unused(experiment):
            log.info("nothing is left to train, so these are not used: %s", "; ".join(unused))
        return summary_line(summary)
    converted = any("converted_from" in summary.get(one, {}) for one in _stages("both"))
    if run.is_packed or (stage != "classifier" and converted):
        kind = "packed" if run.is_packed else "published"
        raise UserError(
            f"{run.path} holds {kind} weights, without an optimiser: to train on from them, choose "
            f"another --run-dir with --init-from {run.path}; with --autoencoder.from-run "
            f"{run.path} its first stage is used as it is"
        )
    config = experiment.autoencoder
    _check_trained_before(run, config.steps if is_trained_here(config) else 0, stage)

    # Open the data, and all files that are needed
    autoencoder, channels = None, None
    if config.from_run:
        autoencoder, channels = borrowed_autoencoder(config, run)
    file, named = experiment.evaluation.perceptual_file, config.loss.perceptual_file
    lpips_weights = on_all(lambda: load_lpips("squeezenet", file) if file else None)
    # A file that is named is read before the images are; a download waits until they are there.
    perceptual = perceptual_weights(config, run) if named and stage != "classifier" else {}
    config_data = run.data_to_open(experiment.data)
    data = on_all(
        lambda: open_data(config_data, experiment.diffusion, experiment.seed, stage == "classifier")
    )
    if not named and stage != "classifier":
        perceptual = perceptual_weights(config, run)
    _check_same_data(data)
    data = replace(data, info=run.resumed_info(data.info, changed_data == "accept"))
    if channels not in (None, data.info.channels):
        raise UserError(
            f"the autoencoder of {config.from_run} was trained on images with another number of "
            f"channels: {channels}, not {data.info.channels}"
        )

    # Build
    model = LatentDiffusion(experiment, data.info, name=str(run.path))
    work = check_diffusion(model, data) if "diffusion" in _stages(stage) else Work(0.0, 0.0)
    initial = _initial(run, model, stage)
    run.begin(name, experiment, data.info, initial.origin)
    log.info(
        "%s: %d training images, %d held out, condition: %s",
        run.path,
        len(data.train),
        len(data.validation),
        data.info.condition,
    )
    _log_idle_devices(experiment, stage, mesh)
    if stage != "classifier" and jax.process_index() == 0:
        shown = run.to_write("training_images.png")
        crop_size = config.crop_size if stage == "autoencoder" else 0
        plots.save_png(shown, training_images(data, model.condition, experiment.seed, crop_size))
        log.info("what the model is trained on: %s", shown)
    try:
        key_autoencoder, key_diffusion = jax.random.split(jax.random.key(experiment.seed))
        if stage == "classifier":
            key = jax.random.fold_in(jax.random.key(experiment.seed), 2)  # neither of those above
            _train_classifier(model, data, autoencoder, run, mesh, key, recording)
            return summary_line(run.summary())

        # First stage
        if model.first.bottleneck == "none":
            autoencoder, results = {}, {"pixels": True}
        elif autoencoder is not None:
            results = _measured(model, data, autoencoder, mesh, {})
            results["from_run"] = config.from_run
        else:
            task = autoencoder_task(
                config,
                model.first,
                data,
                mesh,
                seed=experiment.seed,
                loader=experiment.loader,
                constants=perceptual,
            )
            after = work.training + work.sampling
            task = replace(task, initial=initial.autoencoder, flops_after=after)
            trained = train_stage(task, run, mesh, key_autoencoder, recording)
            state = trained.state
            weights, constants = replicate_fsdp((state.weights, state.constants), mesh)
            autoencoder = weights["autoencoder"]
            results = trained.summary
            if "psnr" not in results:
                results = results | _measured(model, data, autoencoder, mesh, constants)
        _finish(run, "autoencoder", results)
        if stage == "autoencoder":
            return summary_line(run.summary())
        if not config.from_run:
            check_unchanged(run, autoencoder)

        # Second stage
        task = diffusion_task(model, autoencoder, data, run, mesh, initial)
        task = replace(task, flops_after=work.sampling)
        trained = train_stage(task, run, mesh, key_diffusion, recording)
        results = {"scale_factor": float(trained.state.constants["scale_factor"])}

        # Judge
        from ldm_jax.commands.train.final import final_samples  # SciPy: no training waits for it

        model = trained_model(model, trained.state, mesh)
        results |= trained.summary | final_samples(model, data, run, lpips_weights)
        _finish(run, "diffusion", results)
    except BaseException:
        with contextlib.suppress(UserError):  # such as the full disk that has stopped the run
            run.record()  # the time of this start
        raise
    return summary_line(run.summary())


def _stages(stage: StageName) -> tuple[str, ...]:
    return ("autoencoder", "diffusion") if stage == "both" else (stage,)


def _trainings(experiment: Experiment, stage: StageName) -> list[TrainingConfig]:
    """Those of the stages that are trained here."""
    first = is_trained_here(experiment.autoencoder)
    return [getattr(experiment, n) for n in _stages(stage) if first or n != "autoencoder"]


def _log_idle_devices(experiment: Experiment, stage: StageName, mesh: Mesh) -> None:
    if mesh.size < (found := jax.device_count()):
        batches = dict.fromkeys(str(one.batch_size) for one in _trainings(experiment, stage))
        why = "" if experiment.mesh.data > 0 else ": more cannot split a batch of "
        why += " and ".join(batches) if why else ""
        log.info("on %d of %d devices%s", mesh.size, found, why)


def _is_finished(
    run: RunDir, experiment: Experiment, stage: StageName, summary: dict[str, Any]
) -> bool:
    """Whether these stages were trained to their end; a run that is lengthened is not.

    Neither is one whose last checkpoint is damaged: it goes on from the one before.
    """
    begun, last = run.begun(), _stages(stage)[-1]
    if "diffusion" in begun or not is_trained_here(experiment.autoencoder):
        begun = {"autoencoder": experiment.autoencoder.steps} | begun  # it needs no checkpoint
    finished = all(
        summary.get(one, {}).get("finished") and begun.get(one, 0) >= getattr(experiment, one).steps
        for one in _stages(stage)
    )
    if not finished or last not in run.begun():
        return finished
    readable = run.checkpoints(last).restore_part(["step"])
    return readable is not None and int(readable["step"]) >= begun[last]


def _initial(run: RunDir, model: LatentDiffusion, stage: StageName) -> InitialWeights:
    """What the stages that are yet to begin start from."""
    begun, path = run.begun(), model.config.init_from
    stages = [one for one in _stages(stage) if one in ("autoencoder", "diffusion")]
    if not is_trained_here(model.config.autoencoder):
        stages = [one for one in stages if one != "autoencoder"]
    stages = [one for one in stages if one not in begun]
    initial = read_initial(path, model, stages) if path and stages else InitialWeights()
    check_frozen(model, initial, stages)
    return initial


def _check_trained_before(run: RunDir, steps: int, stage: StageName) -> None:
    """Raises UserError when a later stage is to be trained before the first one."""
    done = run.checkpoints("autoencoder").latest_step() or 0
    if stage in ("diffusion", "classifier") and done < steps:
        raise UserError(
            f"{run.path} has no trained autoencoder (step {done} of {steps}); "
            f"leave out --stage {stage}"
        )


def _check_same_data(data: OpenData) -> None:
    """Raises UserError when the processes have opened different data."""
    info = zlib.crc32(json.dumps(to_json(data.info)).encode())
    found = all_processes([len(data.train), len(data.validation), info])
    for process, numbers in enumerate(found):
        if list(numbers) != list(found[0]):
            raise UserError(
                f"the data is not the same on all hosts: process 0 has {found[0][0]} images to "
                f"train on, process {process} has {numbers[0]}, or their files or conditions differ"
            )


def _measured(
    model: LatentDiffusion, data: OpenData, autoencoder: dict, mesh: Mesh, constants: dict[str, Any]
) -> dict[str, float]:
    network = model.config.autoencoder.loss.perceptual
    return measure_autoencoder(model.first, autoencoder, data.validation, mesh, network, constants)


def _train_classifier(
    model: LatentDiffusion,
    data: OpenData,
    autoencoder: dict | None,
    run: RunDir,
    mesh: Mesh,
    key: jax.Array,
    recording: Recording,
) -> None:
    if model.first.bottleneck == "none":
        autoencoder = {}
    elif autoencoder is None:
        autoencoder = autoencoder_weights(run, model.config)
        check_unchanged(run, autoencoder)
    classifier = Classifier(model)
    task = classifier_task(model, classifier, autoencoder, data, run, mesh)
    trained = train_stage(task, run, mesh, key, recording)
    scores = measure_classifier(classifier, trained.state, data.validation, mesh, model.config.seed)
    _finish(run, "classifier", trained.summary | scores)


def _what_next(run: RunDir, summary: dict[str, Any], stage: StageName) -> str:
    if summary.get("diffusion", {}).get("finished"):
        return f"to sample images from it: python sample.py {run.path}"
    return f"to train its second stage, leave out --stage {stage}"


def _finish(run: RunDir, stage: str, results: dict[str, Any]) -> None:
    device = jax.devices()[0]
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")
    run.record(
        **{stage: results | {"finished": True}},
        device=f"{jax.device_count()} x {device.device_kind}",
        versions={package: version(package) for package in packages},
    )
