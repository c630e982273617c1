"""Sampling: the loop over the timesteps, and from conditions to images in one compiled program.

`sample` is the mathematics, one `lax.scan` for every solver. `Sampler` puts condition, guidance,
noise and decoder around it, compiles that once, and runs it batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from ldm_jax.diffusion.process import Prediction, eps_and_z0
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.errors import UserError
from ldm_jax.sampling.decoding import decode, decode_all
from ldm_jax.sampling.editing import invert, replace_known
from ldm_jax.sampling.guidance import Guidance, classifier_free_guided, classifier_guided
from ldm_jax.sampling.guides import GuideLogP, sum_of_guides
from ldm_jax.sampling.inputs import SamplingInputs
from ldm_jax.sampling.noise import fold_in_each, image_keys, noise_like
from ldm_jax.sampling.settings import Geometry, SamplingSettings
from ldm_jax.sampling.single_step import Denoise
from ldm_jax.sampling.solvers import SOLVERS, Solver
from ldm_jax.sampling.tiling import Tiles, apply_in_tiles

Array = jax.Array


class ReverseProcess(NamedTuple):
    """How z_T becomes z_0: the steps of a solver down a grid of timesteps.

    All but schedule and solver may be traced.
    """

    schedule: Schedule
    solver: Solver
    grid: Array
    """Decreasing `[S+1]`, as from `timestep_grid`."""
    eta: Array | float = 0.0
    """DDIM's stochasticity."""
    temperature: Array | float = 1.0
    """Factor on the noise of every step."""


class NotFinite(UserError):
    """Samples that are no numbers; as bytes they would be black images."""


def sample(
    denoise: Denoise,
    process: ReverseProcess,
    z_T: Array,
    keys: Array,
    *,
    blend: Callable[[Array, Array, Array], Array] | None = None,
    trajectory: bool = False,
):
    """Walks z_T down the timesteps to z_0.

    Args:
      denoise: (z_t, t) -> (eps, z_0), condition and guidance included, as from `denoiser`.
      process: the schedule, the solver, and its grid.
      z_T: `[B, h, w, c]`, a latent at the timestep grid[0]: noise, or for a grid that begins
        further down a noisy image.
      keys: one key an image, `[B]`, for the noise of the steps.
      blend: (z_t, t, one key an image `[B]`) -> z_t, applied before each step, for example to
        replace the known part of the image; nothing is applied after the last.
      trajectory: also return the z_0 estimate of every step.

    Returns:
      z_0 `[B, h, w, c]`; with `trajectory`, (z_0, estimates `[S, B, h, w, c]`).
    """
    schedule, solver, grid, eta, temperature = process
    grid, shape = jnp.asarray(grid), z_T.shape[1:]
    noise_shape = shape if solver.noises == 1 else (solver.noises, *shape)

    def body(carry, now):
        (z_t, memory), (i, t, s) = carry, now
        # Keys 2i+1 and 2i+2 of each image are step i's; none is that of z_T.
        if blend is not None:
            z_t = blend(z_t, t, fold_in_each(keys, 2 * i + 2))
        noise = temperature * noise_like(fold_in_each(keys, 2 * i + 1), noise_shape)
        if solver.memory is None:
            z_s, z_0 = solver.step(schedule, denoise, z_t, t, s, noise, eta)
        else:
            z_s, z_0, memory = solver.step(schedule, denoise, z_t, t, s, noise, eta, memory)
        return (z_s, memory), z_0 if trajectory else None

    steps = (jnp.arange(len(grid) - 1), grid[:-1], grid[1:])
    memory = None if solver.memory is None else solver.memory(z_T, grid)
    (z_0, _), estimates = jax.lax.scan(body, (z_T, memory), steps)
    return (z_0, estimates) if trajectory else z_0


def denoiser(
    predict: Callable[[Array, Array], Array], schedule: Schedule, prediction: Prediction
) -> Denoise:
    """(z_t, t) -> (eps, z_0), from a network (z_t, t `[B]`) -> eps, z_0 or v."""

    def denoise(z_t: Array, t: Array) -> tuple[Array, Array]:
        t = jnp.broadcast_to(t, z_t.shape[:1])
        return eps_and_z0(schedule, prediction, predict(z_t, t), z_t, t)

    return denoise


@dataclass(frozen=True)
class _Static:
    """What a sampling program is compiled for."""

    solver: str
    embedded: bool
    log_ps: tuple[GuideLogP, ...]
    geometry: Geometry
    num_shards: int
    trajectory: bool


class Sampler:
    """From conditions to images.

    A program is compiled once for each (solver, number of steps, batch size, geometry, guided or
    not, by a negative condition or not, which guides), and once more where timesteps are
    fractional. Guidance scale and rescale, eta, temperature and seed are inputs of it: changing
    them compiles nothing. So are initial latents, known parts, and the scales and targets of
    guides.

    Args:
      model: params -> callable (z_t, t, y) -> prediction, y None when unconditional. For conditions
        that are embedded already it is called as (z_t, t, c=c), and its `embed` is used.
      decoder: (constants, z_0 as the model sees it) -> floats `[B, H, W, C]` in [-1, 1].
      schedule, prediction: as the model was trained.
      null: the null condition, or None for a model that cannot be guided.
      concatenates: whether the condition is a map, stacked with z_t.
      before_run: (compiled program, its devices) -> nothing; called before a program runs. It may
        raise where there is too little memory.
    """

    def __init__(
        self,
        model: Callable[[Any], Callable],
        decoder: Callable[[Any, Array], Array],
        schedule: Schedule,
        prediction: Prediction,
        null: np.ndarray | None,
        concatenates: bool = False,
        before_run: Callable[[Any, Sequence[jax.Device]], None] = lambda *_: None,
    ):
        self.model, self.decoder, self.schedule = model, decoder, schedule
        self._before_run = before_run
        self.prediction, self.null, self.concatenates = prediction, null, concatenates
        self._program = jax.jit(self._sample, static_argnames="static")

    def compiled_programs(self) -> int:
        """How many programs have been compiled so far."""
        return self._program._cache_size()

    def check(self, settings: SamplingSettings, conditional: bool, negative: bool = False) -> None:
        """Raises UserError for settings that this model cannot be sampled with; takes no time.

        Args:
          conditional, negative: whether there is a condition, and a negative one.
        """
        settings.check(self.schedule)
        if not conditional and settings.guidance != 1.0:
            raise UserError("this model has no condition to guide by: guidance is 1")
        if self.null is None and settings.guidance != 1.0:
            raise UserError("this model was never trained without its condition: guidance is 1")
        if negative and settings.guidance == 1.0:
            raise UserError(
                "a negative prompt does nothing without guidance: give a guidance other than 1"
            )
        if not 0 <= settings.seed < 2**32:
            raise UserError(f"seed is {settings.seed}; it lies between 0 and 4294967295")
        if settings.batch_size < 1:
            raise UserError(f"batch size is {settings.batch_size}; it must be at least 1")

    def __call__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """All images of `batches`, which has the arguments: uint8 `[n, H, W, C]`."""
        return np.concatenate(list(self.batches(*args, **kwargs)))

    def batches(
        self,
        params: Any,
        constants: Any,
        inputs: SamplingInputs,
        settings: SamplingSettings,
        geometry: Geometry,
        *,
        trajectory: bool = False,
        sharding: NamedSharding | None = None,
        progress: str | None = None,
    ) -> Iterator[np.ndarray]:
        """Images uint8 `[b, H, W, C]`, a batch at a time.

        Image i depends on its row of `inputs`, the seed and its id alone.

        Args:
          params, constants: of the diffusion stage's state (its moving average, if it has one).
          trajectory: images are the estimates of z_0 at every step: uint8 `[b, S, H, W, C]`.
          sharding: how the rows of a batch are split over the devices that hold `params`. Where
            these belong to several processes, all of them call this alike and get all images.
          progress: title of the progress bar, None for none.

        Raises:
          UserError: settings that cannot be, or no images.
          NotFinite: NaN or infinity came out.
        """
        if inputs.n < 1:
            raise UserError(f"the number of images is {inputs.n}; it must be at least 1")
        self.check(settings, inputs.condition is not None, inputs.negative is not None)
        n, guides = inputs.n, [guide for guide in inputs.guides if guide.scale != 0.0]
        num_shards = 1
        if sharding is not None:
            num_shards = sharding.num_devices // sharding.shard_shape((sharding.num_devices,))[0]
        static = _Static(
            settings.sampler,
            inputs.embedded,
            tuple(guide.log_p for guide in guides),
            geometry,
            num_shards,
            trajectory,
        )
        grid = settings.grid(self.schedule)[inputs.first_step :]
        seed = jnp.uint32(settings.seed)
        scalars = jnp.float32(settings.eta), jnp.float32(settings.temperature)
        scalars = (guidance_of(settings), *scalars)
        scaled = [(guide.weights, jnp.float32(guide.scale)) for guide in guides]
        batch_size = -(-min(settings.batch_size, n) // num_shards) * num_shards
        devices = jax.devices()[:1] if sharding is None else [*sharding.device_set]
        silent = progress is None or jax.process_index() != 0
        with tqdm(total=n, desc=progress, unit="image", disable=silent) as bar:
            for first in range(0, n, batch_size):
                # The last batch is filled up, so that it needs no program of its own.
                rows = np.minimum(np.arange(first, first + batch_size), n - 1)
                batch = jax.tree.map(lambda array, rows=rows: array[rows], inputs.arrays())
                if sharding is not None:
                    batch = jax.tree.map(lambda array: _split(array, sharding), batch)
                arguments = params, constants, grid, seed, scalars, scaled, batch
                if first == 0:  # this compiles it, which the call then does not
                    program = self._program.lower(*arguments, static=static).compile()
                    self._before_run(program, devices)
                images, finite = self._program(*arguments, static=static)
                if sharding is not None:  # all of them to all processes
                    everywhere = NamedSharding(sharding.mesh, P())
                    images, finite = jax.device_put((images, finite), everywhere)
                _check_finite(np.asarray(finite)[: n - first], settings)
                images = np.asarray(images)[: n - first]
                bar.update(len(images))
                yield images

    def invert(
        self,
        params: Any,
        y: np.ndarray | None,
        z_0: np.ndarray,
        settings: SamplingSettings,
        geometry: Geometry,
    ) -> Array:
        """The noise z_T from which DDIM (eta 0) leads to z_0 `[n, h, w, c]`, see `editing`."""
        grid = settings.grid(self.schedule)

        @jax.jit
        def up(params, y, z_0, guidance):
            predict = self.predictor(params, y, guidance, unet_tiles=geometry.unet_tiles)
            return invert(predict, self.schedule, self.prediction, grid, z_0)

        return up(params, y, z_0, guidance_of(settings))

    def predictor(
        self,
        params: Any,
        y: Array | None,
        guidance: Guidance | None,
        *,
        negative: Array | None = None,
        embedded: bool = False,
        unet_tiles: Tiles | None = None,
    ) -> Callable[[Array, Array], Array]:
        """(z_t, t) -> prediction, condition and guidance included; see `SamplingInputs`.

        Args:
          guidance: None for none.
        """
        model, null = self.model(params), self.null
        if unet_tiles is not None and self.concatenates and not embedded:
            y, embedded = model.embed(y), True  # of the whole map, whose part each tile sees
        network = model
        if embedded:

            def network(z_t, t, c):
                return model(z_t, t, c=c)

            if null is not None and negative is None:
                null = model.embed(null[None])[0]
        if unet_tiles is not None:
            network = self._tiled(network, unet_tiles)
        if guidance is not None:
            away_from = null if negative is None else negative
            return classifier_free_guided(network, y, away_from, *guidance)
        return lambda z_t, t: network(z_t, t, y)

    def _tiled(self, network: Callable, tiles: Tiles) -> Callable:
        def tiled(z_t, t, y):
            if not self.concatenates:
                return apply_in_tiles(lambda z: network(z, t, y), z_t, tiles)
            c, both = z_t.shape[-1], jnp.concatenate([z_t, y], axis=-1)
            return apply_in_tiles(lambda z: network(z[..., :c], t, z[..., c:]), both, tiles)

        return tiled

    def _sample(self, params, constants, grid, seed, scalars, scaled, rows, *, static: _Static):
        guidance, eta, temperature = scalars
        y, negative, ids, init_latents, known, targets = rows
        predict = self.predictor(
            params,
            y,
            guidance,
            negative=negative,
            embedded=static.embedded,
            unet_tiles=static.geometry.unet_tiles,
        )
        denoise = denoiser(predict, self.schedule, self.prediction)
        if static.log_ps:
            log_p = sum_of_guides(static.log_ps, scaled, targets)
            denoise = classifier_guided(denoise, self.schedule, log_p)
        shape, blend = static.geometry.shape, None
        if known is not None:
            where, z_known = known
            shape = z_known.shape[1:]

            def blend(z_t, t, keys):
                return replace_known(self.schedule, where, z_known, z_t, t, noise_like(keys, shape))

        keys = image_keys(seed, ids)
        result = sample(
            denoise,
            ReverseProcess(self.schedule, SOLVERS[static.solver], grid, eta, temperature),
            noise_like(keys, shape) if init_latents is None else init_latents,
            keys,
            blend=blend,
            trajectory=static.trajectory,
        )
        decoder = partial(self.decoder, constants)
        geometry = static.geometry
        how = static.num_shards, geometry.decoder_tiles, geometry.at_once
        if static.trajectory:
            _, estimates = result
            return decode_all(decoder, estimates, *how)
        return decode(decoder, result, *how)


def guidance_of(settings: SamplingSettings) -> Guidance | None:
    """What a program takes; None where scale 1 makes it the plain conditional model."""
    if settings.guidance == 1.0:
        return None
    return Guidance(jnp.float32(settings.guidance), jnp.float32(settings.guidance_rescale))


def _check_finite(finite: np.ndarray, settings: SamplingSettings) -> None:
    if not finite.all():
        raise NotFinite(
            f"{finite.size - finite.sum()} of {finite.size} images are not finite (NaN or "
            f"infinity): guidance {settings.guidance:g} or temperature {settings.temperature:g} is "
            "too large, or the model's weights are damaged"
        )


def _split(rows: np.ndarray, sharding: NamedSharding) -> Array:
    """Each device takes its rows of what every process has."""
    return jax.make_array_from_callback(rows.shape, sharding, rows.__getitem__)
