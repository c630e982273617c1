"""One training step of the first stage: both players' gradients of Eq. (25) from one forward pass.

The parameters are `{'autoencoder': ..., 'discriminator': ...}` (the latter only when there is an
adversary). The autoencoder's part descends L_rec + L_reg + weight * L_adv, the discriminator's part
descends its own hinge loss on the same reconstructions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from ldm_jax.autoencoder.discriminator import (
    Discriminator,
    DiscriminatorConfig,
    hinge_discriminator,
    hinge_generator,
)
from ldm_jax.autoencoder.kl import kl_to_standard_normal, sample_posterior, split_moments
from ldm_jax.autoencoder.loss import (
    AutoencoderLossConfig,
    Perceptual,
    adaptive_weight,
    reconstruction_loss,
)
from ldm_jax.autoencoder.network import Autoencoder, AutoencoderConfig
from ldm_jax.autoencoder.perceptual import SMALLEST_SIZE, PerceptualNetwork, lpips
from ldm_jax.autoencoder.vq import (
    code_counts,
    nearest_code,
    perplexity,
    straight_through,
    usage,
    vq_loss,
)
from ldm_jax.layers import Array, avg_pool2x
from ldm_jax.parameters import init_params, make_graphdef


def to_model_range(image: Array) -> Array:
    """Bytes 0..255 -> float32 in [-1, 1]."""
    return image.astype(jnp.float32) / 127.5 - 1.0


def to_bytes(x: Array) -> Array:
    """Floats, clipped to [-1, 1] -> bytes 0..255, rounded to nearest."""
    return jnp.round((jnp.clip(x, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)


class AutoencoderObjective:
    """`init` and `loss_and_grads` of the first stage, for the training engine.

    Args:
      network, loss, discriminator: sizes and weights; `loss.disc_weight = 0` leaves the
        discriminator out of the model altogether.
      channels: image channels.
      remat: of the autoencoder's blocks.
      dtype: computing type of the networks.
      init_gain: factor on the autoencoder's initial weights.
      freeze_encoder: the decoder alone learns; the latents stay as they are.
      perceptual: (weights, network, x, x_hat) -> distances `[B]`.
    """

    def __init__(
        self,
        network: AutoencoderConfig,
        loss: AutoencoderLossConfig,
        discriminator: DiscriminatorConfig,
        channels: int,
        *,
        remat: bool = False,
        dtype=jnp.float32,
        init_gain: float = 1.0,
        freeze_encoder: bool = False,
        perceptual: Callable[[dict, PerceptualNetwork, Array, Array], Array] = lpips,
    ):
        self.network, self.loss, self.init_gain = network, loss, init_gain
        self.freeze_encoder, self.perceptual = freeze_encoder, perceptual
        self._builders = {
            "autoencoder": lambda rngs: Autoencoder(
                network, channels, remat=remat, dtype=dtype, rngs=rngs
            )
        }
        if loss.disc_weight > 0:
            self._builders["discriminator"] = lambda rngs: Discriminator(
                discriminator, channels, dtype=dtype, rngs=rngs
            )
        self.graphs = {name: make_graphdef(build) for name, build in self._builders.items()}

    def init(self, key: Array) -> dict:
        """Fresh parameters of the players."""
        keys = jax.random.split(key, len(self._builders))
        params = {
            name: init_params(build, k)
            for (name, build), k in zip(self._builders.items(), keys, strict=True)
        }

        def gained(path, weights):
            return weights * self.init_gain if path[-1].key == "kernel" else weights

        fresh_autoencoder = jax.tree_util.tree_map_with_path(gained, params["autoencoder"])
        return params | {"autoencoder": fresh_autoencoder}

    def autoencoder(self, params: dict) -> Autoencoder:
        """The module from its own parameters (`params['autoencoder']`)."""
        return nnx.merge(self.graphs["autoencoder"], params)

    def loss_and_grads(self, params: dict, constants: dict, batch: dict, key: Array, step: Array):
        """Gradients for every player, and the health of the run.

        Args:
          params: as from `init`.
          constants: `perceptual`, the weights of LPIPS, where it has a weight in the loss.
          batch: `image`, bytes `[B, H, W, C]`.
          key: of this step. step: number of steps done, int32.

        Returns:
          (grads, metrics): grads has the tree of params; metrics are scalars.
        """
        config = self.loss
        x = to_model_range(batch["image"])
        key_z, key_dropout = jax.random.split(key)

        def forward(p):  # Sec. 3.1: x -> E(x) -> z -> D(z)
            model = self.autoencoder(p)
            rngs = nnx.Rngs(dropout=key_dropout) if self.network.dropout else None
            encoded = model.encode(x, rngs)
            z, regulariser, health = self._bottleneck(model, encoded, key_z, x)
            if self.freeze_encoder:  # its gradients, and the codebook's, are 0
                encoded, z, regulariser = jax.lax.stop_gradient((encoded, z, regulariser))
            h, half = model.decode_features(z, rngs), None
            if config.equivariance_weight > 0:  # of what stage 2 learns: before D quantises
                latents = encoded if self.network.bottleneck == "vq" else z
                half = model.decode(avg_pool2x(latents), rngs)
            return (model.decoder.conv_out(h), half, regulariser), (h, health)

        # The gradient is assembled from its parts at x_hat, so that the weight of the adversary,
        # which depends on two of those parts, costs one convolution and no second backward pass.
        (x_hat, x_hat_half, regulariser), pull_back, (h, health) = jax.vjp(
            forward, params["autoencoder"], has_aux=True
        )
        rec, rec_pull = jax.value_and_grad(
            lambda y: reconstruction_loss(x, y, config, self._perceptual(constants))
        )(x_hat)
        metrics = {
            "loss": rec + regulariser,
            "rec": rec,
            "psnr": jnp.mean(-10.0 * jnp.log10(jnp.mean((x - x_hat) ** 2, axis=(1, 2, 3)) / 4.0)),
            **health,
        }
        grads, pull, half_pull = {}, rec_pull, None
        if (weight := config.equivariance_weight) > 0:
            half, half_pull = self._half_size(constants, x, x_hat_half)
            metrics |= {"loss": metrics["loss"] + weight * half, "rec_half_size": half}
            half_pull = weight * half_pull
        if config.disc_weight > 0:
            adversary, gan_pull, disc_metrics = self._adversary(params, x, x_hat, step)
            last_layer = self._last_layer_grads(params["autoencoder"], h, rec_pull, gan_pull)
            weight = adaptive_weight(*last_layer, config.disc_weight, config.max_adaptive_weight)
            on = (step >= config.disc_start).astype(jnp.float32)
            pull = rec_pull + on * weight * gan_pull
            grads["discriminator"] = jax.tree.map(lambda g: on * g, adversary)
            metrics |= disc_metrics | {"adaptive_weight": weight}
        (grads["autoencoder"],) = pull_back((pull, half_pull, jnp.ones_like(regulariser)))
        return grads, metrics

    def _bottleneck(self, model: Autoencoder, encoded: Array, key: Array, x: Array):
        """(z for the decoder, L_reg of Eq. (25) with its weight, what tells of its health)."""
        config = self.loss
        if self.network.bottleneck == "vq":
            indices = nearest_code(encoded, model.codebook[...])
            z_q = model.codebook[...][indices]
            counts = code_counts(indices, self.network.codebook_size)
            loss = vq_loss(encoded, z_q, config.codebook_weight, config.commitment_weight)
            health = {
                "vq_loss": loss,
                "codebook_usage": usage(counts),
                "codebook_perplexity": perplexity(counts),
                "latent_mean": jnp.mean(encoded),
                "latent_std": jnp.std(encoded),
            }
            return straight_through(encoded, z_q), loss, health
        mean, logvar = split_moments(encoded)
        kl = kl_to_standard_normal(encoded).mean()
        health = {
            "kl_per_element": kl / mean[0].size,
            "latent_mean": jnp.mean(mean),
            "latent_std": jnp.sqrt(jnp.var(mean) + jnp.mean(jnp.exp(logvar))),
        }
        return sample_posterior(encoded, key), config.kl_weight / x[0].size * kl, health

    def _half_size(self, constants: dict, x: Array, x_hat: Array) -> tuple[Array, Array]:
        """(L_rec of images reduced to half the size, its gradient at x_hat, which has that size).

        Of the transformations that EQ-VAE (arXiv:2502.09509) draws from, this is the one that scale
        equivariance (2502.14831) keeps: nothing is drawn, and D decodes a quarter of the positions.
        LPIPS is left out where its network needs larger images.
        """
        large_enough = min(x_hat.shape[1:3]) >= SMALLEST_SIZE[self.loss.perceptual]
        perceptual = self._perceptual(constants) if large_enough else None
        return jax.value_and_grad(
            lambda y: reconstruction_loss(avg_pool2x(x), y, self.loss, perceptual)
        )(x_hat)

    def _perceptual(self, constants: dict) -> Perceptual | None:
        if self.loss.perceptual_weight == 0:
            return None
        return partial(self.perceptual, constants["perceptual"], self.loss.perceptual)

    def _adversary(self, params: dict, x: Array, x_hat: Array, step: Array):
        def judge(p, y):
            return nnx.merge(self.graphs["discriminator"], p)(y)

        def disc_loss(p):
            real, fake = judge(p, x), judge(p, jax.lax.stop_gradient(x_hat))
            return hinge_discriminator(real, fake), (real.mean(), fake.mean())

        gan, gan_pull = jax.value_and_grad(
            lambda y: hinge_generator(judge(params["discriminator"], y))
        )(x_hat)
        (loss, (real, fake)), grads = jax.value_and_grad(disc_loss, has_aux=True)(
            params["discriminator"]
        )
        metrics = {"gan": gan, "disc_loss": loss, "logits_real": real, "logits_fake": fake}
        return grads, gan_pull, metrics

    def _last_layer_grads(self, params: dict, h: Array, *pulls: Array) -> list[Array]:
        conv_out = self.autoencoder(params).decoder.conv_out

        def last_layer(kernel):
            y = jax.lax.conv_general_dilated(
                h, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            return y + conv_out.bias[None, None, None]

        _, pull_back = jax.vjp(last_layer, conv_out.kernel[...])
        return [pull_back(pull)[0] for pull in pulls]
