"""One training step of the classifier of noisy latents (App. C): its cross-entropy."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from ldm_jax.diffusion.classifier import log_likelihood
from ldm_jax.diffusion.process import q_sample
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.diffusion.step import NOISE_LEVELS
from ldm_jax.parameters import Build, init_params, make_graphdef

Array = jax.Array


class ClassifierObjective:
    """`init` and `loss_and_grads` of the classifier, for the training engine.

    Args:
      build: keys -> module called as (z_t, t, rngs), which returns logits.
      schedule: the forward process, that of the diffusion model.
      latents: (constants, batch, key) -> scaled latents z_0 `[B, h, w, c]`, its too.
      dropout: whether the module has dropout to draw.
    """

    def __init__(
        self,
        build: Build,
        schedule: Schedule,
        latents: Callable[[dict, dict, Array], Array],
        *,
        dropout: bool = False,
    ):
        self.build, self.schedule, self.latents, self.dropout = build, schedule, latents, dropout
        self.graph = make_graphdef(build)

    def init(self, key: Array) -> dict:
        """Fresh parameters."""
        return init_params(self.build, key)

    def model(self, params: dict) -> nnx.Module:
        """The module from its parameters."""
        return nnx.merge(self.graph, params)

    def judge(
        self,
        params: dict,
        constants: dict,
        batch: dict,
        key: Array,
        t: Array | None = None,
        *,
        dropout: bool = False,
    ) -> tuple[Array, Array, Array]:
        """-log p_Phi(y|z_t), whether y is the likeliest class, and t: each `[B]`.

        Args:
          batch: `condition`, the classes y, int `[B]`, and what `latents` reads.
          key: draws all that is drawn. t: int `[B]`; None: uniform. dropout: whether it acts.
        """
        key_z, key_t, key_eps, key_dropout = jax.random.split(key, 4)
        z_0, y = self.latents(constants, batch, key_z), batch["condition"]
        if t is None:
            t = jax.random.randint(key_t, y.shape, 0, self.schedule.timesteps)
        eps = jax.random.normal(key_eps, z_0.shape)
        rngs = nnx.Rngs(dropout=key_dropout) if dropout else None
        logits = self.model(params)(q_sample(self.schedule, z_0, t, eps), t, rngs)
        return -log_likelihood(logits, y), jnp.argmax(logits, axis=-1) == y, t

    def loss_and_grads(self, params: dict, constants: dict, batch: dict, key: Array, step: Array):
        """(gradients, metrics) of the mean cross-entropy; see `judge` for the arguments."""
        del step

        def mean_loss(p):
            loss, right, t = self.judge(p, constants, batch, key, dropout=self.dropout)
            return jnp.mean(loss), (right, t)

        (loss, (right, t)), grads = jax.value_and_grad(mean_loss, has_aux=True)(params)
        return grads, {"loss": loss, **accuracies(right, t, self.schedule.timesteps)}


def accuracies(right: Array, t: Array, timesteps: int) -> dict[str, Array]:
    """The share of right answers, of all and in each quarter of the T timesteps (0 of none)."""
    quarter = 4 * t // timesteps
    shares = {"accuracy": jnp.mean(right)}
    for i, name in enumerate(NOISE_LEVELS):
        inside = quarter == i
        shares[f"accuracy_{name}"] = jnp.sum(right & inside) / jnp.maximum(jnp.sum(inside), 1)
    return shares
