"""Prompts of a single clause: what people try first."""

from typing import NamedTuple

import numpy as np

from ldm_jax.data.scenes import CLASS_NAMES, FLOORS
from ldm_jax.data.scenes.captions import SKY_PHRASES


class ClausePrompt(NamedTuple):
    """A prompt that says one thing of a scene."""

    kind: str
    """A key of `CLAUSES`."""
    text: str


_ORDER = np.random.default_rng(0).permutation(len(CLASS_NAMES))
CLAUSES = {
    "object": tuple(f"a {CLASS_NAMES[i]}" for i in _ORDER),  # so that a few have all shapes
    "floor": tuple(f"on a {floor} floor" for floor in FLOORS),
    "sky": tuple(SKY_PHRASES.values()),
}


def clause_prompts(n: int) -> list[ClausePrompt]:
    """n prompts: half of objects, a quarter of floors, a quarter of skies, each kind in turns."""
    kinds = [("object", "floor", "object", "sky")[i % 4] for i in range(n)]
    number = [kinds[:i].count(kind) for i, kind in enumerate(kinds)]
    pairs = zip(kinds, number, strict=True)
    return [ClausePrompt(kind, CLAUSES[kind][k % len(CLAUSES[kind])]) for kind, k in pairs]
