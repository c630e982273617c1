"""Held-out examples: their conditions are sampled from, their images are the truth."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np

from ldm_jax import plots
from ldm_jax.data.loader import Batch
from ldm_jax.data.source import Source
from ldm_jax.data.spread import spread
from ldm_jax.model.conditions import Condition
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.sampling.sample import NotFinite
from ldm_jax.sampling.settings import SamplingSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOut:
    """Held-out examples, a row each."""

    condition: Condition | None
    truth: Batch
    """As the source reads them."""
    conditions: Batch | None
    """Their conditions as arrays; None without any."""
    n: int
    """How many images are sampled: one for each condition, or so many without any."""

    @classmethod
    def read(
        cls, source: Source, condition: Condition | None, n: int, shown: int | None = None
    ) -> HeldOut:
        """At most `n` of a source, none of them twice.

        The first `shown` (all, by default) are spread over it and its classes; the others are drawn
        at random, as measures of distributions need them. What is random in a condition depends on
        its number.
        """
        truth = source.read(_rows(source, n, shown))
        if condition is None:
            return cls(None, truth, None, n)
        n = len(truth["image"])
        rngs = [np.random.default_rng(i) for i in range(n)]
        return cls(condition, truth, condition.to_batch(condition.to_cache(truth), rngs), n)

    @staticmethod
    def others(source: Source, n: int, shown: int, most: int = 1024) -> np.ndarray:
        """Images of a source that `read(source, ..., n, shown)` leaves out: uint8, at most `most`.

        None of them where it leaves out none.
        """
        rest = np.setdiff1d(np.arange(len(source)), _rows(source, n, shown))
        return source.read(rest[:most] if len(rest) else [0])["image"][: len(rest)]

    def sample(
        self, model: LatentDiffusion, settings: SamplingSettings, progress: str | None = None
    ) -> np.ndarray:
        """A sample for each condition, as large as the truth: uint8 `[n, H, W, C]`."""
        settings = replace(settings, height=None, width=None)
        inputs = model.inputs(self.conditions, 1 if self.conditions else self.n)
        try:
            images = np.concatenate(list(model.batches(inputs, settings, progress=progress)))
        except NotFinite as error:  # of a network that has hardly begun to learn
            log.warning("held-out samples are left black: %s", error)
            images = np.zeros_like(self.truth["image"][: self.n])
        return model.composite(self.conditions, images)

    def figure(self, images: np.ndarray) -> np.ndarray:
        """Samples above the labels of their conditions, or between conditions and truth."""
        if self.condition is None:
            return plots.grid(images, 8, least_side=144)
        n = len(images)
        shown = self.condition.as_image({key: rows[:n] for key, rows in self.conditions.items()})
        if shown is None:
            return plots.labelled_grid(images, self.condition.labels(self.truth)[:n])
        return plots.stacked([shown, images, self.truth["image"][:n]])


def _rows(source: Source, n: int, shown: int | None) -> np.ndarray:
    first = spread(source, n if shown is None else min(shown, n))
    rest = np.setdiff1d(np.arange(len(source)), first)
    return np.concatenate([first, np.random.default_rng(0).permutation(rest)])[:n]
