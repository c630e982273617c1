"""The optimiser: Adam, AdamW or Muon at an absolute learning rate, with warm-up."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from ldm_jax.bounds import Count, Fraction, NonNegative, PositiveFloat

Tree = Any  # nested dictionaries of arrays
# (function of each row of an array alone, the array) -> its results
Share = Callable[[Callable[[jax.Array], jax.Array], jax.Array], jax.Array]
# The layers beside pixels, latents and codes, by their paths. Muon is for those in between.
OUTERMOST = re.compile(r"(^|/)(conv_in|conv_out|quant_conv|post_quant_conv)/kernel$")
MUON_MOMENTUM = 0.95
RMS_OF_ADAM = 0.2  # of an update of Adam's, about, in units of the learning rate (arXiv:2502.16982)


@dataclass(frozen=True)
class OptimiserConfig:
    """How the weights follow the gradients. The defaults are the latent diffusion model's."""

    learning_rate: PositiveFloat = 1e-4
    """Absolute learning rate after the warm-up (never multiplied by batch size or device count)."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What follows the warm-up: the same rate, or a half cosine down to `final_rate`."""
    warmup_steps: Count = 0
    """Steps over which the rate first rises linearly, from rate/warmup_steps at the first step."""
    decay_steps: Count = 0
    """Step at which the cosine ends; 0: the last step of the run."""
    final_rate: NonNegative = 0.0
    """Learning rate at the end of the cosine."""
    kind: Literal["adam", "muon"] = "adam"
    """adam: as in the paper. muon: gradients of the matrices between the first and the last layer
    are orthogonalised (arXiv:2502.16982); embeddings, norms and biases follow Adam."""
    b1: Fraction = 0.9
    """Adam's decay of the mean gradient (the autoencoder and its discriminator use 0.5)."""
    b2: Fraction = 0.999
    """Adam's decay of the mean squared gradient (the autoencoder and discriminator use 0.9)."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay (AdamW); 0 is plain Adam."""
    clip_norm: NonNegative = 0.0
    """Gradients with a larger global norm are scaled down to it; 0 is off."""


def learning_rate(config: OptimiserConfig, steps: int) -> optax.Schedule:
    """The rate as a function of the number of updates already made, over a run of `steps`."""

    def rate(step: jax.Array) -> jax.Array:
        # step + 1: the first update already moves the weights, it is not spent at a rate of 0
        warmup = jnp.minimum(1.0, (step + 1) / max(1, config.warmup_steps))
        if config.schedule == "constant":
            return config.learning_rate * warmup
        end = config.decay_steps or steps
        progress = (step - config.warmup_steps) / max(1, end - config.warmup_steps)
        cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))
        return warmup * (config.final_rate + (config.learning_rate - config.final_rate) * cosine)

    return rate


def make_optimiser(
    config: OptimiserConfig, steps: int, share: Share = lambda function, stack: function(stack)
) -> optax.GradientTransformation:
    """The optimiser of a run of `steps` updates (only the cosine schedule looks at `steps`).

    `share` is how Muon's matrices are spread over devices, as in `sharding.share_rows`.
    """
    optimiser = _adam(config, learning_rate(config, steps))
    if config.kind == "muon":
        muon = _muon(config, learning_rate(config, steps), share)
        optimiser = optax.partition({"adam": optimiser, "muon": muon}, _kinds)
    if config.clip_norm > 0:
        return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimiser)
    return optimiser


def _adam(config: OptimiserConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    if config.weight_decay > 0:
        return optax.adamw(rate, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay)
    return optax.adam(rate, b1=config.b1, b2=config.b2)


def _muon(
    config: OptimiserConfig, rate: optax.Schedule, share: Share
) -> optax.GradientTransformation:
    """Momentum, made orthogonal, and as large as Adam's updates: one rate and decay serve both.

    A kernel `[in, out]` or `[h, w, in, out]` is the matrix `[h w in, out]`. Of m x n, m <= n, each
    number costs 20 m to 30 m FLOPs a step. Matrices of one shape are stacked, to be compiled once
    and shared among the devices.
    """

    def orthogonal(momenta: Tree, params: Tree | None = None) -> Tree:
        del params
        leaves, tree = jax.tree.flatten(momenta)
        by_shape: dict[tuple[int, int], list[int]] = {}
        for i, leaf in enumerate(leaves):
            by_shape.setdefault((leaf.size // leaf.shape[-1], leaf.shape[-1]), []).append(i)
        for shape, members in by_shape.items():
            stack = jnp.stack([leaves[i].reshape(shape) for i in members])
            for i, update in zip(members, share(_orthogonalised, stack), strict=True):
                leaves[i] = RMS_OF_ADAM * math.sqrt(max(shape)) * update.reshape(leaves[i].shape)
        return jax.tree.unflatten(tree, leaves)

    return optax.chain(
        optax.trace(MUON_MOMENTUM, nesterov=True),
        optax.stateless(orthogonal),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(rate),
    )


def _orthogonalised(stack: jax.Array) -> jax.Array:
    """Matrices `[k, m, n]` with nearly all their singular values near 1: Newton-Schulz iteration.

    It is what optax's Muon does when it has no momentum.
    """
    iteration = scale_by_muon(
        beta=0.0, nesterov=False, weight_dimension_numbers=MuonDimensionNumbers(1, 2)
    )
    return iteration.update(stack, iteration.init(stack))[0]


def _kinds(params: Tree) -> Tree:
    """muon for each matrix between the outermost layers, adam for all other weights."""

    def of_leaf(path, weight) -> str:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        is_matrix = name.endswith("kernel") and weight.ndim > 1
        return "muon" if is_matrix and not OUTERMOST.search(name) else "adam"

    return jax.tree_util.tree_map_with_path(of_leaf, params)
