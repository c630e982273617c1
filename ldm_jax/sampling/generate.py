"""From conditions to images: z_T, the solver's scan, the decoder, in one compiled program."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from ldm_jax.diffusion.process import Prediction
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.errors import UserError
from ldm_jax.sampling.decoding import decode, decode_all
from ldm_jax.sampling.editing import replace_known
from ldm_jax.sampling.guidance import classifier_free_guided
from ldm_jax.sampling.guides import Guide, together
from ldm_jax.sampling.sample import image_keys, noise_like, sample
from ldm_jax.sampling.solvers import SOLVERS, check_eta
from ldm_jax.sampling.tiling import Tiles, apply_in_tiles
from ldm_jax.sampling.timesteps import check_steps, timestep_grid

Array = jax.Array


class Generator:
    """Draws images from a trained model.

    A program is compiled once for each (solver, number of steps, batch size, size, guided or not,
    which guides, windows), and once more where timesteps are fractional.
    Guidance scale, eta, temperature and seed are inputs of it: changing them compiles nothing.
    So are latents to start from, parts of images to keep, and the scales and aims of guides.

    Args:
      model: params -> callable (z_t, t, y) -> prediction, y None when unconditional. For conditions
        that are embedded already it is called as (z_t, t, c=c), and its `embed` is used.
      decoder: (constants, z_0 as the model sees it) -> floats `[B, H, W, C]` in [-1, 1].
      schedule, prediction: as the model was trained.
      shape: latent (h, w, c).
      null: the null condition, or None for an unconditional model.
      concatenates: whether the condition is a map, stacked with z_t.
    """

    def __init__(
        self,
        model: Callable[[Any], Callable],
        decoder: Callable[[Any, Array], Array],
        schedule: Schedule,
        prediction: Prediction,
        shape: tuple[int, int, int],
        null: np.ndarray | None,
        concatenates: bool = False,
    ):
        self.model, self.decoder, self.schedule = model, decoder, schedule
        self.prediction, self.shape, self.null = prediction, shape, null
        self.concatenates = concatenates
        static = ("sampler", "is_guided", "embedded", "log_ps", "shape", "windows", "tiles")
        static += ("ways", "trajectory")
        self._program = jax.jit(self._draw, static_argnames=static)

    def compiled_programs(self) -> int:
        """How many programs have been compiled so far."""
        return self._program._cache_size()

    def __call__(self, params: Any, constants: Any, conditions: np.ndarray | None, **settings):
        """All images of `batches`, which has the arguments: uint8 `[n, H, W, C]`."""
        return np.concatenate(list(self.batches(params, constants, conditions, **settings)))

    def batches(
        self,
        params: Any,
        constants: Any,
        conditions: np.ndarray | None,
        *,
        num_images: int | None = None,
        sampler: str = "ddim",
        steps: int = 50,
        guidance: float = 1.0,
        spacing: str = "uniform",
        eta: float = 0.0,
        temperature: float = 1.0,
        seed: int = 0,
        numbers: np.ndarray | None = None,
        embedded: bool = False,
        first_step: int = 0,
        start: np.ndarray | None = None,
        keep: tuple[np.ndarray, np.ndarray] | None = None,
        guides: Sequence[Guide] = (),
        shape: tuple[int, int, int] | None = None,
        unet_tiles: Tiles | None = None,
        decoder_tiles: Tiles | None = None,
        trajectory: bool = False,
        batch_size: int = 16,
        sharding: NamedSharding | None = None,
        progress: str | None = None,
    ) -> Iterator[np.ndarray]:
        """Images uint8 `[b, H, W, C]`, a batch at a time.

        Image i depends on its condition, the seed and i alone. (And on the rows i of `numbers`,
        `start`, `keep` and `guides`, if they are given.)

        Args:
          params, constants: of the diffusion stage's state (its running average, if it has one).
          conditions: `[n, ...]` as the model takes them, or None with `num_images` for an
            unconditional model.
          steps: S, 1 to T. spacing: of the timesteps, see `timestep_grid`.
          guidance: s, 1 is off and costs nothing. batch_size: images at a time.
          numbers: int `[n]` in place of i, so that several images may have the same noise.
          embedded: whether `conditions` are tau_theta(y), float `[n, ...]`, in place of y.
          first_step: how many steps are left out at the noisy end; as many programs.
          start: latents `[n, h, w, c]` at the timestep of the first step, in place of noise.
          keep: what is known of the images, `editing.replace_known`: (where, bool `[n, h, w, 1]`;
            z_0 `[n, h, w, c]`). Its h and w, or those of `start`, may be others than `shape`.
          guides: what else images are led by (App. C); one of scale 0 costs nothing.
          shape: of the latents, in place of the one the model was trained at (Sec. 4.3.2).
          windows: of the latents, that the UNet sees one by one in place of the whole.
          tiles: of the latents, that the decoder sees likewise.
          trajectory: images are the estimates of z_0 at every step: uint8 `[b, S, H, W, C]`.
          sharding: how the rows of a batch are split over the devices that hold `params`. Where
            these belong to several processes, all of them call this alike and get all images.
          progress: title of the bar, None for none.

        Raises:
          UserError: a sampler, number of steps, spacing, eta, seed or number of images that
            cannot be.
        """
        n = num_images if conditions is None else len(conditions)
        if not n or n < 1:
            raise UserError(f"the number of images is {n}; it must be at least 1")
        conditional = conditions is not None
        self.check(
            conditional=conditional,
            sampler=sampler,
            steps=steps,
            spacing=spacing,
            guidance=guidance,
            eta=eta,
            seed=seed,
        )
        grid = timestep_grid(spacing, steps, self.schedule)[first_step:]
        guides = [guide for guide in guides if guide.scale != 0.0]
        num_shards = 1
        if sharding is not None:
            num_shards = sharding.num_devices // sharding.shard_shape((sharding.num_devices,))[0]
        run = partial(
            self._program,
            sampler=sampler,
            is_guided=guidance != 1.0,
            embedded=embedded,
            log_ps=tuple(guide.log_p for guide in guides),
            shape=self.shape if shape is None else shape,
            unet_tiles=unet_tiles,
            decoder_tiles=decoder_tiles,
            num_shards=num_shards,
            trajectory=trajectory,
        )
        numbers, towards = np.arange(n) if numbers is None else numbers, [g.y for g in guides]
        inputs = (conditions, numbers, start, keep, towards)
        scalars = [jnp.float32(value) for value in (guidance, eta, temperature)]
        scaled = [(guide.weights, jnp.float32(guide.scale)) for guide in guides]
        batch_size = -(-min(batch_size, n) // num_shards) * num_shards
        silent = progress is None or jax.process_index() != 0
        with tqdm(total=n, desc=progress, unit="image", disable=silent) as bar:
            for first in range(0, n, batch_size):
                # The last batch is filled up, so that it needs no program of its own.
                rows = np.minimum(np.arange(first, first + batch_size), n - 1)
                batch = jax.tree.map(lambda array, rows=rows: array[rows], inputs)
                if sharding is not None:
                    batch = jax.tree.map(lambda array: _split(array, sharding), batch)
                drawn = run(params, constants, grid, jnp.uint32(seed), scalars, scaled, batch)
                if sharding is not None:  # all of them to all processes
                    drawn = jax.device_put(drawn, NamedSharding(sharding.mesh, P()))
                images = np.asarray(drawn)[: n - first]
                bar.update(len(images))
                yield images

    def check(
        self,
        *,
        conditional: bool,
        sampler: str,
        steps: int,
        guidance: float,
        eta: float,
        spacing: str = "uniform",
        seed: int = 0,
        **_,
    ) -> None:
        """Raises UserError for settings that cannot be; takes no time."""
        check_eta(sampler, eta)
        if not conditional and guidance != 1.0:
            raise UserError("this model has no condition, so there is nothing to guide by")
        if self.null is None and guidance != 1.0:
            raise UserError("this model was never trained without its condition: guidance is 1")
        if not 0 <= seed < 2**32:
            raise UserError(f"seed is {seed}; it lies between 0 and 4294967295")
        check_steps(spacing, steps, self.schedule.timesteps)

    def predictor(
        self,
        params: Any,
        y: Array | None,
        guidance: Array,
        *,
        is_guided: bool,
        embedded: bool = False,
        unet_tiles: Tiles | None = None,
    ) -> Callable[[Array, Array], Array]:
        """(z_t, t) -> prediction, condition and guidance included: see `batches`, `sample`."""
        model, null = self.model(params), self.null
        if unet_tiles is not None and self.concatenates and not embedded:
            y, embedded = model.embed(y), True  # of the whole map, whose part each window sees
        ask = model
        if embedded:

            def ask(z_t, t, c):
                return model(z_t, t, c=c)

            null = None if null is None else model.embed(null[None])[0]
        if unet_tiles is not None:
            ask = self._by_windows(ask, unet_tiles)
        if is_guided:
            return classifier_free_guided(ask, y, null, guidance)
        return lambda z_t, t: ask(z_t, t, y)

    def _by_windows(self, ask: Callable, unet_tiles: Tiles) -> Callable:
        def ask_by_windows(z_t, t, y):
            if not self.concatenates:
                return apply_in_tiles(lambda z: ask(z, t, y), z_t, unet_tiles)
            c, both = z_t.shape[-1], jnp.concatenate([z_t, y], axis=-1)
            return apply_in_tiles(lambda z: ask(z[..., :c], t, z[..., c:]), both, unet_tiles)

        return ask_by_windows

    def _draw(
        self,
        params,
        constants,
        grid,
        seed,
        scalars,
        scaled,
        inputs,
        *,
        sampler,
        log_ps,
        shape,
        decoder_tiles,
        num_shards,
        trajectory,
        **static,
    ):
        (guidance, eta, temperature), (y, numbers, start, keep, towards) = scalars, inputs
        predict = self.predictor(params, y, guidance, **static)
        blend = None
        if keep is not None:
            known, z_known = keep
            shape = z_known.shape[1:]

            def blend(z_t, t, keys):
                return replace_known(self.schedule, known, z_known, z_t, t, noise_like(keys, shape))

        drawn = sample(
            predict,
            self.schedule,
            self.prediction,
            SOLVERS[sampler],
            grid,
            image_keys(seed, numbers),
            shape,
            eta=eta,
            temperature=temperature,
            log_p=together(log_ps, scaled, towards) if log_ps else None,
            start=start,
            blend=blend,
            trajectory=trajectory,
        )
        decoder = partial(self.decoder, constants)
        if trajectory:
            return decode_all(decoder, drawn[1], num_shards, decoder_tiles)
        return decode(decoder, drawn, num_shards, decoder_tiles)


def _split(rows: np.ndarray, sharding: NamedSharding) -> Array:
    """Each device takes its rows of what every process has."""
    return jax.make_array_from_callback(rows.shape, sharding, rows.__getitem__)
