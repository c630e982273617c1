"""What the networks need to know of the data besides its configuration."""

from __future__ import annotations

from dataclasses import dataclass

from ldm_jax.experiments.config import ConditionKind


@dataclass(frozen=True)
class DataInfo:
    """Facts that the data decides: kind of condition, names, vocabulary."""

    channels: int
    """Channels of the images."""
    condition: ConditionKind
    """`condition` of the configuration, with auto decided."""
    class_names: tuple[str, ...] = ()
    """Names of the classes, where the data has some."""
    vocabulary: tuple[str, ...] = ()
    """Words of the captions, for text."""
    caption_length: int = 0
    """Words a caption may have, for text."""
    box_names: tuple[str, ...] = ()
    """Names of the objects in boxes, for layout."""
    semantic_classes: int = 0
    """Channels of a one-hot semantic map, for semantic."""
    embedding_dim: int = 768
    """Width of an embedding, for image-embedding; 768: of CLIP ViT-L/14, as published."""
    tokenizer: str = ""
    """Content of tokenizer.json, for text with a published tokenizer."""
    images: int = 0
    """Training images; 0: not known, of published weights."""
    held_out: int = 0
    """Held-out images."""
    held_out_below: float = 0.0
    """The number below which the `hash_positions` of held-out images lie; 0: split otherwise."""
    files_digest: str = ""
    """Of the names and sizes of all image files; '': the configuration says all."""
    labels_digest: str = ""
    """Of their captions, boxes and maps."""
