"""Latent Diffusion Models (Rombach et al., arXiv:2112.10752) in JAX and Flax.

import ldm_jax
model = ldm_jax.load("runs/scenes")
images = model.sample(["a red ball on a plain floor by day"], steps=10, guidance=3.0, seed=0)
"""

import re
import sys
from importlib.metadata import version
from typing import Any

__all__ = ["LatentDiffusion", "load"]

_LAZY = {"load": "ldm_jax.model.load", "LatentDiffusion": "ldm_jax.model.latent_diffusion"}


def check_jax(loaded: str, installed: str) -> None:
    """Raises ImportError if JAX was installed anew after this session had loaded another.

    A notebook on Colab or Kaggle comes with a JAX of its own, which the first import fixes.
    """
    if _release(loaded) != _release(installed):
        raise ImportError(
            f"this session has loaded JAX {loaded}, but {installed} is installed by now: restart "
            "the session (Colab: Runtime > Restart session; Kaggle: Run > Restart & clear cell "
            "outputs), then go on after the cell that installs"
        )


def _release(text: str) -> list[str]:
    """The numbers of a version, without marks of a development build."""
    return re.match(r"[\d.]*", text)[0].rstrip(".").split(".")[:3]


if "jax" in sys.modules and hasattr(sys.modules["jax"], "__version__"):
    check_jax(sys.modules["jax"].__version__, version("jax"))


def __getattr__(name: str) -> Any:
    """`load` and `LatentDiffusion` are imported when they are first used: JAX takes seconds."""
    if name not in _LAZY:
        raise AttributeError(f"module 'ldm_jax' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
