"""The configurations beside the weights in a pipeline of diffusers, of which it builds networks."""

from __future__ import annotations

from typing import Any

from ldm_jax.autoencoder.network import AutoencoderConfig
from ldm_jax.conditioning.clip_text import ClipTextConfig
from ldm_jax.conditioning.transformer import HEAD_DIM, TransformerConfig
from ldm_jax.diffusion.schedule import ScheduleConfig
from ldm_jax.diffusion.unet import UNetConfig
from ldm_jax.errors import UserError

VERSION = "0.35.1"  # of diffusers, with which the configurations were verified
PREDICTIONS = {"eps": "epsilon", "z_0": "sample", "v": "v_prediction"}
BETA_SCHEDULES = {"sqrt-linear": "scaled_linear", "linear": "linear", "cosine": "squaredcos_cap_v2"}
Config = dict[str, Any]


def vae_config(config: AutoencoderConfig, channels: int, size: int, scale_factor: float) -> Config:
    """Of AutoencoderKL or VQModel, for images of this many channels and this size."""
    attends = [2**level in config.attention_factors for level in range(len(config.channel_mult))]
    widths = [config.channels * mult for mult in config.channel_mult]
    common = {
        "_diffusers_version": VERSION,
        "in_channels": channels,
        "out_channels": channels,
        "latent_channels": config.z_channels,
        "block_out_channels": widths,
        "layers_per_block": config.num_res_blocks,
        "down_block_types": _types(attends, "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": _types(attends[::-1], "UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
        "mid_block_add_attention": config.mid_attention,
        "norm_num_groups": config.groups,
        "act_fn": "silu",
        "sample_size": size,
        "scaling_factor": scale_factor,
    }
    if config.bottleneck == "kl":
        return {"_class_name": "AutoencoderKL", **common}
    codes = {"num_vq_embeddings": config.codebook_size, "vq_embed_dim": config.z_channels}
    return {"_class_name": "VQModel", **common, **codes}


def unet_config(
    config: UNetConfig, channels: tuple[int, int], size: int, *, context_dim: int, classes: int
) -> Config:
    """Of UNet2DModel or, with cross-attention, UNet2DConditionModel.

    Args:
      channels: in and out. size: of the latents. context_dim, classes: of `UNet`.

    Raises:
      UserError: diffusers has no such UNet.
    """
    attends = [2**level in config.attention_factors for level in range(len(config.channel_mult))]
    widths = [config.channels * mult for mult in config.channel_mult]
    common = {
        "_diffusers_version": VERSION,
        "sample_size": size,
        "in_channels": channels[0],
        "out_channels": channels[1],
        "block_out_channels": widths,
        "layers_per_block": config.num_res_blocks,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "norm_num_groups": config.groups,
        "norm_eps": 1e-5,
        "act_fn": "silu",
        "downsample_padding": 1,
        "resnet_time_scale_shift": "scale_shift" if config.scale_shift else "default",
        "num_class_embeds": classes or None,
    }
    if context_dim:
        if config.resample_in_res_blocks:
            raise _absent("cross-attention and a change of resolution in ResBlocks")
        cross_attention = {
            "down_block_types": _types(attends, "DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": _types(attends[::-1], "UpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": context_dim,
            "transformer_layers_per_block": config.transformer_depth,
            "attention_head_dim": [config.num_heads(c) for c in widths],  # the number of heads
        }
        return {"_class_name": "UNet2DConditionModel", **common, **cross_attention}
    used = [c for c, attend in zip(widths, attends, strict=True) if attend] + widths[-1:]
    head_widths = {c // config.num_heads(c) for c in used}
    if len(head_widths) > 1:
        raise _absent(f"{config.heads} attention heads at levels of different width")
    plain = [f"Resnet{k}sampleBlock2D" for k in ("Down", "Up")]
    if not config.resample_in_res_blocks:
        plain = ["DownBlock2D", "UpBlock2D"]
    resampling = "resnet" if config.resample_in_res_blocks else "conv"
    self_attention = {
        "attn_norm_num_groups": config.groups,
        "down_block_types": _types(attends, plain[0], "AttnDownBlock2D"),
        "up_block_types": _types(attends[::-1], plain[1], "AttnUpBlock2D"),
        "downsample_type": resampling,
        "upsample_type": resampling,
        "attention_head_dim": head_widths.pop(),
    }
    return {"_class_name": "UNet2DModel", **common, **self_attention}


def scheduler_config(config: ScheduleConfig, prediction: str) -> Config:
    """Of DDIMScheduler, with the timesteps of `uniform` spacing."""
    return {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": VERSION,
        "num_train_timesteps": config.timesteps,
        "beta_schedule": BETA_SCHEDULES[config.kind],
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
        "rescale_betas_zero_snr": config.zero_terminal_snr,
        "prediction_type": PREDICTIONS[prediction],
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    }


def clip_text_config(config: ClipTextConfig) -> Config:
    """Of CLIPTextModel in transformers."""
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_size": config.dim,
        "intermediate_size": 4 * config.dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.length,
        "vocab_size": config.vocabulary,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }


def bert_config(config: TransformerConfig, vocabulary: int, length: int) -> Config:
    """Of LDMBertModel."""
    return {
        "architectures": ["LDMBertModel"],
        "model_type": "ldmbert",
        "vocab_size": vocabulary,
        "max_position_embeddings": length,
        "d_model": config.dim,
        "encoder_layers": config.depth,
        "encoder_ffn_dim": 4 * config.dim,
        "encoder_attention_heads": config.heads,
        "head_dim": HEAD_DIM,
        "activation_function": "gelu",
    }


def _types(attends: list[bool], plain: str, attention: str) -> list[str]:
    return [attention if attend else plain for attend in attends]


def _absent(what: str) -> UserError:
    return UserError(f"diffusers has no UNet with {what}; export to FILE.safetensors instead")
