"""Does the coverage of the world see what a set of samples lacks?

    python benchmarks/scene_coverage.py --images 2048

compares true scenes with the known distribution, and sets that are wrong in a known way: ten scenes
again and again, no cyan cones, half as many scenes at night. Their words are those of the scenes,
so that no reader's errors are in it. Prints each factor's chi-square and draws how often each
combination stands there over how often it should, with twice the standard error of true scenes.
"""

import argparse

import numpy as np
from matplotlib.figure import Figure

from ldm_jax.data.scenes.source import ScenesConfig, ScenesSource
from ldm_jax.data.scenes.world import LEVELS
from ldm_jax.evaluation.held_out_words import has_combination
from ldm_jax.evaluation.scene_coverage import coverage


def sets_of(scenes):
    """Name -> scenes, as many as there are."""
    rng = np.random.default_rng(0)
    cyan_cone = {"colour": "cyan", "shape": "cone"}
    kept = {
        "true scenes": scenes,
        "ten scenes": scenes[:10],
        "no cyan cones": [one for one in scenes if not has_combination(one, cyan_cone)],
        "half of the nights": [one for one in scenes if one.sky != "night" or rng.random() < 0.5],
    }
    return {name: [own[i % len(own)] for i in range(len(scenes))] for name, own in kept.items()}


def bars(axes, table, title):
    """Observed over expected of each combination."""
    ratio = (table.observed / table.expected).ravel()
    error = 1 / np.sqrt(table.expected.ravel())
    places = np.arange(len(ratio))
    axes.bar(places, ratio, color="C0")
    axes.fill_between(places, 1 - 2 * error, 1 + 2 * error, color="black", alpha=0.15, step="mid")
    axes.axhline(1, color="black", lw=0.8)
    first, second = table.words
    names = [f"{b} {a}" for a in first for b in second]
    axes.set_xticks(places, names, rotation=90, fontsize=7)
    axes.set(title=title, ylabel="observed / expected")


def main():
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--images", type=int, default=2048)
    arguments.add_argument("--level", choices=LEVELS, default="single")
    arguments.add_argument("--out", default="scene_coverage.png")
    options = arguments.parse_args()
    source = ScenesSource(ScenesConfig(level=options.level, count=options.images), seed=1)
    sets = sets_of([source.scene(i) for i in range(options.images)])
    found = {name: coverage(scenes, options.level) for name, scenes in sets.items()}
    print("| set | words | chi-square / degrees | p | missing | total variation (of true) |")
    print("|---|---|---|---|---|---|")
    for name, tables in found.items():
        for words, table in tables.items():
            p = "too few" if table.p_value is None else f"{table.p_value:.2g}"
            variation = f"{table.total_variation:.3f} ({table.total_variation_of_true:.3f})"
            cells = (name, words, f"{table.statistic:.1f} / {table.degrees}", p)
            print(f"| {' | '.join(cells)} | {len(table.missing)} | {variation} |")
    figure = Figure(figsize=(12, 7), layout="constrained")
    for axes, (name, tables) in zip(figure.subplots(2, 2).flat, found.items(), strict=True):
        words = "floor x sky" if "night" in name else "shape x colour"
        bars(axes, tables[words], f"{name}: {words}")
    figure.savefig(options.out, dpi=100)


if __name__ == "__main__":
    main()
