"""How few steps will do? Each solver at several numbers of steps, on a run of scenes by captions.

    python benchmarks/solvers.py runs/scenes

prints, for each solver and number of steps, the share of images with the object of their class and
no other (the scene reader's reading, guidance 3), and how far they are from the images that 200
steps of DDIM make of the same noise (mean PSNR); writes the same as curves to solvers.png. A step
asks the network once, the first step of plms twice.
"""

from functools import partial

import numpy as np
from matplotlib.figure import Figure
from trained_run import held_out, options_of

import ldm_jax
from ldm_jax.data.scenes import CLASS_NAMES
from ldm_jax.evaluation.distortion import psnr
from ldm_jax.evaluation.scene_reports import caption_scores

SOLVERS = ("ddim", "plms", "dpmpp-2m")
STEPS = (5, 10, 20, 50)


def main():
    arguments = options_of(__doc__)
    arguments.add_argument("--out", default="solvers.png")
    options = arguments.parse_args()
    model = ldm_jax.load(options.run)
    truth = held_out(model, options.images)
    sample = partial(
        model.sample, list(truth["caption"]), guidance=3.0, spacing="uniform", batch_size=32
    )

    names = [CLASS_NAMES[label] for label in truth["class_label"]]
    exact, rows = sample(sampler="ddim", steps=200, progress="ddim 200"), {}
    print("| solver | steps | object as asked | PSNR to DDIM 200 |\n|---|---|---|---|")
    for sampler in SOLVERS:
        for steps in STEPS:
            images = sample(sampler=sampler, steps=steps, progress=f"{sampler} {steps}")
            right = caption_scores(images, names)["whole"]
            near = float(np.mean(psnr(exact, images)))
            rows[sampler, steps] = right, near
            print(f"| {sampler} | {steps} | {right:.1%} | {near:.1f} dB |", flush=True)
    figure = Figure(figsize=(7, 3), layout="constrained")
    titles = ("object as asked", "PSNR to 200 steps of DDIM [dB]")
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
