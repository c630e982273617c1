"""The name of every parameter in ldm_jax, in CompVis files and in diffusers.

One function for each network returns its rows, one row for each array of a CompVis file. It walks
the levels and blocks as the network does, so it needs only the configuration. Names are relative
to the network. Diffusers has the same arrays under other names, with q, k and v always separate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Literal

from ldm_jax.autoencoder.discriminator import DiscriminatorConfig
from ldm_jax.autoencoder.network import AutoencoderConfig
from ldm_jax.conditioning.transformer import TransformerConfig
from ldm_jax.diffusion.unet import UNetConfig
from ldm_jax.pretrained.array_layout import ArrayLayout
from ldm_jax.pretrained.name_rows import ModuleName, Rows, embedding, fused, layer, norm, row, table

# The first stage


@table
def autoencoder_rows(config: AutoencoderConfig) -> Rows:
    """Of `Autoencoder`; AutoencoderKL and VQModel in diffusers."""
    yield from _encoder(ModuleName() / "encoder", config)
    yield from layer(ModuleName() / "quant_conv")
    if config.bottleneck == "vq":
        yield row(
            ModuleName() / ("codebook", "quantize.embedding.weight", "quantize.embedding.weight")
        )
    yield from layer(ModuleName() / "post_quant_conv")
    yield from _decoder(ModuleName() / "decoder", config)


def _encoder(module: ModuleName, config: AutoencoderConfig) -> Rows:
    yield from layer(module / "conv_in")
    c, n = config.channels, count()
    for level, mult in enumerate(config.channel_mult):
        if level > 0:  # the first layer of a level here, the last of the level before in CompVis
            names = f"down.{level - 1}.downsample", f"down_blocks.{level - 1}.downsamplers.0"
            yield from layer(module / (f"down.{next(n)}", *names) / "conv")
        names = "down", f"down.{level}", f"down_blocks.{level}"
        yield from _level(module / names, n, level, config.num_res_blocks, c, config)
        c = config.channels * mult
    yield from _mid(module, config)
    yield from _last(module)


def _decoder(module: ModuleName, config: AutoencoderConfig) -> Rows:
    yield from layer(module / "conv_in")
    yield from _mid(module, config)
    c, n = config.channels * config.channel_mult[-1], count()
    for k, level in enumerate(reversed(range(len(config.channel_mult)))):
        names = f"up.{level}", f"up_blocks.{k}"  # CompVis counts from the full resolution
        yield from _level(module / ("up", *names), n, level, config.num_res_blocks + 1, c, config)
        c = config.channels * config.channel_mult[level]
        if level > 0:
            upsample = module / ("up", *names) / (str(next(n)), "upsample", "upsamplers.0")
            yield from layer(upsample / "conv")
    yield from _last(module)


def _level(
    module: ModuleName,
    n: Iterator[int],
    level: int,
    blocks: int,
    c_in: int,
    config: AutoencoderConfig,
) -> Rows:
    """ResBlocks with their attention; in ldm_jax they are one list, whose index `n` counts."""
    changes_width = c_in != config.channels * config.channel_mult[level]
    for i in range(blocks):
        names = f"block.{i}", f"resnets.{i}"
        yield from _plain_res_block(module / (str(next(n)), *names), skip=changes_width and i == 0)
        if 2**level in config.attention_factors:
            yield from _plain_attention(module / (str(next(n)), f"attn.{i}", f"attentions.{i}"))


def _mid(module: ModuleName, config: AutoencoderConfig) -> Rows:
    module, last = module / ("mid", "mid", "mid_block"), 1 + config.mid_attention
    yield from _plain_res_block(module / ("0", "block_1", "resnets.0"), skip=False)
    if config.mid_attention:
        yield from _plain_attention(module / ("1", "attn_1", "attentions.0"))
    yield from _plain_res_block(module / (str(last), "block_2", "resnets.1"), skip=False)


def _last(module: ModuleName) -> Rows:
    yield from norm(module / ("norm_out", "norm_out", "conv_norm_out"))
    yield from layer(module / "conv_out")


def _plain_res_block(module: ModuleName, *, skip: bool) -> Rows:
    for i in "12":
        yield from norm(module / f"norm{i}")
        yield from layer(module / f"conv{i}")
    if skip:
        yield from layer(module / ("skip", "nin_shortcut", "conv_shortcut"))


def _plain_attention(module: ModuleName) -> Rows:
    yield from norm(module / ("norm", "norm", "group_norm"))
    for i in "qkv":
        yield from layer(module / (f"attention.{i}", i, f"to_{i}"), ones=2)
    yield from layer(module / ("attention.out", "proj_out", "to_out.0"), ones=2)


@table
def discriminator_rows(config: DiscriminatorConfig) -> Rows:
    """Of `Discriminator`; diffusers has none."""
    yield from layer(ModuleName() / ("conv_in", "main.0"))
    for i in range(config.layers):  # a layer in CompVis is three: convolution, norm, activation
        yield from layer(ModuleName() / (f"convs.{i}", f"main.{3 * i + 2}"), bias=False)
        yield from norm(ModuleName() / (f"norms.{i}", f"main.{3 * i + 3}"))
    yield from layer(ModuleName() / ("conv_out", f"main.{3 * config.layers + 2}"))


# The diffusion model

AttentionRows = Callable[[ModuleName, int], Rows]  # (its name, channels) -> rows


@table
def unet_rows(
    config: UNetConfig,
    *,
    cross_attention: bool,
    class_labels: bool = False,
    grouped_qkv: bool = False,
) -> Rows:
    """Of `UNet`; UNet2DModel or, with cross-attention, UNet2DConditionModel in diffusers.

    Args:
      config: the sizes.
      cross_attention: the UNet has a `context_dim` and so spatial transformers.
      class_labels: the UNet has `num_classes`.
      grouped_qkv: in the CompVis file all q come first, then all k, all v
        (`use_new_attention_order`); otherwise q, k, v of each head, as in every published model.
        The file itself does not say which.
    """
    if cross_attention:
        attention = partial(_spatial_transformer, depth=config.transformer_depth)
    else:
        attention = partial(_self_attention, config=config, grouped_qkv=grouped_qkv)
    yield from _down_path(ModuleName(), config, attention, class_labels)
    yield from _up_path(ModuleName(), config, attention)
    yield from norm(ModuleName() / ("norm_out", "out.0", "conv_norm_out"))
    yield from layer(ModuleName() / ("conv_out", "out.2", "conv_out"))


@table
def classifier_rows(
    config: UNetConfig, pool: Literal["mean", "attention"], *, grouped_qkv: bool = False
) -> Rows:
    """Of `NoisyLatentClassifier`; diffusers has none. `grouped_qkv` as in `unet_rows`."""
    attention = partial(_self_attention, config=config, grouped_qkv=grouped_qkv)
    yield from _down_path(ModuleName(diffusers=None), config, attention, class_labels=False)
    yield from norm(ModuleName() / ("norm_out", "out.0"))
    if pool == "mean":
        yield from layer(ModuleName() / ("head", "out.3"), ones=2)
    else:
        module = ModuleName() / ("head", "out.2")
        yield row(
            module / ("position", "positional_embedding"), layout=ArrayLayout(transposed=True)
        )
        # always grouped
        yield from fused([module / (f"attention.{i}", "qkv_proj") for i in "qkv"], groups=1)
        yield from layer(module / ("attention.out", "c_proj"), ones=1)


def _down_path(
    module: ModuleName, config: UNetConfig, attention: AttentionRows, class_labels: bool
) -> Rows:
    yield from layer(module / ("time_in", "time_embed.0", "time_embedding.linear_1"))
    yield from layer(module / ("time_out", "time_embed.2", "time_embedding.linear_2"))
    if class_labels:
        yield from embedding(module / ("label", "label_emb", "class_embedding"))
    yield from layer(module / ("conv_in", "input_blocks.0.0", "conv_in"))
    c, n = config.channels, count()
    for level, mult in enumerate(config.channel_mult):
        if level > 0:
            i, diffusers = next(n), f"down_blocks.{level - 1}.downsamplers.0"
            yield from _resample(
                module / (f"down.{i}", f"input_blocks.{i + 1}.0", diffusers), config, "op"
            )
        for j in range(config.num_res_blocks):
            i, c_in, c = next(n), c, config.channels * mult
            block = module / (f"down.{i}", f"input_blocks.{i + 1}", f"down_blocks.{level}")
            yield from _res_block(block / ("res", "0", f"resnets.{j}"), skip=c_in != c)
            if 2**level in config.attention_factors:
                yield from attention(block / ("attention", "1", f"attentions.{j}"), c)
    mid = module / ("mid", "middle_block", "mid_block")
    yield from _res_block(mid / ("0.res", "0", "resnets.0"), skip=False)
    yield from attention(mid / ("0.attention", "1", "attentions.0"), c)
    yield from _res_block(mid / ("1", "2", "resnets.1"), skip=False)


def _up_path(module: ModuleName, config: UNetConfig, attention: AttentionRows) -> Rows:
    last, n = len(config.channel_mult) - 1, count()
    c, skips = config.channels * config.channel_mult[last], _skip_channels(config)
    for level in range(last, -1, -1):
        for j in range(config.num_res_blocks + 1):
            i, c_in, c = next(n), c + skips.pop(), config.channels * config.channel_mult[level]
            block = module / (f"up.{i}", f"output_blocks.{i}", f"up_blocks.{last - level}")
            yield from _res_block(block / ("res", "0", f"resnets.{j}"), skip=c_in != c)
            attends = 2**level in config.attention_factors
            if attends:
                yield from attention(block / ("attention", "1", f"attentions.{j}"), c)
            if level > 0 and j == config.num_res_blocks:
                names = "resample", str(1 + attends), "upsamplers.0"
                yield from _resample(block / names, config, "conv")


def _skip_channels(config: UNetConfig) -> list[int]:
    """Channels of the skip connections; the up path pops them from the end."""
    skips = [config.channels]
    for level, mult in enumerate(config.channel_mult):
        skips += skips[-1:] * (level > 0) + [config.channels * mult] * config.num_res_blocks
    return skips


def _resample(module: ModuleName, config: UNetConfig, name: str) -> Rows:
    if config.resample_in_res_blocks:
        return _res_block(module, skip=False)
    return layer(module / ("conv", name, "conv"))


def _res_block(module: ModuleName, *, skip: bool) -> Rows:
    yield from norm(module / ("norm1", "in_layers.0", "norm1"))
    yield from layer(module / ("conv1", "in_layers.2", "conv1"))
    yield from layer(module / ("emb", "emb_layers.1", "time_emb_proj"))
    yield from norm(module / ("norm2", "out_layers.0", "norm2"))
    yield from layer(module / ("conv2", "out_layers.3", "conv2"))
    if skip:
        yield from layer(module / ("skip", "skip_connection", "conv_shortcut"))


def _self_attention(
    module: ModuleName, channels: int, *, config: UNetConfig, grouped_qkv: bool
) -> Rows:
    yield from norm(module / ("norm", "norm", "group_norm"))
    qkv = [module / (f"attention.{i}", "qkv", f"to_{i}") for i in "qkv"]
    yield from fused(qkv, groups=1 if grouped_qkv else config.num_heads(channels))
    yield from layer(module / ("attention.out", "proj_out", "to_out.0"), ones=1)


def _spatial_transformer(module: ModuleName, channels: int, *, depth: int) -> Rows:
    yield from norm(module / "norm")
    yield from layer(module / "proj_in")
    for i in range(depth):
        names = f"transformer_blocks.{i}"
        yield from _transformer_block(module / (f"blocks.{i}", names, names))
    yield from layer(module / "proj_out")


def _transformer_block(module: ModuleName) -> Rows:
    for here, there in ("self_attention", "attn1"), ("cross_attention", "attn2"):
        for i in "qkv":
            names = f"{there}.to_{i}"
            yield from layer(module / (f"{here}.{i}", names, names), bias=False)
        yield from layer(module / (f"{here}.out", f"{there}.to_out.0", f"{there}.to_out.0"))
    yield from layer(module / ("feed_forward.proj_in", "ff.net.0.proj", "ff.net.0.proj"))
    yield from layer(module / ("feed_forward.proj_out", "ff.net.2", "ff.net.2"))
    for i in "123":
        yield from norm(module / f"norm{i}")


# The conditions


@table
def class_embedder_rows() -> Rows:
    """Of `ClassEmbedder`; diffusers has none."""
    yield from embedding(ModuleName() / ("embedding", "embedding"))


@table
def rescaler_rows() -> Rows:
    """Of `SpatialRescaler`; diffusers has none."""
    yield from layer(ModuleName() / ("conv", "channel_mapper"), bias=False)


@table
def transformer_rows(config: TransformerConfig) -> Rows:
    """Of `TransformerEncoder`; LDMBertModel in diffusers."""
    module = ModuleName() / ("", "transformer", "model")
    yield from embedding(module / ("tok_emb", "token_emb", "embed_tokens"))
    yield from embedding(module / ("pos_emb", "pos_emb.emb", "embed_positions"))
    for i in range(config.depth):
        here, compvis = f"layers.{i}", "attn_layers.layers"  # diffusers has the same name as here
        # in CompVis attention and MLP are separate layers, each with its norm before it
        attention = module / (here, f"{compvis}.{2 * i}", here)
        yield from norm(attention / ("norm1", "0", "self_attn_layer_norm"))
        for j in "qkv":
            names = f"attention.{j}", f"1.to_{j}", f"self_attn.{j}_proj"
            yield from layer(attention / names, bias=False)
        yield from layer(attention / ("attention.out", "1.to_out", "self_attn.out_proj"))
        mlp = module / (here, f"{compvis}.{2 * i + 1}", here)
        yield from norm(mlp / ("norm2", "0", "final_layer_norm"))
        yield from layer(mlp / ("mlp_in", "1.net.0.0", "fc1"))
        yield from layer(mlp / ("mlp_out", "1.net.2", "fc2"))
    yield from norm(module / ("norm_out", "norm", "layer_norm"))


@table
def clip_text_rows(depth: int) -> Rows:
    """Of `ClipTextTransformer`; CLIPTextModel in transformers and in CompVis files."""
    module = ModuleName() / ("", "transformer.text_model", "text_model")

    def same(here: str, there: str) -> ModuleName:
        return module / (here, there, there)

    yield from embedding(same("tok_emb", "embeddings.token_embedding"))
    yield from embedding(same("pos_emb", "embeddings.position_embedding"))
    for i in range(depth):
        here, there = f"layers.{i}", f"encoder.layers.{i}"
        yield from norm(same(f"{here}.norm1", f"{there}.layer_norm1"))
        for j in "qkv":
            yield from layer(same(f"{here}.attention.{j}", f"{there}.self_attn.{j}_proj"))
        yield from layer(same(f"{here}.attention.out", f"{there}.self_attn.out_proj"))
        yield from norm(same(f"{here}.norm2", f"{there}.layer_norm2"))
        yield from layer(same(f"{here}.mlp_in", f"{there}.mlp.fc1"))
        yield from layer(same(f"{here}.mlp_out", f"{there}.mlp.fc2"))
    yield from norm(same("norm_out", "final_layer_norm"))
