"""The embedded data set: coloured solids under four skies, rendered by NumPy, with ground truth."""

from ldm_jax.data.scenes.cache import RENDER_VERSION, check_fits, render_all
from ldm_jax.data.scenes.captions import CLASS_NAMES, VOCABULARY, read_caption
from ldm_jax.data.scenes.source import (
    SEMANTIC_NAMES,
    ObjectTruth,
    ScenesConfig,
    ScenesSource,
    SceneTruth,
)
from ldm_jax.data.scenes.world import COLOURS, FLOORS, MATERIALS, SHAPES, SIZES, SKIES

__all__ = [
    "CLASS_NAMES",
    "COLOURS",
    "FLOORS",
    "MATERIALS",
    "RENDER_VERSION",
    "SEMANTIC_NAMES",
    "SHAPES",
    "SIZES",
    "SKIES",
    "VOCABULARY",
    "check_fits",
    "ObjectTruth",
    "SceneTruth",
    "ScenesConfig",
    "ScenesSource",
    "read_caption",
    "render_all",
]
