"""The networks of a model, and where published files keep them."""

from __future__ import annotations

from typing import Literal

import jax

from ldm_jax.conditioning.clip_text import ClipTextConfig
from ldm_jax.experiments.config import DiffusionStage
from ldm_jax.model.networks import Networks
from ldm_jax.parameters import abstract_params
from ldm_jax.pretrained import names
from ldm_jax.pretrained.match import Part

TrainedStage = Literal["autoencoder", "diffusion"]


def network_parts(model: Networks, stage: TrainedStage) -> list[Part]:
    """The networks of a model, their shapes, and where CompVis and diffusers keep them."""
    first = model.first
    parts = []
    if first.bottleneck != "none":
        shapes = jax.eval_shape(first.objective.init, jax.random.key(0))
        alone = stage == "autoencoder"
        prefix = "" if alone else "first_stage_model."
        rows = names.autoencoder_rows(first.network)
        parts.append(
            Part("autoencoder", rows, shapes["autoencoder"], prefix, first_stage_folder(model))
        )
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
        component = text_folder(model) if model.info.condition == "text" else ""
        parts.append(Part("tau", rows, shapes["tau"], "cond_stage_model.", component=component))
    return parts


def first_stage_folder(model: Networks) -> str:
    """Where the first stage lies in a pipeline of diffusers: Stable Diffusion's has another."""
    return "vae" if model.config.diffusion.tokenizer == "clip" else "vqvae"


def text_folder(model: Networks) -> str:
    """Where the text encoder lies in a pipeline of diffusers."""
    return "text_encoder" if model.config.diffusion.tokenizer == "clip" else "bert"


def _tau_entries(stage: DiffusionStage, condition: str):
    if condition == "class":
        return names.class_embedder_rows()
    if condition == "semantic":
        return names.rescaler_rows()
    if condition == "text" and stage.tokenizer == "clip":
        return names.clip_text_rows(ClipTextConfig().depth)
    return names.transformer_rows(stage.text)
