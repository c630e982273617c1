"""What does a classifier's guidance do (App. C)? Pictures without a caption, led to a class.

    python benchmarks/classifier_guidance.py runs/scenes

takes a run of scenes whose classifier is trained too (`python train.py scenes --stage classifier
--run-dir runs/scenes`), and prints, for each scale of the guide, how many pictures show shape and
colour of their class (the oracle's reading). The model is given the null condition throughout, so
the class comes from the classifier of noisy latents alone.
"""

import argparse

import jax
import numpy as np

from ldm_jax.evaluation.oracle import agreement
from ldm_jax.experiments.classifier_stage import NAME
from ldm_jax.experiments.models import Classifier, SecondStage
from ldm_jax.experiments.run_dir import RunDir
from ldm_jax.experiments.trained import load_weights, placed
from ldm_jax.sampling.guides import Guide


def main():
    jax.config.update("jax_num_cpu_devices", 2)  # one a core, as sample.py has them
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("run")
    arguments.add_argument("--pictures", type=int, default=256)
    arguments.add_argument("--steps", type=int, default=25)
    arguments.add_argument("--scales", type=float, nargs="+", default=(0, 1, 2, 5, 10))
    options = arguments.parse_args()
    run = RunDir(options.run)
    _, experiment, facts = run.load()
    second, n = SecondStage(experiment, facts), options.pictures
    classifier = Classifier(experiment, facts, second)
    weights = load_weights(run, experiment)
    name = "ema" if experiment.classifier.ema_decay else "params"
    judge = run.checkpoints(NAME).restore_part([name])[name]
    (weights, judge), split = placed((weights, judge), experiment, n)
    classes = np.arange(n) % len(facts.class_names)
    nothing = np.repeat(second.generator.null[None], n, axis=0)
    print("| scale | shape as asked | colour as asked | both |\n|---|---|---|---|")
    for scale in options.scales:
        pictures = second.generator(
            *weights,
            nothing,
            sampler="ddim",
            steps=options.steps,
            guides=[Guide(classifier.log_p, judge, classes, scale)],
            batch_size=32,
            sharding=split,
            progress=f"scale {scale:g}",
        )
        right = agreement(pictures, classes)
        row = " | ".join(f"{right[what]:.1%}" for what in ("shape", "colour", "both"))
        print(f"| {scale:g} | {row} |", flush=True)


if __name__ == "__main__":
    main()
