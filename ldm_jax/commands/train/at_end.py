"""What is sampled and measured at the end of a run, which its estimate needs to know at the start.

What measures them is imported at the end: SciPy and Matplotlib's figures take a second.
"""

from __future__ import annotations

from ldm_jax.data.scenes import ScenesConfig
from ldm_jax.evaluation.scene_network import SIZE
from ldm_jax.experiments.config import Experiment


def images_at_end(config: Experiment, kind: str) -> int:
    """How many images are sampled at the end, for a kind of condition."""
    judged = config.evaluation.judged_images if is_judged(config, kind) else 0
    return max(config.evaluation.num_images, judged)


def is_judged(experiment: Experiment, kind: str) -> bool:
    """Whether samples of this kind of condition are measured when training ends.

    Large images take long to sample: `evaluate` measures them when asked.
    """
    if experiment.evaluation.judged_images == 0:
        return False
    if kind in ("super-resolution", "inpainting"):
        return experiment.data.size >= 11  # the window of SSIM
    return experiment.data.size <= SIZE


def is_checked(experiment: Experiment, kind: str) -> bool:
    """Whether samples of this kind of condition are compared with training images."""
    restored = kind in ("super-resolution", "inpainting")
    return not restored and not isinstance(experiment.data, ScenesConfig)
