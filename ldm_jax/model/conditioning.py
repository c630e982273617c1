"""From a configuration to tau_theta: which encoder a condition has, and how it enters the UNet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
from flax import nnx

from ldm_jax.conditioning.class_label import ClassEmbedder
from ldm_jax.conditioning.clip_text import ClipTextConfig, ClipTextTransformer
from ldm_jax.conditioning.layout import LayoutTokens
from ldm_jax.conditioning.model import ConditionalModel, How
from ldm_jax.conditioning.spatial import SpatialRescaler
from ldm_jax.conditioning.transformer import TransformerEncoder
from ldm_jax.diffusion.unet import UNet
from ldm_jax.experiments.config import DiffusionStage
from ldm_jax.model.data_info import DataInfo
from ldm_jax.model.first_stage import FirstStage
from ldm_jax.parameters import Keys

# Tokens of bert-base-uncased and of CLIP
SUBWORDS = {"bert": 30_522, "clip": ClipTextConfig().vocabulary}
TEXT_LENGTH = 77  # tokens of a caption (Table 17)


@dataclass(frozen=True)
class ConditioningSpec:
    """How one kind of condition enters the UNet, and the encoder that it has."""

    how: How = "cross-attention"
    context_dim: int = 0
    """d_tau, where it enters by cross-attention."""
    channels: int = 0
    """Channels that are stacked with z_t."""
    classes: int = 0
    """Classes whose embedding is added to the time step's."""
    tau: Callable[..., nnx.Module] | None = None
    """(dtype, rngs) -> tau_theta; None where y enters as it is."""


def conditioning_spec(stage: DiffusionStage, info: DataInfo, first: FirstStage) -> ConditioningSpec:
    """The conditioning mechanism of a model (Sec. 3.3)."""
    c = first.latent_channels

    def transformer(vocabulary: int, length: int) -> ConditioningSpec:
        tau = partial(TransformerEncoder, stage.text, vocabulary, length, remat=stage.remat)
        return ConditioningSpec(context_dim=stage.text.dim, tau=tau)

    match info.condition:
        case "none":
            return ConditioningSpec()
        case "class":
            classes = len(info.class_names) + (stage.drop_probability > 0)  # and "no class"
            if stage.class_entry == "time":
                return ConditioningSpec("time", classes=classes)
            tau = partial(ClassEmbedder, classes, stage.class_dim)
            return ConditioningSpec(context_dim=stage.class_dim, tau=tau)
        case "text" if stage.tokenizer == "clip":
            clip = ClipTextConfig()
            tau = partial(ClipTextTransformer, clip, remat=stage.remat)
            return ConditioningSpec(context_dim=clip.dim, tau=tau)
        case "text" if stage.tokenizer == "bert":
            return transformer(SUBWORDS["bert"], TEXT_LENGTH)
        case "text":
            return transformer(len(info.vocabulary) + 2, info.caption_length)
        case "layout":
            # Its sizes do not depend on the names
            layout = LayoutTokens(info.box_names or ("object",), stage.objects, stage.sections)
            return transformer(layout.vocabulary, layout.length)
        case "semantic":
            halvings = first.f.bit_length() - 1
            tau = partial(SpatialRescaler, halvings, info.semantic_classes, c)
            return ConditioningSpec("concatenation", channels=c, tau=tau)
        case "super-resolution":
            return ConditioningSpec("concatenation", channels=info.channels)
        case "inpainting":  # the masked image's latent, and the mask
            return ConditioningSpec("concatenation", channels=c + 1)
        case "image-embedding":
            return ConditioningSpec(context_dim=info.embedding_dim)
    raise ValueError(info.condition)


def build_model(
    stage: DiffusionStage, spec: ConditioningSpec, c: int, dtype: str, rngs: Keys
) -> ConditionalModel:
    """The UNet on latents of c channels with its tau_theta, freshly initialised."""
    kw = {"dtype": jnp.dtype(dtype), "rngs": rngs}
    sizes = (c + spec.channels, c, spec.context_dim, spec.classes)
    unet = UNet(stage.unet, *sizes, remat=stage.remat, **kw)
    return ConditionalModel(unet, spec.tau and spec.tau(**kw), spec.how)
