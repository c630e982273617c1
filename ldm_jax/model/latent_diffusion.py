"""A latent diffusion model as one object: both stages, condition, schedule, sampler, weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from PIL import Image

from ldm_jax import plots
from ldm_jax.autoencoder.network import Autoencoder
from ldm_jax.data.loader import Batch
from ldm_jax.diffusion.unet import UNet
from ldm_jax.errors import UserError
from ldm_jax.experiments.config import Experiment
from ldm_jax.model.attention import attention_maps
from ldm_jax.model.conditions import with_size_of
from ldm_jax.model.data_info import DataInfo
from ldm_jax.model.networks import Networks
from ldm_jax.model.weights import Placement, Weights
from ldm_jax.sampling.inputs import SamplingInputs
from ldm_jax.sampling.sample import guidance_of
from ldm_jax.sampling.settings import Geometry, SamplingSettings, unguided
from ldm_jax.training.sharding import fetch, map_batches
from ldm_jax.training.step import count_parameters

Array = jax.Array
CONDITIONS_AT_ONCE = 64  # conditions encoded at a time, as they may be images


class LatentDiffusion(Networks):
    """A model that encodes, decodes and samples: `Networks` with weights.

    Args:
      config: the experiment that the model was trained by.
      info: facts of its training data.
      weights: None for a model that is yet to be trained.
      name: to be shown in its `repr`.
    """

    def __init__(
        self, config: Experiment, info: DataInfo, weights: Weights | None = None, name: str = ""
    ):
        super().__init__(config, info)
        self.name, self.placement = name, weights and Placement(weights, config.mesh.tensor)
        self._jit = {
            "encode": jax.jit(self.encode_image),
            "decode": jax.jit(self.decode_image),
            "reconstruct": jax.jit(self.first.reconstruct),
            "condition": self.condition and jax.jit(self.condition.encode),
            "predict": jax.jit(self._predict),
        }

    # What the model is

    @property
    def parameters(self) -> dict:
        """All parameters: `autoencoder`, `unet` and, where there is an encoder, `tau`."""
        weights = self.weights
        return {"autoencoder": weights.constants["autoencoder"], **(weights.params or {})}

    @property
    def scale_factor(self) -> float:
        """What latents are multiplied with before the diffusion model sees them (App. G)."""
        return float(self.weights.constants["scale_factor"])

    @property
    def unet(self) -> UNet:
        """The UNet as a module with its weights: (z_t, t, context, label) -> prediction."""
        return self.network.unet

    @property
    def network(self) -> nnx.Module:
        """eps_theta with tau_theta as a module with its weights: (z_t, t, y) -> prediction."""
        return self.objective.model(self._diffusion_params())

    @property
    def autoencoder(self) -> Autoencoder:
        """The first stage as a module with its weights."""
        if self.first.bottleneck == "none":
            raise UserError("this model works on pixels: it has no autoencoder")
        return self.first.objective.autoencoder(self.weights.constants["autoencoder"])

    @property
    def settings(self) -> SamplingSettings:
        """How it is sampled unless told otherwise."""
        settings = self.config.sampling
        return settings if self.guidable else unguided(settings)

    def geometry(self, settings: SamplingSettings | None = None) -> Geometry:
        """The size of the images that these settings give. UserError for one that cannot be."""
        settings = settings or self.settings
        geometry = settings.geometry(
            self.config.data.size,
            self.first.f,
            self.config.diffusion.unet.factor,
            self.first.latent_channels,
        )
        sides = (min(side, settings.tile or side) for side in geometry[:2])
        return geometry._replace(at_once=self.first.rows_at_once(*sides, geometry.at_once))

    def with_weights(self, weights: Weights, mesh: Mesh | None = None) -> LatentDiffusion:
        """The same model, sharing its compiled programs, with other weights.

        Args:
          mesh: the devices that hold the weights already; None: they are placed when needed.
        """
        other = copy.copy(self)
        other.placement = Placement(weights, self.config.mesh.tensor, mesh)
        return other

    def __repr__(self) -> str:
        h, w, c = self.geometry().shape
        size, kind = self.config.data.size, self.info.condition
        lines = [f"LatentDiffusion {self.name}".rstrip()]
        first = f"{self.first.bottleneck}, f = {self.first.f}, latents {h}x{w}x{c}"
        first = "none, works on pixels" if self.first.bottleneck == "none" else first
        lines += [f"  images       {size}x{size}x{self.info.channels}, condition: {kind}"]
        lines += [f"  first stage  {first}"]
        if self.placement is not None:
            counts = [f"{name} {count_parameters(p):,}" for name, p in self.parameters.items()]
            lines += [f"  parameters   {', '.join(counts)}"]
        s = self.settings
        lines += [f"  sampling     {s.sampler}, {s.steps} steps, guidance {s.guidance:g}"]
        return "\n".join(lines)

    # With its own weights

    def sample(
        self,
        condition: Any = None,
        *,
        negative: Any = None,
        num_images: int = 1,
        settings: SamplingSettings | None = None,
        trajectory: bool = False,
        progress: str | None = None,
        **changes: Any,
    ) -> np.ndarray:
        """Samples images: uint8 `[n, H, W, C]`, `num_images` for each condition.

            model.sample(["a red ball", "a blue cube"], steps=10, guidance=3.0, seed=0)

        Args:
          condition: what the model was trained on. Prompts, or names or numbers of classes (one or
            several); a layout {"objects": [{"label": ..., "box": [left, top, right, bottom]}]}; a
            semantic map `[H, W]`; a low-resolution image uint8 `[h, w, C]`; for in-painting
            {"image": uint8 `[H, W, C]`, "mask": bool `[H, W]`}; or several of any. None: nothing,
            where the model is unconditional or was trained without its condition, too.
          negative: what guidance leads away from, one for all or one for each condition, such as a
            negative prompt; None: the null condition.
          settings: how to sample; None: `self.settings`. changes: fields of it to change.
          trajectory: the estimates of z_0 at every step instead: uint8 `[n, S, H, W, C]`.
          progress: title of a progress bar.

        Raises:
          UserError: a condition or settings that do not fit the model.
        """
        settings = replace(settings or self.settings, **changes)
        conditions = self.parse(condition)
        if condition is None and self.guidable:
            settings = unguided(settings)  # there is nothing to guide towards
        settings = with_size_of(conditions, settings, self.first.f)
        self.geometry(settings)  # before anything is encoded
        inputs = self.inputs(
            conditions, num_images, None if negative is None else self.parse(negative)
        )
        images = np.concatenate(
            list(self.batches(inputs, settings, trajectory=trajectory, progress=progress))
        )
        return self.composite(conditions, images, num_images)

    def parse(self, condition: Any) -> Batch | None:
        """A condition as `sample` takes it -> arrays with a row for each; None if unconditional."""
        if self.condition is None:
            if condition is not None:
                raise UserError("this model is unconditional: it takes no condition")
            return None
        if condition is None and not self.guidable:
            raise UserError(f"this model needs its condition: {self.info.condition}")
        if condition is None:
            return {"condition": self.condition.null[None]}
        conditions, c = self.condition.parse(condition), self.info.channels
        for images in (conditions[n] for n in ("masked", "low_res") if n in conditions):
            if images.shape[-1] != c:
                raise UserError(f"images are [n, H, W, {c}], not {list(images.shape)}")
        return conditions

    def inputs(
        self, conditions: Batch | None, num_images: int = 1, negative: Batch | None = None
    ) -> SamplingInputs:
        """What the sampler takes: each condition `num_images` times, in all for none.

        negative: what guidance leads away from, with one row or a row for each condition.
        """
        if conditions is None:
            return SamplingInputs(num_images)
        y = self.encode_conditions(conditions)
        away_from = None if negative is None else self.encode_conditions(negative)
        if away_from is not None:
            if len(away_from) not in (1, len(y)):
                raise UserError(
                    f"there are {len(y)} conditions and {len(away_from)} negative ones; give one "
                    "for all, or one for each"
                )
            away_from = np.broadcast_to(away_from, (len(y), *away_from.shape[1:]))
            away_from = np.repeat(away_from, num_images, axis=0)
        y = np.repeat(y, num_images, axis=0)
        return SamplingInputs(len(y), y, away_from)

    def composite(
        self, conditions: Batch | None, images: np.ndarray, num_images: int = 1, first: int = 0
    ) -> np.ndarray:
        """Samples with the known part of the images put back, where there is such.

        Args:
          images: uint8 `[n, H, W, C]`, the images `first` to first + n - 1 of all; or estimates of
            them, `[n, S, H, W, C]`.
        """
        if conditions is None:
            return images
        rows = (first + np.arange(len(images))) // num_images
        conditions = {k: a[rows] for k, a in conditions.items()}
        if images.ndim == 4:
            return self.condition.composite(conditions, images)
        steps = [self.condition.composite(conditions, x) for x in images.swapaxes(0, 1)]
        return np.stack(steps, axis=1)

    def batches(
        self,
        inputs: SamplingInputs,
        settings: SamplingSettings,
        *,
        trajectory: bool = False,
        progress: str | None = None,
    ) -> Iterator[np.ndarray]:
        """Samples a batch at a time: uint8 `[b, H, W, C]`; see `sampling.sample.Sampler`."""
        self._diffusion_params()
        devices = max(1, inputs.n)  # no images are the sampler's to refuse
        weights, sharding = self.placed(devices)
        inputs = replace(inputs, guides=self.placement.guides(inputs.guides, devices))
        yield from self.sampler.batches(
            weights.params,
            weights.constants,
            inputs,
            settings,
            self.geometry(settings),
            trajectory=trajectory,
            sharding=sharding,
            progress=progress,
        )

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Images, uint8 or floats in [-1, 1] `[n, H, W, C]` -> scaled z_0 `[n, h, w, c]`.

        The mean of q_E(z|x), without noise. Sides are multiples of f.
        """
        return self._map("encode", self.first.checked(images))

    def decode(self, z_0: np.ndarray) -> np.ndarray:
        """Scaled latents z_0 `[n, h, w, c]` -> images uint8 `[n, H, W, C]`."""
        z_0, c = np.asarray(z_0, np.float32), self.first.latent_channels
        z_0 = z_0[None] if z_0.ndim == 3 else z_0
        if z_0.ndim != 4 or z_0.shape[-1] != c:
            raise UserError(f"latents are [n, h, w, {c}], not {list(z_0.shape)}")
        return self._map("decode", z_0)

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """D(E(x)): images as for `encode` -> uint8 `[n, H, W, C]`."""
        images = self.first.checked(images)
        weights, sharding = self.placed(len(images))
        autoencoder = weights.constants["autoencoder"]
        each = self.first.rows_at_once(*images.shape[1:3])
        return map_batches(self._jit["reconstruct"], (autoencoder,), (images,), sharding.mesh, each)

    def predict(
        self, z_t: Array, t: Array, condition: Any = None, guidance: float = 1.0
    ) -> np.ndarray:
        """What the network predicts (eps, z_0 or v) for z_t `[n, h, w, c]` at timesteps t `[n]`."""
        conditions = self.parse(condition)
        y = None if conditions is None else self.encode_conditions(conditions)
        z_t = jnp.asarray(z_t)
        settings = replace(self.settings, guidance=guidance)
        if guidance == 1.0:
            settings = replace(settings, guidance_rescale=0.0)
        self.sampler.check(settings, conditional=y is not None)
        if y is not None and len(y) not in (1, len(z_t)):
            raise UserError(f"there are {len(z_t)} latents and {len(y)} conditions")
        if y is not None:
            y = np.broadcast_to(y, (len(z_t), *y.shape[1:]))
        t = jnp.broadcast_to(jnp.asarray(t), z_t.shape[:1])
        params = self._diffusion_params()
        return np.asarray(self._jit["predict"](params, y, z_t, t, guidance_of(settings)))

    def _predict(self, params, y, z_t, t, guidance):
        return self.sampler.predictor(params, y, guidance)(z_t, t)

    def embed(self, conditions: Batch) -> np.ndarray:
        """tau_theta of conditions, between which there are others: float `[n, ...]`."""
        y, params = self.encode_conditions(conditions), self._diffusion_params()
        return fetch(jax.jit(lambda p, y: self.objective.model(p).embed(y))(params, y))

    def invert(
        self, z_0: np.ndarray, y: np.ndarray | None, settings: SamplingSettings
    ) -> np.ndarray:
        """The noise z_T from which DDIM (eta 0) leads to z_0, see `sampling.editing.invert`.

        Args:
          z_0: `[n, h, w, c]`. y: conditions as the model takes them, a row each.
        """
        self._diffusion_params()  # or it has none
        params = self.placed(len(z_0))[0].params
        return fetch(self.sampler.invert(params, y, z_0, settings, self.geometry(settings)))

    def attention(self, condition: Any, **changes: Any) -> dict[str, np.ndarray]:
        """How much each position attends to each token of one condition (Sec. 3.3).

        Returns:
          {layer: float32 `[step, head, h', w', token]`}, which sum to 1 over the tokens; h' and w'
          are those of the layer's level.
        """
        if self.spec.how != "cross-attention" or self.spec.context_dim == 0:
            raise UserError("this model has no cross-attention")
        settings, conditions = replace(self.settings, **changes), self.parse(condition)
        y = self.encode_conditions(conditions)
        if len(y) != 1:
            raise UserError(f"attention maps are of one condition; there are {len(y)}")
        params, null = self._diffusion_params(), self.sampler.null
        return attention_maps(
            self.objective, params, y, null, settings, self.geometry(settings).shape
        )

    def grid(
        self, images: np.ndarray, labels: list[str] | None = None, columns: int = 8
    ) -> Image.Image:
        """Images uint8 `[n, H, W, C]` as one, with labels under them; a notebook shows it."""
        columns = min(columns, len(images))
        if labels is None:
            return Image.fromarray(plots.grid(images, columns))
        return Image.fromarray(plots.labelled_grid(images, labels, columns))

    # Weights and devices

    def encode_conditions(self, conditions: Batch) -> np.ndarray:
        """y of conditions `[n, ...]`, a few at a time."""
        n = len(next(iter(conditions.values())))
        constants = self.placed(1)[0].constants
        parts = [
            self._jit["condition"](
                constants, {k: a[start : start + CONDITIONS_AT_ONCE] for k, a in conditions.items()}
            )
            for start in range(0, n, CONDITIONS_AT_ONCE)
        ]
        return np.concatenate(fetch(parts))

    def _map(self, name: str, rows: np.ndarray) -> np.ndarray:
        weights, sharding = self.placed(len(rows))
        f = self.first.f if name == "decode" else 1
        each = self.first.rows_at_once(*(f * side for side in rows.shape[1:3]))
        return map_batches(self._jit[name], (weights.constants,), (rows,), sharding.mesh, each)

    def placed(self, n: int) -> tuple[Weights, NamedSharding]:
        """(the weights on the devices, how batches are split over these), for n images."""
        assert self.weights  # or it has raised
        return self.placement.of(n)

    @property
    def weights(self) -> Weights:
        """Its weights as they were given; a UserError where it has none."""
        if self.placement is None:
            raise UserError("this model has no weights yet: train it, or load a trained one")
        return self.placement.weights

    def _diffusion_params(self) -> dict:
        if self.weights.params is None:
            raise UserError("this model is a first stage: it encodes and decodes, but has no UNet")
        return self.weights.params
