"""What does classifier-free guidance do (Table 3)? Classes at several scales.

    python benchmarks/guidance_scale.py runs/scenes-class

takes a run of single scenes by class, and prints for each guidance scale how many images show
shape and colour of their class (the scene reader's reading), and how different images of one class
still are (the standard deviation over images of each pixel, averaged), beside true renders.
"""

from dataclasses import replace

import numpy as np
from trained_run import held_out, options_of

import ldm_jax
from ldm_jax.data.scenes import CLASS_NAMES
from ldm_jax.evaluation.scene_reports import caption_scores


def variety(images: np.ndarray, classes: np.ndarray) -> float:
    """In bytes: 0 where all images of a class are one."""
    spread = [images[classes == c].std(axis=0).mean() for c in np.unique(classes)]
    return float(np.mean(spread))


def main():
    arguments = options_of(__doc__, images=512)
    arguments.add_argument("--scales", type=float, nargs="+", default=(1, 1.5, 2, 3, 5, 8))
    arguments.add_argument("--steps", type=int, default=25)
    options = arguments.parse_args()
    model, n = ldm_jax.load(options.run), options.images
    classes = np.arange(n) % len(model.info.class_names)
    settings = replace(model.settings, steps=options.steps, batch_size=32)
    names = ("shape", "colour", "whole")
    print(
        "| scale | shape as asked | colour as asked | both, and nothing else | variety |\n"
        "|---|---|---|---|---|"
    )

    def row(title, images, classes):
        right = caption_scores(images, [CLASS_NAMES[label] for label in classes])
        shares = " | ".join(f"{right[name]:.1%}" for name in names)
        print(f"| {title} | {shares} | {variety(images, classes):.1f} |", flush=True)

    for scale in options.scales:
        title = f"scale {scale:g}"
        images = model.sample(classes, settings=settings, guidance=scale, progress=title)
        row(f"{scale:g}", images, classes)
    truth = held_out(model, n)
    row("true renders", truth["image"], truth["class_label"])


if __name__ == "__main__":
    main()
