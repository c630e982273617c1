"""Every task of the paper on the scenes, trained and judged: one figure and one table.

    python benchmarks/tasks.py FOLDER [--only layout "semantic map"] [--perceptual-file FILE]
    python benchmarks/tasks.py FOLDER --shipped

The first trains what is not trained yet under FOLDER, a run for each task, on the first stages
that come with the package, or on those of the runs FOLDER/scenes-64 and FOLDER/scenes-64-f4 where
these are. The second judges the models that come with the package under the names of the tasks.

Each model samples for held-out scenes. In-painting stands beside mean fill and beside blending: the
unconditional model, with known latents put in at every step. Super-resolution stands beside bicubic
enlargement and beside a regression: the same network on the same condition, which predicts the
latent at once (T = 1).

Prints the table, and writes FOLDER/tasks.json, all numbers, and FOLDER/tasks.png: the first two
conditions, samples and truths of each task.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from tasks_figure import Example, figure
from unconditional import blended

import ldm_jax
from ldm_jax import LatentDiffusion, plots
from ldm_jax.commands.train.held_out import HeldOut
from ldm_jax.commands.train.judge import distances, judge, kernel_distances
from ldm_jax.data.open import open_sources
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.model.data import EXTRAS
from ldm_jax.pretrained.lpips import load_lpips
from ldm_jax.shipped import shipped_models

TRAIN = Path(__file__).parent.parent / "train.py"
# Task -> (its experiment, the name of its run, further options).
REGRESSION = "--diffusion.prediction z_0 --sampling.steps 1 --diffusion.schedule.timesteps 1 "
REGRESSION += "--diffusion.schedule.beta-start 0.9999 --diffusion.schedule.beta-end 0.9999"
TASKS = {
    "text": ("scenes-text", "scenes-text", ""),
    "class": ("scenes-class", "scenes-class", ""),
    "unconditional": ("scenes-unconditional", "scenes-unconditional", ""),
    "layout": ("scenes-layout", "scenes-layout", ""),
    "semantic map": ("scenes-semantic", "scenes-semantic", ""),
    "in-painting": ("scenes-inpainting", "scenes-inpainting", ""),
    "regression": ("scenes-super-resolution", "scenes-regression", REGRESSION),
    "super-resolution x4": ("scenes-super-resolution", "scenes-super-resolution", ""),
}
READ = {
    "whole": "every word right",
    "valid": "proper scenes",
    "objects": "objects right",
    "relation": "relations right",
    "iou": "box IoU",
    "named": "shape and colour in its box",
    "mean_iou": "mean IoU",
}
DISTANCES = {"lpips_squeezenet": "LPIPS", "psnr": "PSNR", "ssim": "SSIM"}
# Who is judged -> how the table calls it, where it stands beside the samples
BESIDE = {
    "floor": "shuffled",
    "bicubic": "bicubic",
    "mean_fill": "mean fill",
    "blended": "blended",
    "regression": "regression",
}
HEADER = ("| task | measure | samples | beside | reconstructed | true renders |", f"|{'---|' * 6}")
SHOWN = 2


@dataclass(frozen=True)
class Judged:
    """A model of a task, what it has drawn, and the numbers."""

    model: LatentDiffusion
    held_out: HeldOut
    images: np.ndarray
    """uint8 `[n, H, W, 3]`, a sample for each of the held-out conditions."""
    reference: np.ndarray
    """Other held-out images."""
    report: dict
    """As `judge` makes it."""


def words(folder: Path, task: str) -> list[str]:
    """What `python train.py` is to be told for a task."""
    experiment, run, more = TASKS[task]
    first = folder / EXPERIMENTS[experiment]().autoencoder.from_run
    own = ["--autoencoder.from-run", str(first)] if (first / "config.json").exists() else []
    return [experiment, "--run-dir", str(folder / run), *own, *more.split()]


def trained(folder: Path, task: str) -> str:
    """The run of a task, which is trained first if need be."""
    subprocess.run([sys.executable, str(TRAIN), *words(folder, task)], check=True)
    return str(folder / TASKS[task][1])


def judged(model: LatentDiffusion, title: str, lpips: dict | None) -> Judged:
    """Samples for held-out conditions, measured as at the end of training."""
    config, kind = model.config, model.info.condition
    n, shown = config.evaluation.judged_images, config.evaluation.num_images
    source = open_sources(config.data, config.seed, EXTRAS.get(kind, ()))[1]
    held_out = HeldOut.read(source, model.condition, n, min(n, shown))
    images = held_out.sample(model, model.settings, progress=title)
    reference = HeldOut.others(source, n, min(n, shown))
    report = judge(config, kind, held_out, images, model.reconstruct, reference, lpips)
    return Judged(model, held_out, images, reference, report)


def stand_beside(one: Judged, name: str, images: np.ndarray, lpips: dict | None) -> None:
    """Adds other restorations of the same images to the numbers of a task."""
    truth = one.held_out.truth["image"][: len(images)]
    one.report["restored"][name] = distances(truth, images, lpips)
    if "kid" in one.report:
        one.report["kid"][name] = kernel_distances({name: images}, one.reference)[name]


def rows(task: str, report: dict) -> list[str]:
    """Lines of the table: what the samples have, and what to compare it to."""
    lines = []

    def line(measure: str, said: dict[str, str]) -> None:
        beside = [f"{name} {said[who]}" for who, name in BESIDE.items() if who in said]
        cells = [task, measure, said["samples"], ", ".join(beside)]
        cells += [said.get("reconstructed", ""), said.get("ceiling", "")]
        lines.append(f"| {' | '.join(cells)} |")

    for name, measure in READ.items():
        shares = report.get("reader", {})
        if name in shares.get("samples", ()):
            scores = {who: one for who, one in shares.items() if isinstance(one, dict)}
            line(measure, {who: f"{one[name]:.1%}" for who, one in scores.items()})
    restored = report.get("restored", {})
    for name, measure in DISTANCES.items():
        if name in restored.get("samples", ()):
            scores = {who: one for who, one in restored.items() if isinstance(one, dict)}
            line(measure, {who: f"{one[name]:.3g}" for who, one in scores.items()})
    if kid := report.get("kid"):
        scores = {who: one for who, one in kid.items() if isinstance(one, dict)}
        said = {who: f"{s['mean']:.4f} ± {s['standard_error']:.4f}" for who, s in scores.items()}
        line(f"KID ({kid['features']} features)", said | {"ceiling": said["held_out"]})
    return lines


def examples(one: Judged) -> list[Example]:
    """The first of a task, for the figure."""
    held_out, images = one.held_out, one.images
    shown = []
    for i in range(SHOWN):
        truth = held_out.truth["image"][i]
        condition: np.ndarray | str = "none"
        if one.model.info.condition == "layout":
            boxes = held_out.truth["boxes"][i], held_out.truth["box_labels"][i]
            known = boxes[1] >= 0
            names = [one.model.info.box_names[label] for label in boxes[1][known]]
            condition = plots.with_boxes(None, boxes[0][known], names, 2, truth.shape[:2])
        elif held_out.condition is not None:
            row = {key: values[i : i + 1] for key, values in held_out.conditions.items()}
            pixels = held_out.condition.as_image(row)
            text = held_out.condition.labels({k: v[i : i + 1] for k, v in held_out.truth.items()})
            condition = text[0] if pixels is None else pixels[0]
        else:
            truth = None
        shown.append(Example(condition, images[i], truth))
    return shown


def compare(models: Iterable[tuple[str, LatentDiffusion]], folder: Path, lpips: dict | None) -> str:
    """Judges (task, model) after each other; writes the figure and all numbers, returns the table.

    The unconditional model is to come before in-painting, and the regression before
    super-resolution, where they are to stand beside them.
    """
    done: dict[str, Judged] = {}
    for task, model in models:
        one = done[task] = judged(model, task, lpips)
        if task == "in-painting" and "unconditional" in done:
            truth, masks = one.held_out.truth["image"], one.held_out.conditions["mask"]
            stand_beside(one, "blended", blended(done["unconditional"].model, truth, masks), lpips)
        if task == "super-resolution x4" and "regression" in done:
            stand_beside(one, "regression", done["regression"].images, lpips)
    shown = {task: one for task, one in done.items() if task != "regression"}
    folder.mkdir(parents=True, exist_ok=True)
    reports = {task: one.report for task, one in done.items()}
    (folder / "tasks.json").write_text(json.dumps(reports, indent=2) + "\n")
    plots.save_png(folder / "tasks.png", figure({t: examples(one) for t, one in shown.items()}))
    return "\n".join([*HEADER, *(line for t, one in shown.items() for line in rows(t, one.report))])


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS))
    arguments.add_argument("--shipped", action="store_true", help="judge the package's own models")
    arguments.add_argument("--perceptual-file", default="", help="weights of LPIPS on SqueezeNet")
    options = arguments.parse_args()
    file = options.perceptual_file
    lpips = load_lpips("squeezenet", file) if file else None
    asked = [task for task in TASKS if task in options.only]  # in the order of the table
    if options.shipped:
        places = {task: TASKS[task][1] for task in asked if TASKS[task][1] in shipped_models()}
    else:
        places = {task: trained(options.folder, task) for task in asked}
    if not places.keys() - {"regression"}:
        arguments.error("none of these models comes with the package, or only a regression")
    jax.config.update("jax_num_cpu_devices", 2)  # one a core, as sample.py has them
    models = ((task, ldm_jax.load(place)) for task, place in places.items())
    print(compare(models, options.folder, lpips))


if __name__ == "__main__":
    main()
