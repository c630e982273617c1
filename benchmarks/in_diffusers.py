"""The same networks in diffusers, in PyTorch, with the same weights."""

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel
from flax import traverse_util

from ldm_jax.autoencoder.network import AutoencoderConfig
from ldm_jax.diffusion.unet import UNetConfig
from ldm_jax.pretrained.names import autoencoder_rows, unet_rows


def unet(config: UNetConfig, params: dict, c: int, context_dim: int) -> torch.nn.Module:
    """Of latents with c channels; `context_dim` of the tokens to attend to, 0: none."""
    attends = [2**level in config.attention_factors for level in range(len(config.channel_mult))]
    channels = [config.channels * mult for mult in config.channel_mult]
    cross = "Cross" if context_dim else ""
    name = f"{cross}Attn{{}}Block2D"
    sizes = {
        "in_channels": c,
        "out_channels": c,
        "block_out_channels": channels,
        "layers_per_block": config.num_res_blocks,
        "norm_num_groups": config.groups,
        "down_block_types": [name.format("Down") if a else "DownBlock2D" for a in attends],
        "up_block_types": [name.format("Up") if a else "UpBlock2D" for a in attends[::-1]],
    }
    if context_dim:
        heads = [config.num_heads(c) for c in channels]  # it calls them attention_head_dim
        network = UNet2DConditionModel(
            **sizes, attention_head_dim=heads, cross_attention_dim=context_dim
        )
    else:
        network = UNet2DModel(**sizes, attention_head_dim=config.head_channels)
    rows = unet_rows(config, cross_attention=context_dim > 0)
    return _with_weights(network, rows, params)


def autoencoder(config: AutoencoderConfig, params: dict, channels: int) -> torch.nn.Module:
    """Of images with so many channels, with a KL bottleneck."""
    assert config.bottleneck == "kl" and not config.attention_factors
    levels = len(config.channel_mult)
    network = AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=[config.channels * mult for mult in config.channel_mult],
        layers_per_block=config.num_res_blocks,
        latent_channels=config.z_channels,
        norm_num_groups=config.groups,
        mid_block_add_attention=config.mid_attention,
    )
    return _with_weights(network, autoencoder_rows(config), params)


def _with_weights(network: torch.nn.Module, rows, params: dict) -> torch.nn.Module:
    flat, theirs = traverse_util.flatten_dict(params), network.state_dict()
    state = {}
    for row in rows:
        for path, name in zip(row.paths, row.diffusers, strict=True):
            array = np.asarray(flat[path])
            if row.layout.transposed and array.ndim > 1:  # inputs, outputs -> outputs, inputs
                array = np.moveaxis(array, (-1, -2), (0, 1))
            state[name] = torch.tensor(np.ascontiguousarray(array)).reshape(theirs[name].shape)
    network.load_state_dict(state)
    return network


def channels_first(array, device: str) -> torch.Tensor:
    """`[B, H, W, C]` -> a tensor `[B, C, H, W]`, which stays as it lies in memory on a GPU."""
    tensor = torch.tensor(np.asarray(array), device=device).movedim(-1, 1)
    return tensor if device == "cuda" else tensor.contiguous()


def tensors(arrays: dict, device: str) -> dict[str, torch.Tensor]:
    """Images and latents with their channels first, all else as it is."""
    return {
        name: channels_first(array, device)
        if np.ndim(array) == 4
        else torch.tensor(np.asarray(array), device=device)
        for name, array in arrays.items()
    }


def channels_last(tensor: torch.Tensor) -> np.ndarray:
    """And back, in float32."""
    return tensor.detach().movedim(1, -1).float().cpu().numpy()
