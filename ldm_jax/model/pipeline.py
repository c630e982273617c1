"""A model as the configurations of a pipeline of diffusers."""

from __future__ import annotations

import json
from typing import Any

from ldm_jax.conditioning.clip_text import ClipTextConfig
from ldm_jax.conditioning.subwords import PUBLISHED_TOKENIZERS
from ldm_jax.model.conditioning import SUBWORDS, TEXT_LENGTH
from ldm_jax.model.networks import Networks
from ldm_jax.model.parts import TrainedStage, first_stage_folder, text_folder
from ldm_jax.pretrained.diffusers_configs import (
    bert_config,
    clip_text_config,
    scheduler_config,
    unet_config,
    vae_config,
)
from ldm_jax.pretrained.files import INDEX


def pipeline_configs(
    model: Networks, stage: TrainedStage, scale_factor: float
) -> dict[str, dict[str, Any]]:
    """File in the folder of a pipeline, such as `unet/config.json` -> its content.

    Raises:
      UserError: diffusers has no such UNet.
    """
    config, first, spec = model.config, model.first, model.spec
    size, channels = config.data.size, model.info.channels
    vae = vae_config(first.network, channels, size, scale_factor)
    if stage == "autoencoder":
        return {"config.json": vae}
    folder = first_stage_folder(model)
    files = {} if first.bottleneck == "none" else {f"{folder}/config.json": vae}
    c = first.latent_channels
    diffusion = config.diffusion
    files["unet/config.json"] = unet_config(
        diffusion.unet,
        (c + spec.channels, c),
        size // first.f,
        context_dim=spec.context_dim,
        classes=spec.classes,
    )
    files["scheduler/scheduler_config.json"] = scheduler_config(
        diffusion.schedule, diffusion.prediction
    )
    files |= _text(model)
    files[INDEX] = _index(model, files)
    return files


def _text(model: Networks) -> dict[str, dict[str, Any]]:
    if model.info.condition != "text":
        return {}
    stage, info = model.config.diffusion, model.info
    folder, kind = text_folder(model), stage.tokenizer
    if kind == "clip":
        config = clip_text_config(ClipTextConfig())
    elif kind == "bert":
        config = bert_config(stage.text, SUBWORDS["bert"], TEXT_LENGTH)
    else:
        config = bert_config(stage.text, len(info.vocabulary) + 2, info.caption_length)
    files = {f"{folder}/config.json": config}
    if kind != "words":
        frame = PUBLISHED_TOKENIZERS[kind]
        files["tokenizer/tokenizer_config.json"] = {
            "tokenizer_class": "CLIPTokenizer" if kind == "clip" else "BertTokenizer",
            "model_max_length": TEXT_LENGTH,
            "pad_token": frame.pad,
        }
        files["tokenizer/tokenizer.json"] = json.loads(info.tokenizer)
    return files


def _index(model: Networks, files: dict[str, Any]) -> dict[str, Any]:
    """model_index.json: the pipeline's class, and that of each of its parts."""
    stage, condition = model.config.diffusion, model.info.condition
    classes = {
        "none": "LDMPipeline",
        "super-resolution": "LDMSuperResolutionPipeline",
        "text": "StableDiffusionPipeline"
        if stage.tokenizer == "clip"
        else "LDMTextToImagePipeline",
    }
    index = {"_class_name": classes.get(condition, "DiffusionPipeline")}
    for file, config in files.items():
        folder = file.split("/")[0]
        if "_class_name" in config:
            index[folder] = ["diffusers", config["_class_name"]]
        elif "architectures" in config:
            library = "transformers" if stage.tokenizer == "clip" else "latent_diffusion"
            index[folder] = [library, config["architectures"][0]]
        elif "tokenizer_class" in config:
            index[folder] = ["transformers", config["tokenizer_class"]]
    if stage.tokenizer == "clip" and condition == "text":
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    return index
