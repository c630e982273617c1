"""What does a classifier's guidance do (App. C)? Images without a caption, led to a class.

    python benchmarks/classifier_guidance.py runs/scenes

takes a run of scenes whose classifier is trained too (`python train.py scenes --stage classifier
--run-dir runs/scenes`), and prints, for each scale of the guide, how many images show shape and
colour of their class (the oracle's reading). The model is given the null condition throughout, so
the class comes from the classifier of noisy latents alone.
"""

import numpy as np
from trained_run import TrainedRun, options_of

from ldm_jax.evaluation.oracle import agreement
from ldm_jax.experiments.classifier_stage import NAME
from ldm_jax.experiments.models import Classifier
from ldm_jax.experiments.trained import placed
from ldm_jax.sampling.guides import Guide


def main():
    arguments = options_of(__doc__)
    arguments.add_argument("--steps", type=int, default=25)
    arguments.add_argument("--scales", type=float, nargs="+", default=(0, 1, 2, 5, 10))
    options = arguments.parse_args()
    trained, n = TrainedRun(options.run, options.images), options.images
    classifier = Classifier(trained.experiment, trained.facts, trained.second)
    name = "ema" if trained.experiment.classifier.ema_decay else "params"
    judge = trained.run.checkpoints(NAME).restore_part([name])[name]
    judge, _ = placed(judge, trained.experiment, n)
    classes = np.arange(n) % len(trained.facts.class_names)
    nothing = np.repeat(trained.second.generator.null[None], n, axis=0)
    print("| scale | shape as asked | colour as asked | both |\n|---|---|---|---|")
    for scale in options.scales:
        images = trained.draw(
            nothing,
            steps=options.steps,
            guides=[Guide(classifier.log_p, judge, classes, scale)],
            progress=f"scale {scale:g}",
        )
        right = agreement(images, classes)
        row = " | ".join(f"{right[what]:.1%}" for what in ("shape", "colour", "both"))
        print(f"| {scale:g} | {row} |", flush=True)


if __name__ == "__main__":
    main()
