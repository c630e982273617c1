"""Published weights of an experiment's networks, as a `LatentDiffusion`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.conditioning.clip_text import ClipTextConfig
from ldm_jax.conditioning.subwords import SubwordTokenizer
from ldm_jax.errors import UserError
from ldm_jax.experiments import EXPERIMENTS, FIRST_STAGES, PUBLISHED
from ldm_jax.experiments.config import DiffusionStage, Experiment
from ldm_jax.model.conditioning import SUBWORDS
from ldm_jax.model.data import published_tokenizer
from ldm_jax.model.data_info import DataInfo
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.placeholder import placeholder_info
from ldm_jax.model.weights import Weights
from ldm_jax.parameters import abstract_params
from ldm_jax.paths import user_path
from ldm_jax.pretrained import names
from ldm_jax.pretrained.convert import read_compvis, read_diffusers
from ldm_jax.pretrained.files import read_component, read_state_dict
from ldm_jax.pretrained.match import Part, Report
from ldm_jax.text_files import lines_of, read_text
from ldm_jax.training.step import TrainState

TrainedStage = Literal["autoencoder", "diffusion"]
# Where a part lies in a diffusers pipeline: releases have given the folder several names.
FOLDERS = {"vae": ("vae", "vqvae"), "unet": ("unet",), "text_encoder": ("text_encoder", "bert")}


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
    file: str, name: str, *, ema: bool = True, tokenizer: str = "", names: str = ""
) -> PublishedModel:
    """Reads the published weights of an experiment.

    Args:
      file: a CompVis checkpoint, .ckpt or .safetensors, or the folder of a diffusers pipeline.
      name: the experiment whose weights they are.
      ema: take the averaged weights, where the file has them.
      tokenizer: file tokenizer.json, for a model of texts; '': downloaded once.
      names: file with a name a line, for its classes or the objects of its layouts; '': they are
        called by their numbers.

    Raises:
      UserError: an unknown name; a file that cannot be read, or does not fit.
    """
    config, stage = published_experiment(name)
    info = published_info(config.diffusion, stage)
    info = with_tokenizer(info, config.diffusion, tokenizer)
    info = with_names(info, names) if names else info
    model = LatentDiffusion(config, info, name=name)
    parts = network_parts(model, stage)
    if user_path(file).is_dir():
        trees, report = read_diffusers(_component_reader(file), parts)
    else:
        trees, report = read_compvis(read_state_dict(file), parts, ema=ema)
    state = _state(config, stage, trees, report.scale_factor, file)
    if stage == "autoencoder":
        autoencoder = state.weights["autoencoder"]
        weights = Weights(None, {"autoencoder": autoencoder, "scale_factor": np.float32(1)})
    else:
        weights = Weights(state.weights, state.constants)
    return PublishedModel(model.with_weights(weights), stage, state, report)


def published_experiment(name: str) -> tuple[Experiment, TrainedStage]:
    """(the experiment of this name, what its file holds); a UserError lists the published ones."""
    if name not in EXPERIMENTS:
        known = ", ".join([*FIRST_STAGES, *PUBLISHED])
        raise UserError(f"unknown model {name!r}; published were: {known}")
    return EXPERIMENTS[name](), "autoencoder" if name in FIRST_STAGES else "diffusion"


def published_info(stage: DiffusionStage, trained: TrainedStage) -> DataInfo:
    """The facts of a published model's training data, without its tokenizer."""
    if trained == "autoencoder":
        return DataInfo(channels=3, condition="none")
    if stage.condition == "auto" or (stage.condition == "text" and stage.tokenizer == "words"):
        raise UserError("this experiment has no published weights: its data decides its networks")
    return placeholder_info(stage)


def with_tokenizer(info: DataInfo, stage: DiffusionStage, file: str) -> DataInfo:
    """With the tokenizer of a model of texts, from a file or downloaded; others as they are.

    Raises:
      UserError: a tokenizer of more tokens than the model knows.
    """
    if info.condition != "text":
        return info
    chosen = DiffusionStage(tokenizer=stage.tokenizer, tokenizer_file=file)
    info = replace(info, tokenizer=published_tokenizer(chosen))
    size = SubwordTokenizer(info.tokenizer, stage.tokenizer).size
    if size > (most := SUBWORDS[stage.tokenizer]):
        raise UserError(f"this tokenizer.json has {size} tokens; the model knows {most}")
    return info


def with_names(info: DataInfo, file: str) -> DataInfo:
    """The classes, or the objects of layouts, called as a file says that has a name a line.

    Raises:
      UserError: one line for a file that is not that, for names that are not as many as the model
        has, or two alike, and for a model without names.
    """
    field = {"class": "class_names", "layout": "box_names"}.get(info.condition)
    if field is None:
        raise UserError("--names is for a model of classes or layouts, which this is not")
    names = tuple(line.strip() for line in lines_of(read_text(file, "--names").strip()))
    if len(names) != (known := len(getattr(info, field))):
        raise UserError(f"--names {file} has {len(names)} lines; the model knows {known} names")
    if twice := [name for name, n in Counter(names).items() if n > 1 or not name]:
        raise UserError(f"--names {file} has the line {twice[0]!r} twice, or it is empty")
    return replace(info, **{field: names})


def network_parts(model: LatentDiffusion, stage: TrainedStage) -> list[Part]:
    """The networks of a model, their shapes, and where CompVis and diffusers keep them."""
    first = model.first
    parts = []
    if first.bottleneck != "none":
        shapes = jax.eval_shape(first.objective.init, jax.random.key(0))
        alone = stage == "autoencoder"
        prefix = "" if alone else "first_stage_model."
        rows = names.autoencoder_rows(first.network)
        parts.append(Part("autoencoder", rows, shapes["autoencoder"], prefix, component="vae"))
        if alone and "discriminator" in shapes:
            rows = names.discriminator_rows(model.config.autoencoder.discriminator)
            shapes, prefix = shapes["discriminator"], "loss.discriminator."
            parts.append(Part("discriminator", rows, shapes, prefix, optional=True))
    if stage == "autoencoder":
        return parts
    shapes = abstract_params(model.objective.build)
    unet = names.unet_rows(
        model.config.diffusion.unet,
        cross_attention=model.spec.context_dim > 0,
        class_labels=model.spec.classes > 0,
    )
    parts.insert(0, Part("unet", unet, shapes["unet"], "model.diffusion_model.", component="unet"))
    if "tau" in shapes:
        rows = _tau_entries(model.config.diffusion, model.info.condition)
        component = "text_encoder" if model.info.condition == "text" else None
        parts.append(Part("tau", rows, shapes["tau"], "cond_stage_model.", component=component))
    return parts


def _tau_entries(stage: DiffusionStage, condition: str):
    if condition == "class":
        return names.class_embedder_rows()
    if condition == "semantic":
        return names.rescaler_rows()
    if condition == "text" and stage.tokenizer == "clip":
        return names.clip_text_rows(ClipTextConfig().depth)
    return names.transformer_rows(stage.text)


def _state(
    experiment: Experiment,
    stage: TrainedStage,
    trees: dict[str, Any],
    scale_factor: float | None,
    file: str,
) -> TrainState:
    """What a finished training would have left, without the optimiser."""
    if stage == "autoencoder":
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


def _component_reader(folder: str) -> Callable[[str], Mapping[str, np.ndarray]]:
    def read(name: str) -> Mapping[str, np.ndarray]:
        existing = [n for n in FOLDERS[name] if (user_path(folder) / n).is_dir()]
        return read_component(folder, existing[0] if existing else name)

    return read
