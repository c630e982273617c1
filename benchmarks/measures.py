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
from matplotlib.lines import Line2D
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
MARKERS = "osD^vP*X"
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
    arguments.add_argument("--features", choices=NETWORKS, default="scene-reader")
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

    draw(rows, list(wrong), options.out)


def signed_root(values):
    return np.sign(values) * np.sqrt(np.abs(values))


def signed_square(values):
    return np.sign(values) * np.square(values)


def draw(rows, wrong, file):
    """A panel for each measure: its value against the share that is replaced."""
    figure = Figure(figsize=(13, 7.2), layout="constrained")
    panels = figure.subplots(2, 4)
    for column, (axes, title) in enumerate(zip(panels.flat, COLUMNS, strict=False)):
        for number, name in enumerate(wrong):
            values = [rows[name, share][column] for share in SHARES]
            style = {"color": f"C{number}", "marker": MARKERS[number], "ms": 6, "lw": 2}
            axes.plot(SHARES, values, label=name, **style)
            if title == "KID":
                fine = np.linspace(0, 1, 50)
                axes.plot(fine, fine**2 * values[-1], ":", color="black", lw=1.2, zorder=3)
        perfect = np.mean([rows[name, 0.0][column] for name in wrong])
        axes.axhline(perfect, color="black", lw=0.8, alpha=0.5)
        if title in COLUMNS[:2]:  # squared distances: what they are of a mixture is a line then
            axes.set_yscale("function", functions=(signed_root, signed_square))
            title += ", square-root scale"
        axes.set_title(title, fontsize=12)
        axes.set_xticks(SHARES, [f"{share:.0%}" for share in SHARES])
        axes.tick_params(labelsize=10)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[1]:
        axes.set_xlabel("share of the images that is replaced", fontsize=10)
    panels[0, 3].set_xlabel(panels[1, 3].get_xlabel(), fontsize=10)  # above the legend
    last = panels[1, 3]
    last.axis("off")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    handles.append(Line2D([], [], color="black", ls=":", lw=1.2))
    handles.append(Line2D([], [], color="black", lw=0.8, alpha=0.5))
    labels += ["KID as it must be", "true renders alone: the best"]
    last.legend(handles, labels, loc="center left", fontsize=11, frameon=False)
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    main()
