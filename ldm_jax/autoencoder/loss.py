"""The first-stage objective, Eq. (25) of App. G: reconstruction, adversary, regulariser.

All terms are means over images and pixels; the original sums over pixels. The minimum is the same:
Eq. (25) divided by N = H*W*C is mean |x - x_hat| + kl_weight * KL / N.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp

from ldm_jax.autoencoder.perceptual import PerceptualNetwork
from ldm_jax.bounds import Count, NonNegative
from ldm_jax.layers import Array
from ldm_jax.resuming import OnResume

Perceptual = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class AutoencoderLossConfig:
    """Weights of Eq. (25)."""

    l1_weight: NonNegative = 1.0
    """Weight of mean |x - x_hat|."""
    l2_weight: NonNegative = 0.0
    """Weight of mean (x - x_hat)^2. It is not in the paper, but improves short runs."""
    perceptual: PerceptualNetwork = "vgg16"
    """Network of the perceptual distance LPIPS; the paper uses vgg16."""
    perceptual_weight: NonNegative = 0.0
    """Weight of LPIPS; 1 in the paper. 0: the network is not needed."""
    perceptual_file: Annotated[str, OnResume.FREE] = ""
    """File with published weights of the network; '': they are downloaded once."""
    equivariance_weight: NonNegative = 0.0
    """Weight of L_rec of half-size images against what half-size latents decode to (scale
    equivariance, arXiv:2502.14831, 2502.09509): for latents that stage 2 learns faster; 0: none."""
    kl_weight: NonNegative = 1e-6
    """Weight of the KL term, summed over the latent and divided by the number of pixel values."""
    codebook_weight: NonNegative = 1.0
    """Weight of the codebook loss (VQ); 0.25 in the published models."""
    commitment_weight: NonNegative = 0.25
    """Weight of the commitment loss (VQ); 1 in the published models."""
    disc_weight: NonNegative = 0.5
    """Weight of the adversarial loss, times the adaptive weight; 0: there is no discriminator."""
    max_adaptive_weight: NonNegative = 1e4
    """Upper bound of the adaptive weight. The published KL models sum their loss over 196,608 pixel
    values, so their bound of 1e4 corresponds to 0.051 here."""
    disc_start: Count = 50_001
    """Step from which the adversarial loss and the discriminator loss count; before, they are 0."""


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
    """Weight that balances the gradients of adversary and reconstruction at the last layer.

    Args:
      rec_grad, gan_grad: gradients of L_rec and of the generator's hinge loss with respect to the
        kernel of the decoder's last convolution.
      disc_weight: factor on the ratio of their norms.
      at_most: upper bound of that ratio.

    Returns:
      disc_weight * min(|rec_grad| / (|gan_grad| + 1e-4), at_most); no gradient passes through it.
    """
    ratio = jnp.linalg.norm(rec_grad.ravel()) / (jnp.linalg.norm(gan_grad.ravel()) + 1e-4)
    return jax.lax.stop_gradient(disc_weight * jnp.minimum(ratio, at_most))
