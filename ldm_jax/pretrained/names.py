"""The names of every parameter in the published files: ours, CompVis', diffusers'.

One function a network gives its rows, a row for each array of a CompVis file. It walks the levels
and blocks as the network itself does, so a configuration is all it needs. Names are relative to
the network. Diffusers has the same arrays under other names, with q, k and v always apart.
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
from ldm_jax.pretrained.entry import At, Rows, embedding, entry, fused, layer, norm, table
from ldm_jax.pretrained.layout import Layout

# The first stage


@table
def autoencoder_entries(config: AutoencoderConfig) -> Rows:
    """Of `Autoencoder`; AutoencoderKL and VQModel in diffusers."""
    yield from _encoder(At() / "encoder", config)
    yield from layer(At() / "quant_conv")
    if config.bottleneck == "vq":
        yield entry(At() / ("codebook", "quantize.embedding.weight", "quantize.embedding.weight"))
    yield from layer(At() / "post_quant_conv")
    yield from _decoder(At() / "decoder", config)


def _encoder(at: At, config: AutoencoderConfig) -> Rows:
    yield from layer(at / "conv_in")
    c, n = config.channels, count()
    for level, mult in enumerate(config.channel_mult):
        if level > 0:  # ours begins a level, theirs ends the one before
            names = f"down.{level - 1}.downsample", f"down_blocks.{level - 1}.downsamplers.0"
            yield from layer(at / (f"down.{next(n)}", *names) / "conv")
        names = "down", f"down.{level}", f"down_blocks.{level}"
        yield from _level(at / names, n, level, config.num_res_blocks, c, config)
        c = config.channels * mult
    yield from _middle(at, config)
    yield from _last(at)


def _decoder(at: At, config: AutoencoderConfig) -> Rows:
    yield from layer(at / "conv_in")
    yield from _middle(at, config)
    c, n = config.channels * config.channel_mult[-1], count()
    for k, level in enumerate(reversed(range(len(config.channel_mult)))):
        names = f"up.{level}", f"up_blocks.{k}"  # CompVis counts from the full resolution
        yield from _level(at / ("up", *names), n, level, config.num_res_blocks + 1, c, config)
        c = config.channels * config.channel_mult[level]
        if level > 0:
            upsample = at / ("up", *names) / (str(next(n)), "upsample", "upsamplers.0")
            yield from layer(upsample / "conv")
    yield from _last(at)


def _level(
    at: At, n: Iterator[int], level: int, blocks: int, c_in: int, config: AutoencoderConfig
) -> Rows:
    """ResBlocks with their attention; ours stand in one list, n counts it."""
    grows = c_in != config.channels * config.channel_mult[level]
    for i in range(blocks):
        names = f"block.{i}", f"resnets.{i}"
        yield from _plain_res_block(at / (str(next(n)), *names), skip=grows and i == 0)
        if 2**level in config.attention_factors:
            yield from _plain_attention(at / (str(next(n)), f"attn.{i}", f"attentions.{i}"))


def _middle(at: At, config: AutoencoderConfig) -> Rows:
    at, last = at / ("middle", "mid", "mid_block"), 1 + config.mid_attention
    yield from _plain_res_block(at / ("0", "block_1", "resnets.0"), skip=False)
    if config.mid_attention:
        yield from _plain_attention(at / ("1", "attn_1", "attentions.0"))
    yield from _plain_res_block(at / (str(last), "block_2", "resnets.1"), skip=False)


def _last(at: At) -> Rows:
    yield from norm(at / ("norm_out", "norm_out", "conv_norm_out"))
    yield from layer(at / "conv_out")


def _plain_res_block(at: At, *, skip: bool) -> Rows:
    for i in "12":
        yield from norm(at / f"norm{i}")
        yield from layer(at / f"conv{i}")
    if skip:
        yield from layer(at / ("skip", "nin_shortcut", "conv_shortcut"))


def _plain_attention(at: At) -> Rows:
    yield from norm(at / ("norm", "norm", "group_norm"))
    for i in "qkv":
        yield from layer(at / (f"attention.{i}", i, f"to_{i}"), ones=2)
    yield from layer(at / ("attention.out", "proj_out", "to_out.0"), ones=2)


@table
def discriminator_entries(config: DiscriminatorConfig) -> Rows:
    """Of `Discriminator`; diffusers has none."""
    yield from layer(At() / ("conv_in", "main.0"))
    for i in range(config.layers):  # there a layer is three: convolution, norm, activation
        yield from layer(At() / (f"convs.{i}", f"main.{3 * i + 2}"), bias=False)
        yield from norm(At() / (f"norms.{i}", f"main.{3 * i + 3}"))
    yield from layer(At() / ("conv_out", f"main.{3 * config.layers + 2}"))


# The diffusion model

Attention = Callable[[At, int], Rows]  # (where, channels) -> its rows


@table
def unet_entries(
    config: UNetConfig,
    *,
    cross_attention: bool,
    class_labels: bool = False,
    grouped_qkv: bool = False,
) -> Rows:
    """Of `UNet`; UNet2DModel or, with cross-attention, UNet2DConditionModel in diffusers.

    Args:
      config: the sizes.
      cross_attention: it has a `context_dim`, so it attends by spatial transformers.
      class_labels: it has `num_classes`.
      grouped_qkv: a CompVis file has all q before all k before all v
        (`use_new_attention_order`); otherwise they take turns head by head, as in every published
        model. The file does not tell.
    """
    if cross_attention:
        attention = partial(_spatial_transformer, depth=config.transformer_depth)
    else:
        attention = partial(_self_attention, config=config, grouped_qkv=grouped_qkv)
    yield from _contracting(At(), config, attention, class_labels)
    yield from _expanding(At(), config, attention)
    yield from norm(At() / ("norm_out", "out.0", "conv_norm_out"))
    yield from layer(At() / ("conv_out", "out.2", "conv_out"))


@table
def classifier_entries(
    config: UNetConfig, pool: Literal["mean", "attention"], *, grouped_qkv: bool = False
) -> Rows:
    """Of `NoisyLatentClassifier`; diffusers has none. `grouped_qkv` as in `unet_entries`."""
    attention = partial(_self_attention, config=config, grouped_qkv=grouped_qkv)
    yield from _contracting(At(diffusers=None), config, attention, class_labels=False)
    yield from norm(At() / ("norm_out", "out.0"))
    if pool == "mean":
        yield from layer(At() / ("head", "out.3"), ones=2)
    else:
        at = At() / ("head", "out.2")
        yield entry(at / ("position", "positional_embedding"), layout=Layout(transposed=True))
        # grouped in any case
        yield from fused([at / (f"attention.{i}", "qkv_proj") for i in "qkv"], turns=1)
        yield from layer(at / ("attention.out", "c_proj"), ones=1)


def _contracting(at: At, config: UNetConfig, attention: Attention, class_labels: bool) -> Rows:
    yield from layer(at / ("time_in", "time_embed.0", "time_embedding.linear_1"))
    yield from layer(at / ("time_out", "time_embed.2", "time_embedding.linear_2"))
    if class_labels:
        yield from embedding(at / ("label", "label_emb", "class_embedding"))
    yield from layer(at / ("conv_in", "input_blocks.0.0", "conv_in"))
    c, n = config.channels, count()
    for level, mult in enumerate(config.channel_mult):
        if level > 0:
            i, theirs = next(n), f"down_blocks.{level - 1}.downsamplers.0"
            yield from _resample(
                at / (f"down.{i}", f"input_blocks.{i + 1}.0", theirs), config, "op"
            )
        for j in range(config.num_res_blocks):
            i, c_in, c = next(n), c, config.channels * mult
            block = at / (f"down.{i}", f"input_blocks.{i + 1}", f"down_blocks.{level}")
            yield from _res_block(block / ("res", "0", f"resnets.{j}"), skip=c_in != c)
            if 2**level in config.attention_factors:
                yield from attention(block / ("attention", "1", f"attentions.{j}"), c)
    mid = at / ("mid", "middle_block", "mid_block")
    yield from _res_block(mid / ("0.res", "0", "resnets.0"), skip=False)
    yield from attention(mid / ("0.attention", "1", "attentions.0"), c)
    yield from _res_block(mid / ("1", "2", "resnets.1"), skip=False)


def _expanding(at: At, config: UNetConfig, attention: Attention) -> Rows:
    last, n = len(config.channel_mult) - 1, count()
    c, skips = config.channels * config.channel_mult[last], _skip_channels(config)
    for level in range(last, -1, -1):
        for j in range(config.num_res_blocks + 1):
            i, c_in, c = next(n), c + skips.pop(), config.channels * config.channel_mult[level]
            block = at / (f"up.{i}", f"output_blocks.{i}", f"up_blocks.{last - level}")
            yield from _res_block(block / ("res", "0", f"resnets.{j}"), skip=c_in != c)
            attends = 2**level in config.attention_factors
            if attends:
                yield from attention(block / ("attention", "1", f"attentions.{j}"), c)
            if level > 0 and j == config.num_res_blocks:
                names = "resample", str(1 + attends), "upsamplers.0"
                yield from _resample(block / names, config, "conv")


def _skip_channels(config: UNetConfig) -> list[int]:
    """Channels of what every block on the way up is given; it pops from the end."""
    skips = [config.channels]
    for level, mult in enumerate(config.channel_mult):
        skips += skips[-1:] * (level > 0) + [config.channels * mult] * config.num_res_blocks
    return skips


def _resample(at: At, config: UNetConfig, name: str) -> Rows:
    if config.resample_in_res_blocks:
        return _res_block(at, skip=False)
    return layer(at / ("conv", name, "conv"))


def _res_block(at: At, *, skip: bool) -> Rows:
    yield from norm(at / ("norm1", "in_layers.0", "norm1"))
    yield from layer(at / ("conv1", "in_layers.2", "conv1"))
    yield from layer(at / ("emb", "emb_layers.1", "time_emb_proj"))
    yield from norm(at / ("norm2", "out_layers.0", "norm2"))
    yield from layer(at / ("conv2", "out_layers.3", "conv2"))
    if skip:
        yield from layer(at / ("skip", "skip_connection", "conv_shortcut"))


def _self_attention(at: At, channels: int, *, config: UNetConfig, grouped_qkv: bool) -> Rows:
    yield from norm(at / ("norm", "norm", "group_norm"))
    qkv = [at / (f"attention.{i}", "qkv", f"to_{i}") for i in "qkv"]
    yield from fused(qkv, turns=1 if grouped_qkv else config.num_heads(channels))
    yield from layer(at / ("attention.out", "proj_out", "to_out.0"), ones=1)


def _spatial_transformer(at: At, channels: int, *, depth: int) -> Rows:
    yield from norm(at / "norm")
    yield from layer(at / "proj_in")
    for i in range(depth):
        names = f"transformer_blocks.{i}"
        yield from _transformer_block(at / (f"blocks.{i}", names, names))
    yield from layer(at / "proj_out")


def _transformer_block(at: At) -> Rows:
    for ours, theirs in ("self_attention", "attn1"), ("cross_attention", "attn2"):
        for i in "qkv":
            names = f"{theirs}.to_{i}"
            yield from layer(at / (f"{ours}.{i}", names, names), bias=False)
        yield from layer(at / (f"{ours}.out", f"{theirs}.to_out.0", f"{theirs}.to_out.0"))
    yield from layer(at / ("feed_forward.proj_in", "ff.net.0.proj", "ff.net.0.proj"))
    yield from layer(at / ("feed_forward.proj_out", "ff.net.2", "ff.net.2"))
    for i in "123":
        yield from norm(at / f"norm{i}")


# The conditions


@table
def class_embedder_entries() -> Rows:
    """Of `ClassEmbedder`; diffusers has none."""
    yield from embedding(At() / ("embedding", "embedding"))


@table
def rescaler_entries() -> Rows:
    """Of `SpatialRescaler`; diffusers has none."""
    yield from layer(At() / ("conv", "channel_mapper"), bias=False)


@table
def transformer_entries(config: TransformerConfig) -> Rows:
    """Of `TransformerEncoder`; LDMBertModel in diffusers."""
    at = At() / ("", "transformer", "model")
    yield from embedding(at / ("tok_emb", "token_emb", "embed_tokens"))
    yield from embedding(at / ("pos_emb", "pos_emb.emb", "embed_positions"))
    for i in range(config.depth):
        ours, theirs, diffusers = f"layers.{i}", "attn_layers.layers", f"layers.{i}"
        # there attention and MLP are layers of their own, each with its norm before it
        attention = at / (ours, f"{theirs}.{2 * i}", diffusers)
        yield from norm(attention / ("norm1", "0", "self_attn_layer_norm"))
        for j in "qkv":
            names = f"attention.{j}", f"1.to_{j}", f"self_attn.{j}_proj"
            yield from layer(attention / names, bias=False)
        yield from layer(attention / ("attention.out", "1.to_out", "self_attn.out_proj"))
        mlp = at / (ours, f"{theirs}.{2 * i + 1}", diffusers)
        yield from norm(mlp / ("norm2", "0", "final_layer_norm"))
        yield from layer(mlp / ("mlp_in", "1.net.0.0", "fc1"))
        yield from layer(mlp / ("mlp_out", "1.net.2", "fc2"))
    yield from norm(at / ("norm_out", "norm", "layer_norm"))


@table
def clip_text_entries(depth: int) -> Rows:
    """Of `ClipTextTransformer`; CLIPTextModel in transformers, which CompVis' files hold too."""
    at = At() / ("", "transformer.text_model", "text_model")

    def same(ours: str, theirs: str) -> At:
        return at / (ours, theirs, theirs)

    yield from embedding(same("tok_emb", "embeddings.token_embedding"))
    yield from embedding(same("pos_emb", "embeddings.position_embedding"))
    for i in range(depth):
        ours, theirs = f"layers.{i}", f"encoder.layers.{i}"
        yield from norm(same(f"{ours}.norm1", f"{theirs}.layer_norm1"))
        for j in "qkv":
            yield from layer(same(f"{ours}.attention.{j}", f"{theirs}.self_attn.{j}_proj"))
        yield from layer(same(f"{ours}.attention.out", f"{theirs}.self_attn.out_proj"))
        yield from norm(same(f"{ours}.norm2", f"{theirs}.layer_norm2"))
        yield from layer(same(f"{ours}.mlp_in", f"{theirs}.mlp.fc1"))
        yield from layer(same(f"{ours}.mlp_out", f"{theirs}.mlp.fc2"))
    yield from norm(same("norm_out", "final_layer_norm"))
