"""Every task of the paper on the scenes, trained and judged: the table of the README.

    python benchmarks/tasks.py runs [--only layout semantic] [--perceptual-file FILE]

Trains what is not trained yet under that folder, one run a task (all share the first stage of
scenes), and prints what the summaries say. Super-resolution has a regression of
the same size beside it: the same network, which predicts the latent at once (T = 1) in place of
drawing it.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
SHARED = "scenes"
# Task: (experiment, the run that has its first stage, further options).
REGRESSION = "--diffusion.prediction z_0 --sampling.steps 1 --diffusion.schedule.timesteps 1 "
REGRESSION += "--diffusion.schedule.beta-start 0.9999 --diffusion.schedule.beta-end 0.9999"
TASKS = {
    "text": ("scenes", "", ""),
    "class": ("scenes-class", SHARED, ""),
    "unconditional": ("scenes-unconditional", SHARED, ""),
    "text-full": ("scenes-text", SHARED, ""),
    "layout": ("scenes-layout", SHARED, ""),
    "semantic": ("scenes-semantic", SHARED, ""),
    "super-resolution": ("scenes-super-resolution", SHARED, ""),
    "regression": ("scenes-super-resolution", SHARED, REGRESSION),
    "inpainting": ("scenes-inpainting", SHARED, ""),
}
NUMBERS = ("both", "valid", "objects", "relations", "iou", "found", "mean_iou", "pixels")
DISTANCES = ("psnr", "ssim", "lpips_squeezenet")


def train(folder: Path, task: str, perceptual_file: str) -> dict:
    """Trains a task, or goes on with it, or does nothing; its summary."""
    experiment, first, options = TASKS[task]
    run = folder / (experiment if task != "regression" else f"{experiment}-regression")
    words = [experiment, "--run-dir", run, *options.split()]
    if first:
        words += ["--autoencoder.from-run", folder / first]
    if perceptual_file:
        words += ["--sampling.perceptual-file", perceptual_file]
    subprocess.run([sys.executable, REPOSITORY / "train.py", *map(str, words)], check=True)
    return json.loads((run / "summary.json").read_text())


def rows(task: str, summary: dict) -> list[str]:
    """Lines of the table: what the samples have, and what to compare it to."""
    stage = summary["diffusion"]
    minutes = f"{stage['seconds'] / 60:.0f} min"
    if report := stage.get("restored"):
        compared = {who: scores for who, scores in report.items() if isinstance(scores, dict)}
        said = [
            f"{who.replace('_', ' ')}: "
            + ", ".join(f"{name} {scores[name]:.3f}" for name in DISTANCES if name in scores)
            for who, scores in compared.items()
        ]
        return [f"| {task} | {minutes} | {said[0]} | {'; '.join(said[1:])} |"]
    report, lines = stage["oracle"], []
    for name in NUMBERS:
        if name in report["samples"]:
            beside = [("true renders", "ceiling"), ("shuffled", "floor")]
            others = ", ".join(f"{what} {report[o][name]:.1%}" for what, o in beside if o in report)
            lines.append(
                f"| {task} | {minutes} | {name} {report['samples'][name]:.1%} | {others} |"
            )
    return lines


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS))
    arguments.add_argument("--perceptual-file", default="", help="weights of LPIPS on SqueezeNet")
    options = arguments.parse_args()
    lines = []
    for task in options.only:
        lines += rows(task, train(options.folder, task, options.perceptual_file))
    print("| task | training of stage 2 | samples | compare |\n|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
