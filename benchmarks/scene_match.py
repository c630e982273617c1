"""Which images does the distance to the world take for proper scenes?

    python benchmarks/scene_match.py --level single --size 64 --images 200

matches true renders, damaged ones and objects that the world does not have with their nearest true
renders, from the readings of the scene reader, or from the true factors with an error (`--start
noise`). Prints, of each kind, percentiles of the PSNR over the objects and the share that is
proper.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
from improper_scenes import IMPROPER, improper

from ldm_jax.data.scenes.source import ScenesConfig, ScenesSource
from ldm_jax.data.scenes.world import LEVELS
from ldm_jax.evaluation.scene_factors import errors, factors, with_factors
from ldm_jax.evaluation.scene_guess import guess_scenes, object_masks
from ldm_jax.evaluation.scene_match_set import match_set
from ldm_jax.evaluation.scene_reader import read


def noisy_reading(scene, rng):
    """The scene as a reader would read it."""
    values = factors(scene)
    read = with_factors(scene, values + errors(scene) * rng.normal(size=values.shape))
    return replace(
        read,
        offset=(float(rng.random()), float(rng.random())),
        floor_turn=float(rng.uniform(-0.6, 0.6)),
        floor_tone=float(rng.random()),
    )


def main():
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--level", choices=LEVELS, default="single")
    arguments.add_argument("--size", type=int, choices=(32, 64), default=64)
    arguments.add_argument("--images", type=int, default=200, help="of each kind")
    arguments.add_argument("--start", choices=("reader", "noise"), default="reader")
    arguments.add_argument("--workers", type=int, help="processes; by default one per core")
    options = arguments.parse_args()
    config = ScenesConfig(options.size, options.level, validation_count=options.images)
    source = ScenesSource(config, "validation", seed=1)
    print(
        "| kind | PSNR: 3 % | 50 % | 97 % | proper | renders an image |\n|---|---|---|---|---|---|"
    )
    start, total = time.perf_counter(), 0
    for name in IMPROPER:
        rng = np.random.default_rng(0)
        made = [improper(name, source.scene(i), options.size, rng) for i in range(options.images)]
        images, objects = (np.stack([one[k] for one in made]) for k in (0, 1))
        guesses = [noisy_reading(scene, rng) for *_, scene in made]
        if options.start == "reader":
            seen = read(images)
            guesses, objects = guess_scenes(seen), object_masks(seen)
        some = [i for i, guess in enumerate(guesses) if guess.objects]
        found = match_set(
            images[some],
            [guesses[i] for i in some],
            objects[some],
            options.level,
            workers=options.workers,
            progress=True,
        )
        total += len(images)
        proper = sum(one.is_proper for one in found) / len(images)
        low, median, high = np.percentile([one.psnr for one in found] or [np.nan], [3, 50, 97])
        renders = np.mean([one.renders for one in found] or [0])
        print(
            f"| {name} | {low:.1f} | {median:.1f} | {high:.1f} | {proper:.1%} | {renders:.0f} |",
            flush=True,
        )
    seconds = (time.perf_counter() - start) / total
    print(f"\n{options.images} images a kind, {seconds:.2f} s each with all processes together")


if __name__ == "__main__":
    main()
