"""The embedded data set: coloured solids under four skies, drawn by NumPy with exact truth."""

from ldm_jax.data.scenes.captions import CLASS_NAMES, VOCABULARY, read_caption
from ldm_jax.data.scenes.drawing import RENDER_VERSION, draw
from ldm_jax.data.scenes.source import SEMANTIC_NAMES, ObjectTruth, ScenesSource, SceneTruth
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
    "ObjectTruth",
    "SceneTruth",
    "ScenesSource",
    "draw",
    "read_caption",
]
