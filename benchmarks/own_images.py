"""What comes out of a folder of one's own: a figure of one or several runs on the same images.

    python benchmarks/own_images.py runs/from-nothing runs/tuned --out own_images.png

shows training images, held-out images, and for each run what its first stage makes of the held-out
images and samples of its second stage, eight each, with the PSNR and the shares of the
nearest-neighbour check. Choose images that may be shown.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tasks_figure import write_text

import ldm_jax
from ldm_jax.commands.train.held_out import HeldOut
from ldm_jax.data.open import open_sources
from ldm_jax.data.spread import spread
from ldm_jax.evaluation.distortion import psnr
from ldm_jax.model.resume import same_split
from ldm_jax.model.run_dir import RunDir

CELL, GAP, LABEL = 128, 4, 150  # pixels: an image's side, between two, of the titles at the left
SHOWN = 8


def rows_of(path):
    """(title, images) of each row that one run gives."""
    model, summary = ldm_jax.load(path), RunDir(path).summary()
    _, held_out = open_sources(same_split(model.config.data, model.info), model.config.seed)
    name = Path(path).name.replace("-", " ")
    x = held_out.read(spread(held_out, SHOWN))["image"]
    x_hat = model.reconstruct(x)
    nearest = summary.get("diffusion", {}).get("nearest", {})
    check = ""
    if "closer" in nearest:
        verdict = "passed" if nearest["passed"] else "failed"
        check = f", nearest-neighbour check {verdict} ({nearest['closer']:.0%})"
    samples = HeldOut.read(held_out, model.condition, SHOWN).sample(model, model.settings)
    return {
        f"{name}: reconstructions, {psnr(x, x_hat).mean():.1f} dB": x_hat,
        f"{name}: samples{check}": samples,
    }


def figure(rows):
    """Rows of images below each other with their titles at the left: uint8 `[H, W, 3]`.

    Pixels are enlarged as they are.
    """
    columns = max(map(len, rows.values()))
    size = LABEL + columns * (CELL + GAP), len(rows) * (CELL + GAP) - GAP
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for row, (title, images) in enumerate(rows.items()):
        y = row * (CELL + GAP)
        write_text(draw, title, (0, y), (LABEL - GAP, CELL))
        for column, image in enumerate(images):
            shown = Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)).copy())
            shown = shown.resize((CELL, CELL), Image.Resampling.NEAREST)
            canvas.paste(shown, (LABEL + column * (CELL + GAP), y))
    return canvas


def main():
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("runs", nargs="+", help="run directories, all on the same images")
    arguments.add_argument("--out", required=True, help="the figure, a .png")
    options = arguments.parse_args()
    _, config, info = RunDir(options.runs[0]).load()
    train, held_out = open_sources(same_split(config.data, info), config.seed)
    rows = {
        title: source.read(spread(source, SHOWN))["image"]
        for title, source in (("training images", train), ("held-out images", held_out))
    }
    for path in options.runs:
        rows |= rows_of(path)
    figure(rows).save(options.out)
    print(f"{len(rows)} rows in {options.out}")


if __name__ == "__main__":
    main()
