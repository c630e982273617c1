"""One training step of the second stage: the gradient of Eq. (3), or of Eq. (2) without condition.

The model, unet and condition encoder together, is given by a function that builds it; where the
latents come from (a frozen first stage, or its cached posterior) is another function. So this
module knows neither the autoencoder nor any kind of condition.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ldm_jax.diffusion.loss import LossNorm, TimestepDensity, ldm_loss
from ldm_jax.diffusion.process import Prediction
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.parameters import Build, init_params, make_graphdef

Array = jax.Array
NOISE_LEVELS = ("least_noise", "less_noise", "more_noise", "most_noise")  # quarters of the T steps


class DiffusionObjective:
    """`init` and `loss_and_grads` of the second stage, for the training engine.

    Args:
      build: keys -> module called as (z_t, t, y, rngs).
      schedule, prediction: the forward process, and what is predicted about it.
      latents: (constants, batch, key) -> scaled latents z_0 `[B, h, w, c]`.
      condition: (constants, batch, key) -> y, some of them nulled, or None for an unconditional
        model.
      loss_norm, density, min_snr_gamma: as in `ldm_loss`.
      dropout: whether the module has dropout to draw.
      frozen: parts of the parameters that are not trained, such as `tau`.
    """

    def __init__(
        self,
        build: Build,
        schedule: Schedule,
        prediction: Prediction,
        latents: Callable[[dict, dict, Array], Array],
        condition: Callable[[dict, dict, Array], Array] | None = None,
        *,
        loss_norm: LossNorm = "l2",
        density: TimestepDensity = "uniform",
        min_snr_gamma: float = 0.0,
        dropout: bool = False,
        frozen: tuple[str, ...] = (),
    ):
        self.frozen = frozen
        self.build, self.schedule, self.prediction = build, schedule, prediction
        self.latents, self.condition, self.dropout = latents, condition, dropout
        self.loss_norm, self.density, self.min_snr_gamma = loss_norm, density, min_snr_gamma

    @cached_property
    def graph(self) -> nnx.GraphDef:
        """What turns parameters into the module."""
        return make_graphdef(self.build)

    def init(self, key: Array) -> dict:
        """Fresh parameters."""
        return init_params(self.build, key)

    def model(self, params: dict) -> nnx.Module:
        """The module from its parameters."""
        return nnx.merge(self.graph, params)

    def loss(self, params: dict, constants: dict, batch: dict, key: Array) -> tuple[Array, Array]:
        """Eq. (3) of every example of a batch: (loss float32 `[B]`, t int `[B]`).

        Args:
          batch: what `latents` and `condition` read.
        """
        key_z, key_drop, key_t, key_dropout = jax.random.split(key, 4)
        z_0 = self.latents(constants, batch, key_z)
        y = None if self.condition is None else self.condition(constants, batch, key_drop)
        rngs = nnx.Rngs(dropout=key_dropout) if self.dropout else None
        model = self.model(params)
        return ldm_loss(
            lambda z_t, t: model(z_t, t, y, rngs),
            self.schedule,
            self.prediction,
            z_0,
            key_t,
            self.loss_norm,
            self.density,
            self.min_snr_gamma,
        )

    def loss_and_grads(self, params: dict, constants: dict, batch: dict, key: Array, step: Array):
        """(gradients, metrics) of the mean loss; see `loss` for the arguments."""
        del step

        def mean_loss(trained):
            loss, t = self.loss({**params, **trained}, constants, batch, key)
            return jnp.mean(loss), (loss, t)

        trained = {name: p for name, p in params.items() if name not in self.frozen}
        (mean, (loss, t)), grads = jax.value_and_grad(mean_loss, has_aux=True)(trained)
        return grads, {"loss": mean, **self._by_noise_level(loss, t)}

    def _by_noise_level(self, loss: Array, t: Array) -> dict[str, Array]:
        # The mean loss looks flat for most of a run; its parts do not. Each is a mean over the
        # whole batch, so that averages over steps stay right; the loss is the mean of the four, to
        # which a quarter whose t are drawn rarely adds little.
        edges = np.linspace(0, self.schedule.timesteps, 5)
        return {
            f"loss_{name}": 4 * jnp.mean(jnp.where((t >= low) & (t < high), loss, 0.0))
            for name, low, high in zip(NOISE_LEVELS, edges[:-1], edges[1:], strict=True)
        }
