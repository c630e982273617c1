"""Published weights of an experiment's networks, as a `LatentDiffusion`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from ldm_jax.errors import UserError
from ldm_jax.experiments import EXPERIMENTS, FIRST_STAGES, PUBLISHED
from ldm_jax.experiments.config import Experiment
from ldm_jax.model.config_json import from_json, to_json
from ldm_jax.model.contradictions import contradictions
from ldm_jax.model.data_info import DataInfo
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.parts import TrainedStage, network_parts
from ldm_jax.model.published_info import published_info, with_counts, with_names, with_tokenizer
from ldm_jax.model.weights import Weights
from ldm_jax.paths import user_path
from ldm_jax.pretrained.convert import read_weights
from ldm_jax.pretrained.declared import Declared, declared
from ldm_jax.pretrained.files import read_checkpoint, read_configs, read_metadata
from ldm_jax.pretrained.match import Report, check_keys
from ldm_jax.training.config import TrainingConfig
from ldm_jax.training.step import TrainState

DESCRIPTION = "ldm_jax"  # entry of a file's metadata: what `description` returns


@dataclass(frozen=True)
class Described:
    """Whose weights a file holds."""

    name: str
    """Name of the experiment."""
    experiment: Experiment
    stage: TrainedStage
    """What its file holds: both stages (diffusion), or the first alone."""
    info: DataInfo | None = None
    """Facts of the training data, where they are known."""


@dataclass(frozen=True)
class PublishedModel:
    """Published weights that were read."""

    model: LatentDiffusion
    stage: TrainedStage
    """diffusion: both stages; autoencoder: the first alone."""
    state: TrainState
    """What a finished training of that stage would have left, without the optimiser."""
    report: Report
    """What became of each array of the file."""


def read_published(
    file: str,
    of: Described,
    *,
    ema: bool = True,
    tokenizer: str = "",
    names: str = "",
    autoencoder: Callable[[LatentDiffusion], dict] | None = None,
) -> PublishedModel:
    """Reads the published weights of an experiment.

    Args:
      file: a CompVis checkpoint, .ckpt or .safetensors, or the folder of a diffusers pipeline.
      of: whose weights they are.
      ema: take the averaged weights, where the file has them.
      tokenizer: for a model of texts: file tokenizer.json, or a folder with one or with the files
        of an older tokenizer; '': the pipeline's own, or else downloaded once.
      names: file with a name a line, for its classes or the objects of its layouts; '': they are
        called by their numbers.
      autoencoder: gives the parameters of another first stage for the model; None: the file's own.

    Raises:
      UserError: a file that cannot be read, does not fit, or contradicts the experiment.
    """
    config, stage, path = of.experiment, of.stage, user_path(file)
    arrays = read_checkpoint(path, ema=ema)
    said = checked_words(file, of, arrays)
    info = of.info
    if info is None:
        info = published_info(config.diffusion, stage)
        info = with_counts(info, config.diffusion, arrays, lambda name: arrays[name].shape)
        own = path / "tokenizer"
        tokenizer = tokenizer or (str(own) if own.is_dir() else "")
        if info.condition == "text" and not tokenizer:  # before one is downloaded
            _check_weights(arrays, LatentDiffusion(config, info), stage, ema)
        info = with_tokenizer(info, config.diffusion, tokenizer)
    info = with_names(info, names) if names else info
    model = LatentDiffusion(config, info, name=of.name)
    parts = network_parts(model, stage)
    if autoencoder:
        parts = [replace(p, optional=p.optional or p.name == "autoencoder") for p in parts]
    trees, report = read_weights(arrays, parts, ema=ema)
    if autoencoder:
        trees["autoencoder"] = autoencoder(model)
    state = _state(config, stage, trees, said, file)
    return PublishedModel(model.with_weights(_weights(state, stage)), stage, state, report)


def checked_words(file: str, of: Described, arrays: Mapping[str, np.ndarray]) -> Declared:
    """What a file says of itself beside its weights; UserError where that contradicts `of`.

    Args:
      arrays: those of the file, of which few are read.
    """
    path = user_path(file)
    said = declared(arrays, read_metadata(path), read_configs(path))
    if wrong := list(contradictions(of.experiment, said, both=of.stage == "diffusion")):
        raise UserError(
            f"{file} says of itself what {of.name} is not; these options follow it, where there is "
            f"one: {'; '.join(wrong)}"
        )
    return said


def _check_weights(
    arrays: Mapping[str, np.ndarray], model: LatentDiffusion, stage: TrainedStage, ema: bool
) -> None:
    """Raises UserError for arrays that do not fit; reads their shapes alone."""
    shapes = {name: np.shape(arrays[name]) for name in arrays}
    parts = [replace(p, optional=p.name == "autoencoder") for p in network_parts(model, stage)]
    if problem := check_keys(shapes, parts, ema=ema).problem:
        raise UserError(problem)


def read_first_stage(file: str, model: LatentDiffusion) -> dict[str, Any]:
    """The parameters of the first stage of a file, for a model; a UserError if it does not fit."""
    parts = [p for p in network_parts(model, "autoencoder") if p.name == "autoencoder"]
    if not parts:
        raise UserError(f"{model.name} works on pixels: it has no first stage")
    return read_weights(read_checkpoint(user_path(file)), parts)[0]["autoencoder"]


def published_experiment(name: str) -> Described:
    """The experiment of this name; a UserError lists those whose weights were published."""
    if name not in EXPERIMENTS:
        known = ", ".join([*FIRST_STAGES, *PUBLISHED])
        raise UserError(f"unknown model {name!r}; published were: {known}")
    stage = "autoencoder" if name in FIRST_STAGES else "diffusion"
    return Described(name, EXPERIMENTS[name](), stage)


def description(of: Described) -> str:
    """What a file says of itself when it is exported, so that it can be read back."""
    return json.dumps(
        {
            "experiment": of.name,
            "stage": of.stage,
            "config": to_json(of.experiment),
            "data": to_json(of.info),
        }
    )


def described(file: str) -> Described | None:
    """What a file says that `export` wrote; None for others. UserError if that is damaged."""
    path = user_path(file)
    if not path.exists():
        return None
    text = read_metadata(path).get(DESCRIPTION)
    if text is None:
        return None
    try:
        said = json.loads(text)
        experiment = from_json(Experiment, said["config"])
        info = from_json(DataInfo, said["data"])
        return Described(said["experiment"], experiment, said["stage"], info)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{file} is damaged: {error}; --model names its experiment") from error


def _weights(state: TrainState, stage: TrainedStage) -> Weights:
    if stage == "autoencoder":
        autoencoder = state.weights["autoencoder"]
        return Weights(None, {"autoencoder": autoencoder, "scale_factor": np.float32(1)})
    return Weights(state.weights, state.constants)


def _state(
    experiment: Experiment,
    stage: TrainedStage,
    trees: Mapping[str, Any],
    said: Declared,
    file: str,
) -> TrainState:
    params = dict(trees)
    if stage == "autoencoder":
        return finished_state(experiment.autoencoder, params, {})
    scale = experiment.diffusion.scale_factor or said.scale_factor
    if not scale:
        raise UserError(
            f"{file} does not say by what the latents were multiplied: "
            "give --diffusion.scale-factor"
        )
    autoencoder = params.pop("autoencoder", {})  # LDM-1 has none
    constants = {"autoencoder": autoencoder, "scale_factor": jnp.float32(scale)}
    return finished_state(experiment.diffusion, params, constants)


def finished_state(
    config: TrainingConfig, params: dict[str, Any], constants: dict[str, Any]
) -> TrainState:
    """The state at the end of a training, without the optimiser."""
    averaged = config.ema_decay > 0
    return TrainState(
        step=jnp.int32(config.steps),
        params={} if averaged else params,
        ema=params if averaged else None,
        opt_state={},
        constants=constants,
    )
