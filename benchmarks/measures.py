"""What do the measures see? Each of them on sets of scenes that are wrong in a known way.

    python benchmarks/measures.py --features efficientnet-lite0

compares held-out renders with renders of another seed, as a perfect model would make them, of which
a share is replaced: by blurred, noisy or tiny images, by images of half of the classes, by
ten images again and again, by training images. Prints each measure where all are replaced, and
draws it against the share. There the true course of KID is known: the squared distance to a
mixture is the share squared times the distance to what is mixed in (dotted).
"""

import argparse

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageFilter

from ldm_jax.data.scenes.source import ScenesConfig, ScenesSource
from ldm_jax.evaluation.features import NETWORKS, extract
from ldm_jax.evaluation.frechet import frechet_distance
from ldm_jax.evaluation.kid import kid
from ldm_jax.evaluation.manifold import density_coverage, precision_recall
from ldm_jax.evaluation.nearest import memorisation
from ldm_jax.evaluation.sliced import sliced_wasserstein
from ldm_jax.pretrained.feature_networks import load_network

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
MODES = 10  # images that a collapsed model makes
THUMBNAIL = 6  # pixels of a side
COLUMNS = ("KID", "sliced W2", "precision", "recall", "density", "coverage", "closer")


def each(change):
    """A function of one Pillow image as one of uint8 `[n, H, W, 3]`."""
    return lambda images: np.stack([np.asarray(change(Image.fromarray(x))) for x in images])


def thumbnail(image):
    small = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.BICUBIC)


def noisy(images):
    noise = np.random.default_rng(0).normal(0, 10, images.shape)
    return np.clip(np.round(images + noise), 0, 255).astype(np.uint8)


CHANGES = {
    "blurred by 1 pixel": each(lambda image: image.filter(ImageFilter.GaussianBlur(1))),
    "noise of 10 / 255": noisy,
    f"shrunk to {THUMBNAIL}x{THUMBNAIL}": each(thumbnail),
}


def measures(real, generated, training):
    """One row: `COLUMNS`, and the standard error of KID."""
    distance = kid(real=real, generated=generated)
    shares = precision_recall(real=real, generated=generated)
    within = density_coverage(real=real, generated=generated)
    near = memorisation(training=training, generated=generated, held_out=real)
    sliced = sliced_wasserstein(real=real, generated=generated).distance
    row = (distance.mean, sliced, shares.precision, shares.recall)
    return (*row, within.density, within.coverage, near.closer), distance.standard_error


def renders(split, seed, count, size):
    config = ScenesConfig(size=size, count=count, validation_count=count)
    return ScenesSource(config, split, seed).read(range(count))


def main():
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--features", choices=NETWORKS, default="efficientnet-lite0")
    arguments.add_argument("--weights", default="", help="a file, where it is not found without")
    arguments.add_argument("--images", type=int, default=1000, help="in each set")
    arguments.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    arguments.add_argument("--out", default="measures.png")
    options = arguments.parse_args()
    num = options.images
    fresh = renders(
        "validation", 1, 3 * num, options.size
    )  # of these half have half of the classes
    perfect, others = fresh["image"][:num], fresh["image"][num:]
    few_classes = others[fresh["class_label"][num:] % 2 == 0]
    images = {
        "training": renders("train", 0, num, options.size)["image"],
        "real": renders("validation", 0, num, options.size)["image"],
        "good": perfect,
        "half of the classes": np.resize(few_classes, perfect.shape),
        **{name: change(perfect) for name, change in CHANGES.items()},
    }
    found = extract(
        NETWORKS[options.features],
        load_network(options.features, options.weights),
        np.concatenate(list(images.values())),
        progress=True,
    )
    features = dict(zip(images, np.split(found, len(images)), strict=True))
    training, real, good = (features.pop(name) for name in ("training", "real", "good"))
    wrong = {
        **features,
        f"{MODES} images again and again": np.resize(good[:MODES], good.shape),
        "training images": training,
    }

    print(f"{num} images a set, {options.size}x{options.size}, features of {options.features}\n")
    print(f"| set | {' | '.join(COLUMNS)} | Frechet distance |\n|---{'|---' * 8}|")
    order, rows = np.random.default_rng(0).permutation(num), {}
    for name, bad in {"true renders": good, **wrong}.items():
        for share in SHARES:
            mixed = good.copy()
            mixed[order[: round(share * num)]] = bad[order[: round(share * num)]]
            rows[name, share], error = measures(real, mixed, training)
        frechet = frechet_distance(real=real, generated=bad).distance
        value, sliced, *shares = rows[name, 1.0]
        cells = [f"{value:.4f} ± {error:.4f}", f"{sliced:.1f}", *(f"{x:.2f}" for x in shares)]
        print(f"| {name} | {' | '.join(cells)} | {frechet:.0f} |", flush=True)

    figure = Figure(figsize=(12, 6), layout="constrained")
    panels = figure.subplots(2, 4).flat
    for column, (axes, title) in enumerate(zip(panels, COLUMNS, strict=False)):
        for number, name in enumerate(wrong):
            values = [rows[name, share][column] for share in SHARES]
            axes.plot(SHARES, values, "o-", ms=3, color=f"C{number}", label=name)
            if title == "KID":
                known = [share**2 * values[-1] for share in SHARES]
                axes.plot(SHARES, known, ":", color="black", lw=1)
        axes.set(title=title, xlabel="share replaced")
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    last = figure.axes[-1]
    last.axis("off")
    last.legend(handles, labels, loc="center")
    figure.savefig(options.out, dpi=100)


if __name__ == "__main__":
    main()
