"""Guides (App. C): `--classifier-scale` and `--guide-image`."""

from __future__ import annotations

from functools import partial

import numpy as np

from ldm_jax.autoencoder.step import to_model_range
from ldm_jax.commands.sample.command import GuideOptions
from ldm_jax.commands.sample.images import fitted, open_image
from ldm_jax.commands.sample.plan import Request
from ldm_jax.errors import UserError
from ldm_jax.model.classifier import Classifier
from ldm_jax.model.load import stage_weights
from ldm_jax.model.run_dir import RunDir
from ldm_jax.sampling.guides import Guide, downsample, image_log_p


def make_guides(
    options: GuideOptions, request: Request, run: RunDir, targets: list[str]
) -> tuple[Guide, ...]:
    """The guides of a command.

    Args:
      targets: the class to guide towards, one for each of the request's labels.

    Raises:
      UserError: options that do not fit this model; a file that cannot be read.
    """
    guides = ()
    if options.classifier_scale:
        guides += (_class_guide(options, request, run, targets),)
    if options.guide_image:
        guides += (_image_guide(options, request),)
    return guides


def _class_guide(options: GuideOptions, request: Request, run: RunDir, targets: list[str]) -> Guide:
    config, size = request.model.config, request.model.config.data.size
    if not targets:  # a model whose condition is a file
        kind = request.model.info.condition
        raise UserError(f"--classifier-scale does not go with a model for {kind}")
    geometry = request.model.geometry(request.settings)
    if config.classifier.pool == "attention" and geometry[:2] != (size, size):
        raise UserError(
            f"the classifier of this model has learned the positions of {size}x{size} pixels: "
            "--classifier-scale goes with no other --height and --width"
        )
    weights = stage_weights(run, config, "classifier")
    if not weights:
        raise UserError(
            f"{run.path} has no classifier to guide by; to train one: "
            f"python train.py {run.load()[0]} --run-dir {run.path} --stage classifier"
        )
    classifier = Classifier(request.model)
    y = np.repeat(classifier.labels.encode(targets), request.images_per_prompt)
    return Guide(classifier.log_p, weights, y, options.classifier_scale)


def _image_guide(options: GuideOptions, request: Request) -> Guide:
    model, n = request.model, options.guide_factor
    h, w = model.geometry(request.settings)[:2]
    if n < 1 or h % n or w % n:
        sides = f"{w} pixels of a side" if h == w else f"sides of {h} and {w} pixels"
        raise UserError(f"--guide-factor is {n}; it must divide the {sides}")
    image = open_image("--guide-image", options.guide_image, model)
    y = np.asarray(to_model_range(fitted(image, h // n, w // n)))
    y = np.broadcast_to(y, (len(request.all_labels), *y.shape))
    log_p = image_log_p(model.decode_float, transform=partial(downsample, n=n))
    return Guide(log_p, (model.weights.constants, ()), y, options.guide_scale)
