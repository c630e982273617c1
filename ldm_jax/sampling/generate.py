"""From conditions to pictures: z_T, the solver's scan, the decoder, in one compiled program."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ldm_jax.diffusion.process import Prediction
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.errors import UserError
from ldm_jax.sampling.guidance import guided
from ldm_jax.sampling.sample import picture_keys, sample
from ldm_jax.sampling.solvers import SOLVERS, check_eta
from ldm_jax.sampling.timesteps import check_steps, timestep_grid

Array = jax.Array


class Generator:
    """Draws pictures from a trained model.

    A program is compiled once for each (solver, number of steps, batch size, guided or not), and
    once more where timesteps are fractional.
    Guidance scale, eta, temperature and seed are inputs of it: changing them compiles nothing.

    Args:
      model: params -> callable (z_t, t, y) -> prediction, y None when unconditional.
      decode: (constants, z_0 as the model sees it) -> images uint8 `[B, H, W, C]`.
      schedule, prediction: as the model was trained.
      shape: latent (h, w, c).
      null: the null condition, or None for an unconditional model.
    """

    def __init__(
        self,
        model: Callable[[Any], Callable],
        decode: Callable[[Any, Array], Array],
        schedule: Schedule,
        prediction: Prediction,
        shape: tuple[int, int, int],
        null: np.ndarray | None,
    ):
        self.model, self.decode, self.schedule = model, decode, schedule
        self.prediction, self.shape, self.null = prediction, shape, null
        self._program = jax.jit(self._draw, static_argnames=("sampler", "is_guided"))

    def compiled_programs(self) -> int:
        """How many programs have been compiled so far."""
        return self._program._cache_size()

    def __call__(
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
        batch_size: int = 16,
        sharding: jax.sharding.NamedSharding | None = None,
        progress: str | None = None,
    ) -> np.ndarray:
        """Pictures uint8 `[n, H, W, C]`; picture i depends on its condition, the seed and i alone.

        Args:
          params, constants: of the diffusion stage's state (its running average, if it has one).
          conditions: int32 `[n, ...]`, or None with `num_images` for an unconditional model.
          steps: S, 1 to T. spacing: of the timesteps, see `timestep_grid`.
          guidance: s, 1 is off and costs nothing. batch_size: pictures at a time.
          sharding: how the rows of a batch are split over the devices that hold `params`.
          progress: title of the bar, None for none.

        Raises:
          UserError: a sampler, number of steps, spacing, eta, seed or number of pictures that
            cannot be.
        """
        n = num_images if conditions is None else len(conditions)
        if not n or n < 1:
            raise UserError(f"the number of pictures is {n}; it must be at least 1")
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
        grid = timestep_grid(spacing, steps, self.schedule)
        run = partial(self._program, sampler=sampler, is_guided=guidance != 1.0)
        scalars = [jnp.float32(value) for value in (guidance, eta, temperature)]
        ways = 1
        if sharding is not None:
            ways = sharding.num_devices // sharding.shard_shape((sharding.num_devices,))[0]
        batch_size = -(-min(batch_size, n) // ways) * ways
        pictures = []
        with tqdm(total=n, desc=progress, unit="picture", disable=progress is None) as bar:
            for start in range(0, n, batch_size):
                # The last batch is filled up, so that it needs no program of its own.
                rows = np.minimum(np.arange(start, start + batch_size), n - 1)
                y = None if conditions is None else conditions[rows]
                if sharding is not None:
                    rows, y = jax.device_put((rows, y), sharding)
                batch = run(params, constants, y, grid, jnp.uint32(seed), rows, scalars)
                pictures.append(np.asarray(batch)[: n - start])
                bar.update(len(pictures[-1]))
        return np.concatenate(pictures)

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

    def _draw(self, params, constants, y, grid, seed, rows, scalars, *, sampler, is_guided):
        guidance, eta, temperature = scalars
        model = self.model(params)
        if is_guided:
            predict = guided(model, y, self.null, guidance)
        else:

            def predict(z_t, t):
                return model(z_t, t, y)

        z_0 = sample(
            predict,
            self.schedule,
            self.prediction,
            SOLVERS[sampler],
            grid,
            picture_keys(seed, rows),
            self.shape,
            eta=eta,
            temperature=temperature,
        )
        return self.decode(constants, z_0)
