"""How many images a second the input pipeline makes, and whether a step waits for them.

    python benchmarks/loader.py --folder PHOTOGRAPHS --step-ms 30

Three sources: cached latents and scenes, both in memory, and a folder of photographs that are read
and decoded for every batch, with random crops and flips. `alone` is a consumer that does nothing,
its images a CPU second do not depend on what else the machine does. The wait is the share of its
time that a consumer whose steps take --step-ms waits for data. Without prefetch each batch is made
when it is asked for.
"""

import argparse
import time

import numpy as np

from ldm_jax.commands.train.latents import one_view
from ldm_jax.data.folder import FolderConfig, FolderSource
from ldm_jax.data.loader import Loader, flip
from ldm_jax.data.scenes import ScenesConfig, ScenesSource, render_all
from ldm_jax.data.source import ArraySource


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--folder", help="photographs; without, the other two sources alone")
    arguments.add_argument("--size", type=int, default=256, help="side of the photographs")
    arguments.add_argument("--batch-size", type=int, default=32)
    arguments.add_argument("--batches", type=int, default=24, help="that each figure comes from")
    arguments.add_argument("--step-ms", type=float, default=30.0)
    options = arguments.parse_args()
    print(
        "| source | threads | images/s alone | images a CPU second |"
        f" wait at {options.step_ms:g} ms a step |\n|---|---|---|---|---|"
    )
    for name, (source, transform) in sources(options).items():
        for threads in (None, 1, 2, 4):
            loader = Loader(
                source, options.batch_size, seed=0, transform=transform, threads=threads or 1
            )
            figures = []
            for step_s in (0.0, options.step_ms / 1000):
                batches = loader.iterate() if threads else map(loader.batch, range(10**9))
                figures.append(consumed(batches, options.batches, step_s))
            (seconds, cpu_s, _), (busy, _, waited) = figures
            n = options.batches * options.batch_size
            print(
                f"| {name} | {threads or 'no prefetch'} | {n / seconds:,.0f} | {n / cpu_s:,.0f} | "
                f"{waited / busy:.0%} |",
                flush=True,
            )


def sources(options) -> dict:
    """Name -> (source, transform), in the shapes that training has."""
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(2048, 2, 32, 32, 8)).astype(np.float32)  # both views, f = 8
    scenes = render_all(ScenesSource(ScenesConfig(64, "full", 256), "train"))
    made = {
        "cached latents 32x32x4": (ArraySource({"encoded": latents}), one_view),
        "scenes 64x64": (ArraySource({"image": scenes["image"]}), flip),
    }
    if options.folder:
        config = FolderConfig(path=options.folder, size=options.size, crop="random")
        folder = FolderSource(config, memory_bytes=0)
        folder.read(np.arange(len(folder))[:64])  # files that the system has not read yet
        made[f"photographs {options.size}x{options.size}"] = folder, flip
    return made


def consumed(batches, n: int, step_s: float) -> tuple[float, float, float]:
    """(seconds for n batches, of the CPU, of waiting) of a consumer whose steps take `step_s`.

    The first batch, before which nothing can have been made ahead, does not count.
    """
    next(batches)
    waited, start, cpu = 0.0, time.perf_counter(), time.process_time()
    for _ in range(n):
        time.sleep(step_s)
        asked = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - asked
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    if hasattr(batches, "close"):
        batches.close()
    return seconds, cpu_s, waited


if __name__ == "__main__":
    main()
