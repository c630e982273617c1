"""The experiments: one function each, which returns everything that decides a run.

The first line of a function's docstring is what `python train.py --help` says of it.
"""

from collections.abc import Callable

from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.real import folder, tfds
from ldm_jax.experiments.scenes import scenes, scenes_large, smoke

EXPERIMENTS: dict[str, Callable[[], Experiment]] = {
    "scenes": scenes,
    "scenes-large": scenes_large,
    "smoke": smoke,
    "tfds": tfds,
    "folder": folder,
}
