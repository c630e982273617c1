"""Captions of scenes that lose clauses at random while a model is trained."""

from __future__ import annotations

from typing import Any

from ldm_jax.data.loader import Batch
from ldm_jax.data.scenes.clauses import shortened
from ldm_jax.data.source import Rngs
from ldm_jax.model.conditions import Condition, TextCondition

VARIANTS = 16  # shorter captions of an image, kept as tokens beside its latent


class ShortenedCaptions(TextCondition):
    """Captions of scenes; a training step reads a shorter one with some probability."""

    def __init__(self, encoder: Any, probability: float):
        super().__init__(encoder)
        self.probability = probability

    def to_cache(self, batch: Batch) -> Batch:
        captions = batch["caption"]
        texts = [text for caption in captions for text in shortened(caption, VARIANTS)]
        tokens = self.encoder.encode(texts, strict=False)
        return {
            **super().to_cache(batch),
            "shortened": tokens.reshape(len(captions), VARIANTS, tokens.shape[-1]),
        }

    def to_batch(self, cached: Batch, rngs: Rngs) -> Batch:
        tokens = cached["condition"].copy()
        for row, variants, rng in zip(tokens, cached["shortened"], rngs or (), strict=False):
            if rng.random() < self.probability:
                row[:] = variants[rng.integers(VARIANTS)]
        return {"condition": tokens}


def in_training(condition: Condition | None, drop_clauses: float) -> Condition | None:
    """The condition as training reads it: captions lose clauses with this probability."""
    if drop_clauses and isinstance(condition, TextCondition):
        return ShortenedCaptions(condition.encoder, drop_clauses)
    return condition
