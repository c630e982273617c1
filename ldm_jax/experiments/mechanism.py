"""From a configuration to tau_theta: which encoder a condition has, and how it enters the UNet."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp

from ldm_jax.autoencoder.network import AutoencoderConfig
from ldm_jax.conditioning.class_label import ClassEmbedder
from ldm_jax.conditioning.clip_text import ClipTextConfig, ClipTextTransformer
from ldm_jax.conditioning.layout import LayoutTokens
from ldm_jax.conditioning.model import ConditionalModel, How
from ldm_jax.conditioning.spatial import SpatialRescaler
from ldm_jax.conditioning.transformer import TransformerEncoder
from ldm_jax.diffusion.unet import UNet
from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.run_dir import DataInfo
from ldm_jax.parameters import Keys

# Tokens of bert-base-uncased and of CLIP
SUBWORDS = {"bert": 30_522, "clip": ClipTextConfig().vocabulary}
TEXT_LENGTH = 77  # tokens of a caption (Table 17)
CLIP_IMAGE_DIM = 768  # of an image embedding by CLIP ViT-L/14


@dataclass(frozen=True)
class ConditioningSpec:
    """How one kind of condition enters, and what its encoder is made of."""

    entry: How = "cross-attention"
    context_dim: int = 0
    """d_tau, where it enters by cross-attention."""
    channels: int = 0
    """Channels that are stacked with z_t."""
    classes: int = 0
    """Classes whose embedding is added to the time step's."""
    tau: object = None
    """(dtype, rngs) -> tau_theta, or None where y enters as it is."""


def mechanism(experiment: Experiment, facts: DataInfo) -> ConditioningSpec:
    """The conditioning mechanism of a run (Sec. 3.3)."""
    stage, network = experiment.diffusion, experiment.autoencoder.network
    c = latent_channels(network, facts)

    def transformer(vocabulary: int, length: int):
        tau = partial(TransformerEncoder, stage.text, vocabulary, length, remat=stage.remat)
        return ConditioningSpec(context_dim=stage.text.dim, tau=tau)

    match facts.condition:
        case "none":
            return ConditioningSpec()
        case "class":
            classes = len(facts.class_names) + (stage.drop_probability > 0)  # and "no class"
            if stage.class_entry == "time":
                return ConditioningSpec("time", classes=classes)
            return ConditioningSpec(
                context_dim=stage.class_dim,
                tau=lambda **kw: ClassEmbedder(classes, stage.class_dim, **kw),
            )
        case "text" if stage.tokenizer == "clip":
            clip = ClipTextConfig()
            tau = partial(ClipTextTransformer, clip, remat=stage.remat)
            return ConditioningSpec(context_dim=clip.dim, tau=tau)
        case "text" if stage.tokenizer == "bert":
            return transformer(SUBWORDS["bert"], TEXT_LENGTH)
        case "text":
            return transformer(len(facts.vocabulary) + 2, facts.caption_length)
        case "layout":
            # Its sizes do not depend on the names
            layout = LayoutTokens(facts.box_names or ("object",), stage.objects, stage.sections)
            return transformer(layout.vocabulary, layout.length)
        case "semantic":
            stages = network.f.bit_length() - 1
            return ConditioningSpec(
                "concatenation",
                channels=c,
                tau=lambda **kw: SpatialRescaler(stages, facts.semantic_classes, c, **kw),
            )
        case "super-resolution":
            return ConditioningSpec("concatenation", channels=facts.channels)
        case "inpainting":  # the masked image's latent, and the mask
            return ConditioningSpec("concatenation", channels=c + 1)
        case "image-embedding":
            return ConditioningSpec(context_dim=CLIP_IMAGE_DIM)
    raise ValueError(facts.condition)


def latent_channels(network: AutoencoderConfig, facts: DataInfo) -> int:
    """Channels c of the latents; without a first stage, those of the images."""
    return facts.channels if network.bottleneck == "none" else network.z_channels


def build_model(experiment: Experiment, facts: DataInfo, rngs: Keys) -> ConditionalModel:
    """The UNet with its tau_theta, freshly initialised."""
    kw = {"dtype": jnp.dtype(experiment.precision), "rngs": rngs}
    how = mechanism(experiment, facts)
    c, stage = latent_channels(experiment.autoencoder.network, facts), experiment.diffusion
    sizes = (c + how.channels, c, how.context_dim, how.classes)
    unet = UNet(stage.unet, *sizes, remat=stage.remat, **kw)
    return ConditionalModel(unet, how.tau and how.tau(**kw), how.entry)
