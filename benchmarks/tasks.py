"""Every task of the paper on the scenes, trained and judged: the table of docs/tasks.md.

    python benchmarks/tasks.py runs [--only layout "semantic map"] [--perceptual-file FILE]

Trains what is not trained yet under that folder, one run a task, of which many share a first stage,
and prints what the summaries say, then what guidance does to classes, and what the unconditional
model can be led to. Super-resolution has a regression of the same size beside it:
the same network on the same condition, which predicts the latent at once (T = 1).
FOLDER/tasks.png shows eight conditions, samples and truths of each task that has images of them.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
REGRESSION = "--diffusion.prediction z_0 --sampling.steps 1 --diffusion.schedule.timesteps 1 "
REGRESSION += "--diffusion.schedule.beta-start 0.9999 --diffusion.schedule.beta-end 0.9999"
FIRST, SEVERAL = "scenes", "scenes-autoencoder"
# Task: (experiment, the run that has its first stage, further options).
TASKS = {
    "text, one object": ("scenes", "", ""),
    "class": ("scenes-class", FIRST, ""),
    "unconditional": ("scenes-unconditional", FIRST, ""),
    "layout": ("scenes-layout", FIRST, ""),
    "semantic map": ("scenes-semantic", FIRST, ""),
    "in-painting": ("scenes-inpainting", FIRST, ""),
    "text, one or two objects": ("scenes-text", SEVERAL, ""),
    "super-resolution": ("scenes-super-resolution", SEVERAL, ""),
    "regression": ("scenes-super-resolution", SEVERAL, REGRESSION),
}
NUMBERS = {
    "whole": "whole caption",
    "valid": "proper scenes",
    "objects": "objects",
    "relation": "relations",
    "iou": "box IoU",
    "mean_iou": "mean IoU",
}
DISTANCES = {"lpips_squeezenet": "LPIPS", "psnr": "PSNR", "ssim": "SSIM"}
SHOWN_TASKS = ("layout", "semantic map", "in-painting", "super-resolution")


def trainings(folder: Path, task: str, perceptual_file: str) -> dict[Path, list[str]]:
    """Run directory -> words for train.py: of the first stage if it is borrowed, of the task."""
    experiment, first, more = TASKS[task]
    words, before = [experiment, *more.split()], {}
    if first:
        before = {folder / first: [first, "--stage", "autoencoder"]}
        words += ["--autoencoder.from-run", str(folder / first)]
    if perceptual_file:
        words += ["--evaluation.perceptual-file", perceptual_file]
    name = f"{experiment}-{task}" if task == "regression" else experiment
    asked = before | {folder / name: words}
    return {run: [*words, "--run-dir", str(run)] for run, words in asked.items()}


def trained_task(folder: Path, task: str, perceptual_file: str) -> dict:
    """The summary of a task's run, which is trained first if need be, and so is its first stage."""
    asked = trainings(folder, task, perceptual_file)
    for words in asked.values():
        subprocess.run([sys.executable, str(HERE.parent / "train.py"), *words], check=True)
    *_, run = asked
    return json.loads((run / "summary.json").read_text())


def rows(task: str, summary: dict) -> list[str]:
    """Lines of the table: what the samples have, and what to compare it to."""
    stage = summary["diffusion"]
    minutes = f"{stage['seconds'] / 60:.0f} min"
    if report := stage.get("restored"):
        report = {who: scores for who, scores in report.items() if isinstance(scores, dict)}
        measured = {name: said for name, said in DISTANCES.items() if name in report["samples"]}

        def said(who):
            return ", ".join(f"{report[who][name]:.3g}" for name in measured)

        (other,) = report.keys() - {"samples", "reconstructed"}
        cells = [task, ", ".join(measured.values()), said("samples")]
        cells += [f"{other.replace('_', ' ')} {said(other)}"]
        cells += [f"reconstructed {said('reconstructed')}", minutes]
        return [f"| {' | '.join(cells)} |", *kid_row(task, stage, minutes)]
    report, lines = stage["reader"], kid_row(task, stage, minutes)
    for name, title in NUMBERS.items():
        if name in report["samples"]:
            floor = f"shuffled {report['floor'][name]:.1%}" if "floor" in report else ""
            ceiling = f"true renders {report['ceiling'][name]:.1%}, "
            ceiling += f"reconstructed {report['reconstructed'][name]:.1%}"
            number = f"{report['samples'][name]:.1%}"
            lines.append(f"| {task} | {title} | {number} | {floor} | {ceiling} | {minutes} |")
    return lines


def kid_row(task: str, stage: dict, minutes: str) -> list[str]:
    """The line of the task's KID; none where it was not measured."""
    if not (report := stage.get("kid")):
        return []

    def said(who):
        return f"{report[who]['mean']:.4f}"

    others = [who for who in report if who in ("bicubic", "mean_fill")]
    number = f"{said('samples')} ± {report['samples']['standard_error']:.4f}"
    beside = ", ".join(f"{who.replace('_', ' ')} {said(who)}" for who in others)
    best = f"held-out {said('held_out')}, reconstructed {said('reconstructed')}"
    title = f"KID ({report['features']} features)"
    return [f"| {task} | {title} | {number} | {beside} | {best} | {minutes} |"]


def image(figures: list[Path]) -> Image.Image:
    """The first conditions, samples and truths of each figure, three rows, below each other."""
    strips = []
    for file in figures:
        figure = Image.open(file)
        groups = -(-int(figure.text["num_images"]) // 8)  # each of three rows of eight
        strip = figure.crop((0, 0, figure.width, figure.height // groups))
        # Conditions are shown at the side that suits them, here all at one.
        strips.append(np.array(strip.resize((1038, 390))))
    return Image.fromarray(np.concatenate(strips))


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS))
    arguments.add_argument("--perceptual-file", default="", help="weights of LPIPS on SqueezeNet")
    options = arguments.parse_args()
    lines = [
        "| task | number | samples | beside | at best | stage 2 |",
        "|---|---|---|---|---|---|",
    ]
    for task in options.only:
        lines += rows(task, trained_task(options.folder, task, options.perceptual_file))
    print("\n".join(lines), flush=True)
    shown_tasks = [TASKS[task][0] for task in options.only if task in SHOWN_TASKS]
    if shown_tasks:
        figures = [options.folder / name / "samples.png" for name in shown_tasks]
        image(figures).save(options.folder / "tasks.png")
    after = {
        "class": ["guidance_scale.py", options.folder / "scenes-class"],
        "unconditional": ["unconditional.py", options.folder / "scenes-unconditional"],
    }
    if options.perceptual_file:
        after["unconditional"] += ["--perceptual-file", options.perceptual_file]
    for task, (script, *words) in after.items():
        if task in options.only:
            print(flush=True)
            subprocess.run([sys.executable, HERE / script, *map(str, words)], check=True)


if __name__ == "__main__":
    main()
