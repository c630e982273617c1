"""The optimiser: Adam or AdamW at an absolute learning rate, with warm-up."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from ldm_jax.bounds import Count, Fraction, NonNegative, PositiveFloat


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


def make_optimiser(config: OptimiserConfig, steps: int) -> optax.GradientTransformation:
    """The optimiser of a run of `steps` updates (only the cosine schedule looks at `steps`)."""
    rate = learning_rate(config, steps)
    if config.weight_decay > 0:
        adam = optax.adamw(rate, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay)
    else:
        adam = optax.adam(rate, b1=config.b1, b2=config.b2)
    if config.clip_norm > 0:
        return optax.chain(optax.clip_by_global_norm(config.clip_norm), adam)
    return adam
