"""Latent Diffusion Models (Rombach et al., arXiv:2112.10752) in JAX and Flax.

import ldm_jax
model = ldm_jax.load("runs/scenes")
images = model.sample(["a red ball on a plain floor by day"], steps=10, guidance=3.0, seed=0)
"""

from typing import Any

__all__ = ["LatentDiffusion", "load"]

_LAZY = {"load": "ldm_jax.model.load", "LatentDiffusion": "ldm_jax.model.latent_diffusion"}


def __getattr__(name: str) -> Any:
    """`load` and `LatentDiffusion` are imported when they are first used: JAX takes seconds."""
    if name not in _LAZY:
        raise AttributeError(f"module 'ldm_jax' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
