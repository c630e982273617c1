"""The first-stage objective, Eq. (25) of App. G: reconstruction, adversary, regulariser.

Everything is a mean over images and pixels, where the original sums over pixels. The minimum is
the same: dividing Eq. (25) by N = H*W*C leaves mean |x - x_hat| + kl_weight * KL / N.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ldm_jax.autoencoder.perceptual import PerceptualNetwork
from ldm_jax.bounds import Count, NonNegative
from ldm_jax.layers import Array

Perceptual = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class AutoencoderLossConfig:
    """Weights of Eq. (25)."""

    l1_weight: NonNegative = 1.0
    """Weight of mean |x - x_hat|."""
    l2_weight: NonNegative = 0.0
    """Weight of mean (x - x_hat)^2; the paper has none, short runs gain from it."""
    perceptual: PerceptualNetwork = "vgg16"
    """Feature network of the perceptual distance, LPIPS; the paper's is vgg16."""
    perceptual_weight: NonNegative = 0.0
    """Weight of LPIPS; the paper has 1. 0 needs no feature network."""
    perceptual_file: str = ""
    """File with the network's published weights; '': downloaded once."""
    kl_weight: NonNegative = 1e-6
    """Weight of the KL term, summed over the latent and divided by the number of pixel values."""
    codebook_weight: NonNegative = 1.0
    """Weight of the codes' distance from the latents (VQ); the published models had 0.25."""
    commitment_weight: NonNegative = 0.25
    """Weight of the latents' distance from their codes (VQ); the published models had 1."""
    disc_weight: NonNegative = 0.5
    """Weight of the adversarial term before it is adapted; 0 trains without a discriminator."""
    max_adaptive_weight: NonNegative = 1e4
    """Upper bound of the factor by which it is adapted. The KL originals summed their loss over
    the pixel values, 196,608 of them, so that their bound of 1e4 is 0.051 here."""
    disc_start: Count = 50_001
    """Step at which the adversary enters; until then both its losses count zero."""


def reconstruction_loss(
    x: Array, x_hat: Array, config: AutoencoderLossConfig, perceptual: Perceptual | None = None
) -> Array:
    """L_rec of Eq. (25), a scalar: L1, optionally L2 and a perceptual distance.

    Args:
      x, x_hat: `[B, H, W, C]` in [-1, 1].
      perceptual: (x, x_hat) -> distances `[B]`, such as LPIPS.
    """
    error = x - x_hat
    loss = config.l1_weight * jnp.mean(jnp.abs(error)) + config.l2_weight * jnp.mean(error**2)
    if perceptual is not None:
        loss = loss + config.perceptual_weight * jnp.mean(perceptual(x, x_hat))
    return loss


def adaptive_weight(
    rec_grad: Array, gan_grad: Array, disc_weight: float, at_most: float = 1e4
) -> Array:
    """Weight that lets the adversary pull on the last layer as hard as the reconstruction does.

    Args:
      rec_grad, gan_grad: gradients of L_rec and of the generator's hinge loss with respect to the
        kernel of the decoder's last convolution.
      disc_weight: factor on top of the ratio of their norms. at_most: upper bound of that ratio.

    Returns:
      disc_weight * min(|rec_grad| / (|gan_grad| + 1e-4), at_most), a constant for differentiation.
    """
    ratio = jnp.linalg.norm(rec_grad.ravel()) / (jnp.linalg.norm(gan_grad.ravel()) + 1e-4)
    return jax.lax.stop_gradient(disc_weight * jnp.minimum(ratio, at_most))
