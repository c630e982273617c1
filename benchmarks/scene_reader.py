"""Does the scene reader see? What it reads in renders as they are, with small faults, and damaged.

    python benchmarks/scene_reader.py

prints, for each size and level of the scenes, the share of captions read back whole and of the
words of each kind. Its `shape` must fall where edges are gone, and stay where a file has only the
faults that files have. Two minutes on two cores.
"""

import argparse

import numpy as np
from PIL import Image

from ldm_jax.data.scenes import ScenesConfig, ScenesSource
from ldm_jax.evaluation import scene_damage
from ldm_jax.evaluation.scene_reports import WORDS, caption_scores

RNG = np.random.default_rng(0)
CHANGES = {
    "as they are": lambda image: image,
    "JPEG 95": lambda image: scene_damage.jpeg(image, 95),
    "noise 1/255": lambda image: scene_damage.noise(image, 1, RNG),
    "half a pixel off": lambda image: scene_damage.shift(image, 0.5, 0.5),
    "blurred, 1/32 of the side": lambda image: scene_damage.blur(image, 1.0),
    "shrunk to 16x16": lambda image: scene_damage.thumbnail(image, 16),
    "shrunk to 6x6": lambda image: scene_damage.thumbnail(image, 6),
    "6x6, blocks": lambda image: scene_damage.thumbnail(image, 6, Image.Resampling.NEAREST),
    "warped, 1/32 of the side": lambda image: scene_damage.warp(image, 1.0, 1.2, RNG),
}


def main():
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--images", type=int, default=300)
    arguments.add_argument("--levels", nargs="+", default=("single", "pair", "full"))
    options = arguments.parse_args()
    names = ("whole", *WORDS)
    for level in options.levels:
        for size in (32, 64):
            config = ScenesConfig(size, level, validation_count=options.images)
            data = ScenesSource(config, "validation", 9).read(range(options.images))
            print(f"\n{level}, {size}x{size}, {options.images} held-out renders\n")
            print(f"| renders | {' | '.join(names)} |\n|---{'|---' * len(names)}|")
            for title, change in CHANGES.items():
                images = np.stack([change(image) for image in data["image"]])
                score = caption_scores(images, data["caption"])
                cells = (f"{score[name]:.1%}" if name in score else "" for name in names)
                print(f"| {title} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
