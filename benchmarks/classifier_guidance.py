"""What does a classifier's guidance do (App. C)? Images without a caption, led to a class.

    python benchmarks/classifier_guidance.py runs/scenes

takes a run of scenes whose classifier is trained too (`python train.py scenes --stage classifier
--run-dir runs/scenes`), and prints, for each scale of the guide, how many images show shape and
colour of their class (the scene reader's reading). The model is given the null condition
throughout, so the class comes from the classifier of noisy latents alone.
"""

from dataclasses import replace

import numpy as np
from trained_run import options_of

import ldm_jax
from ldm_jax.data.scenes import CLASS_NAMES
from ldm_jax.evaluation.scene_reports import caption_scores
from ldm_jax.model.classifier import Classifier
from ldm_jax.model.run_dir import RunDir
from ldm_jax.sampling.guides import Guide


def main():
    arguments = options_of(__doc__)
    arguments.add_argument("--steps", type=int, default=25)
    arguments.add_argument("--scales", type=float, nargs="+", default=(0, 1, 2, 5, 10))
    options = arguments.parse_args()
    model, n = ldm_jax.load(options.run), options.images
    classifier = Classifier(model)
    name = "ema" if model.config.classifier.ema_decay else "params"
    saved = RunDir(options.run).checkpoints("classifier").restore_part([name])
    if saved is None:
        raise SystemExit(f"{options.run} has no classifier: train it by --stage classifier")
    classes = np.arange(n) % len(model.info.class_names)
    names = [CLASS_NAMES[label] for label in classes]
    nothing = model.inputs(model.parse(None), n)
    settings = replace(model.settings, steps=options.steps, guidance=1.0, batch_size=32)
    print(
        "| scale | shape as asked | colour as asked | both, and nothing else |\n|---|---|---|---|"
    )
    for scale in options.scales:
        inputs = replace(nothing, guides=(Guide(classifier.log_p, saved[name], classes, scale),))
        batches = model.batches(inputs, settings, progress=f"scale {scale:g}")
        right = caption_scores(np.concatenate(list(batches)), names)
        row = " | ".join(f"{right[what]:.1%}" for what in ("shape", "colour", "whole"))
        print(f"| {scale:g} | {row} |", flush=True)


if __name__ == "__main__":
    main()
