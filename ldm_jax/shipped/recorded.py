"""What is recorded of the zoo of autoencoders: images and numbers, read by NumPy alone.

Some of the autoencoders are there with their weights, too: `ldm_jax.load("zoo/NAME")`.
`docs/zoo.md` says how they are made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.shipped import FOLDER


class RecordedAutoencoder(NamedTuple):
    """What an autoencoder makes of the scenes, after training or at a moment of it."""

    numbers: dict[str, Any]
    """PSNR in dB, SSIM, LPIPS, KID, what the reader of scenes reads, facts of the latents ..."""
    images: np.ndarray
    """Reconstructions of the scenes, uint8 `[8, H, W, 3]`."""
    noise: np.ndarray
    """Images decoded from standard normal latents, uint8 `[8, H, W, 3]`."""
    counts: np.ndarray
    """The histogram of the latents: how many values are in each bin, int32 `[60]`."""
    edges: np.ndarray
    """The edges of its bins, float32 `[61]`."""
    logits_real: np.ndarray | None = None
    """What the adversary makes of the patches of the scenes, float32 `[8, h, w]`; None without."""
    logits_fake: np.ndarray | None = None
    """Of their reconstructions, likewise."""
    moments: dict[int, RecordedAutoencoder] = {}
    """The same after fewer steps of the training: steps -> what it made then."""


class RecordedZoo(NamedTuple):
    """All autoencoders, on the same held-out scenes."""

    facts: dict[str, Any]
    """What is the same for all, where and when they were trained, `groups` of members to compare,
    and numbers of `true_renders`."""
    scenes: np.ndarray
    """The scenes, uint8 `[8, H, W, 3]`."""
    captions: list[str]
    members: dict[str, RecordedAutoencoder]


def recorded_zoo(folder: Path = FOLDER / "zoo") -> RecordedZoo:
    """The zoo that is recorded in `zoo.json` and `zoo.npz`."""
    recorded = json.loads((folder / "zoo.json").read_text())
    arrays: dict[str, dict[str, np.ndarray]] = {}
    with np.load(folder / "zoo.npz") as file:
        for key in file.files:
            place, _, name = key.rpartition("/")
            arrays.setdefault(place, {})[name] = file[key]
    members = {}
    for name, numbers in recorded.pop("members").items():
        moments = {
            int(step): RecordedAutoencoder(one, **arrays[f"{name}/{step}"])
            for step, one in numbers.pop("moments").items()
        }
        members[name] = RecordedAutoencoder(numbers, **arrays[name], moments=moments)
    return RecordedZoo(recorded, arrays[""]["scenes"], recorded.pop("captions"), members)
