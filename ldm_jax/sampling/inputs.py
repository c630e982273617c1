"""What differs from image to image when images are sampled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ldm_jax.sampling.guides import Guide


@dataclass(frozen=True)
class SamplingInputs:
    """What differs from image to image: a row `[n, ...]` for each of the n images.

    condition: as the model takes it (y), or tau_theta(y) if `embedded`; None if unconditional.
    negative: the same for what guidance leads away from (a negative prompt), or None: the null
      condition.
    image_ids: int `[n]`, the i that the noise of an image depends on; None: 0 to n - 1. Images of
      one id have the same noise.
    first_step: how many steps are left out at the noisy end; a program for each number.
    init_latents: `[n, h, w, c]` at the timestep of the first step, in place of noise.
    known: the part of the images that is given, see `editing.replace_known`: (where, bool
      `[n, h, w, 1]`; z_0 `[n, h, w, c]`). Its h and w, or those of `init_latents`, decide the size.
    guides: what else the images are guided by (App. C); one of scale 0 costs nothing.
    """

    n: int
    condition: np.ndarray | None = None
    negative: np.ndarray | None = None
    embedded: bool = False
    image_ids: np.ndarray | None = None
    first_step: int = 0
    init_latents: np.ndarray | None = None
    known: tuple[np.ndarray, np.ndarray] | None = None
    guides: tuple[Guide, ...] = ()

    def arrays(self) -> tuple[Any, ...]:
        """All rows: (condition, negative, image_ids, init_latents, known, y of each guide)."""
        ids = np.arange(self.n) if self.image_ids is None else self.image_ids
        guides = [g.y for g in self.guides if g.scale != 0.0]
        return self.condition, self.negative, ids, self.init_latents, self.known, guides

    def subset(self, rows: np.ndarray) -> SamplingInputs:
        """The rows of these numbers; each image stays what it is."""

        def take(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[rows]

        return replace(
            self,
            n=len(rows),
            condition=take(self.condition),
            negative=take(self.negative),
            image_ids=np.arange(self.n)[rows] if self.image_ids is None else take(self.image_ids),
            init_latents=take(self.init_latents),
            known=self.known and (take(self.known[0]), take(self.known[1])),
            guides=tuple(replace(guide, y=guide.y[rows]) for guide in self.guides),
        )
