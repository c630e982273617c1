"""Which of the T training steps a sampler visits: the sub-sequence tau of DDIM."""

from __future__ import annotations

import numpy as np

from ldm_jax.errors import UserError


def uniform_timesteps(steps: int, timesteps: int) -> np.ndarray:
    """Exactly `steps` steps, evenly spread, from T-1 downwards: int32 `[steps]`, decreasing.

    They end at round T/S - 1 or below, and the sampler's last move goes from there to clean data.
    (The original's spacing gives another number of steps for most S, and fails for many.)

    Raises:
      UserError: steps outside 1..T.
    """
    if not 1 <= steps <= timesteps:
        raise UserError(f"steps is {steps}; this model takes 1 to {timesteps}")
    tau = np.arange(1, steps + 1) * timesteps // steps - 1
    return tau[::-1].astype(np.int32)
