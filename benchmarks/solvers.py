"""How few steps will do? Each solver at several numbers of steps, on a run of scenes by captions.

    python benchmarks/solvers.py runs/scenes

prints, for each solver and number of steps, the share of pictures that show shape and colour as
asked (the oracle's reading, guidance 3), and how far they are from the pictures that 200 steps of
DDIM make of the same noise (mean PSNR); writes the same as curves to solvers.png. A step asks the
network once, the first step of plms twice.
"""

import argparse

import jax
import numpy as np
from matplotlib.figure import Figure

from ldm_jax.conditioning.tokenizer import Tokenizer
from ldm_jax.data.scenes import ScenesSource
from ldm_jax.evaluation.distortion import psnr
from ldm_jax.evaluation.oracle import agreement
from ldm_jax.experiments.models import SecondStage
from ldm_jax.experiments.run_dir import RunDir
from ldm_jax.experiments.trained import load_weights, placed

SOLVERS = ("ddim", "plms", "dpmpp-2m")
STEPS = (5, 10, 20, 50)


def main():
    jax.config.update("jax_num_cpu_devices", 2)  # one a core, as sample.py has them
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("run")
    arguments.add_argument("--pictures", type=int, default=256)
    arguments.add_argument("--out", default="solvers.png")
    options = arguments.parse_args()
    run = RunDir(options.run)
    _, experiment, facts = run.load()
    second = SecondStage(experiment, facts)
    data, n = experiment.data, options.pictures
    held_out = ScenesSource(data.size, data.level, n, experiment.seed, "validation").read(range(n))
    captions = Tokenizer(facts.vocabulary, facts.caption_length).encode(held_out["caption"])
    weights, split = placed(load_weights(run, experiment), experiment, n)

    def drawn(sampler, steps):
        return second.generator(
            *weights,
            captions,
            sampler=sampler,
            steps=steps,
            guidance=3.0,
            batch_size=32,
            sharding=split,
            progress=f"{sampler} {steps}",
        )

    exact, rows = drawn("ddim", 200), {}
    print("| solver | steps | shape and colour as asked | PSNR to DDIM 200 |\n|---|---|---|---|")
    for sampler in SOLVERS:
        for steps in STEPS:
            pictures = drawn(sampler, steps)
            right = agreement(pictures, held_out["class_label"])["both"]
            near = float(np.mean(psnr(exact, pictures)))
            rows[sampler, steps] = right, near
            print(f"| {sampler} | {steps} | {right:.1%} | {near:.1f} dB |", flush=True)
    figure = Figure(figsize=(7, 3), layout="constrained")
    titles = ("shape and colour as asked", "PSNR to 200 steps of DDIM [dB]")
    for column, (axes, title) in enumerate(zip(figure.subplots(1, 2), titles, strict=True)):
        for sampler in SOLVERS:
            axes.plot(STEPS, [rows[sampler, s][column] for s in STEPS], "o-", label=sampler)
        axes.set(title=title, xlabel="steps", xscale="log", xticks=STEPS, xticklabels=STEPS)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(options.out, dpi=100)


if __name__ == "__main__":
    main()
