"""What every job of `sample.py` is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ldm_jax.data.loader import Batch
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.sampling.inputs import SamplingInputs
from ldm_jax.sampling.settings import SamplingSettings


@dataclass(frozen=True)
class Request:
    """A model, conditions, and how to sample."""

    model: LatentDiffusion
    conditions: Batch | None
    """Arrays with a row for each condition; None for an unconditional model."""
    labels: list[str]
    """The same as text; blank where there is none."""
    images_per_prompt: int
    settings: SamplingSettings
    negative: Batch | None = None
    """What guidance leads away from: one row for all."""

    @property
    def all_labels(self) -> list[str]:
        """A label for each image."""
        return [label for label in self.labels for _ in range(self.images_per_prompt)]

    def inputs(self) -> SamplingInputs:
        """Each condition `images_per_prompt` times."""
        n = len(self.all_labels) if self.conditions is None else self.images_per_prompt
        return self.model.inputs(self.conditions, n, self.negative)

    def composite(self, images: np.ndarray, first: int = 0) -> np.ndarray:
        """Images `first` to first + n - 1, with their known part put back."""
        return self.model.composite(self.conditions, images, self.images_per_prompt, first)


class Result(NamedTuple):
    """What a job has made."""

    images: np.ndarray
    """uint8 `[n, H, W, C]`"""
    figure: np.ndarray
    """All of them in one image, with what they are: uint8 `[H', W', 3]`; of an animation
    `[S, H', W', 3]`."""
    text: str
    """A line about them."""


@dataclass(frozen=True)
class Plan:
    """A job that was checked; nothing is computed before it is called."""

    inputs: Callable[[], SamplingInputs]
    """What to sample."""
    result: Callable[[np.ndarray], Result]
    """From the samples to what is written."""
    trajectory: bool = False
    """Whether the samples are the estimates of z_0 of every step."""
    streams: bool = False
    """Whether images can be written one by one, as they come."""
