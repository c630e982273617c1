"""Guides for `sample.py RUN` (App. C): --classifier-scale and --guide-image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from ldm_jax.autoencoder.step import to_model_range
from ldm_jax.errors import UserError
from ldm_jax.experiments.classifier_stage import NAME
from ldm_jax.experiments.edit import EditOptions, Request, Weights
from ldm_jax.experiments.images import fitted, open_image
from ldm_jax.experiments.models import Classifier
from ldm_jax.experiments.run_dir import RunDir
from ldm_jax.sampling.guides import Guide, downsample, of_image
from ldm_jax.training.sharding import put, tree_sharding


@dataclass(frozen=True)
class GuideOptions:
    """Guides: the run's own classifier leads towards --class-label, --guide-image to an image."""

    classifier_scale: float = 0.0
    """Scale s of the classifier that train.py --stage classifier has trained; 0: none."""
    guide_image: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """An image to resemble, cut to the proportions of --height and --width and resized."""
    guide_scale: float = 1.0
    """How strongly: the scale s of --guide-image. Noise in every step, --eta 1, follows it best."""
    guide_factor: int = 1
    """By how much both are downsampled before they are compared. Of n^2 times fewer pixels, each
    should count as much more: --guide-scale n^2."""

    def given(self) -> dict[str, Any]:
        """The options that are not left out, by name; those of an image if there is one."""
        names = ["classifier_scale"] if self.classifier_scale else []
        names += ["guide_image", "guide_scale", "guide_factor"] if self.guide_image else []
        return {name: value for name, value in asdict(self).items() if name in names}

    def check(self, edit: EditOptions) -> None:
        """Raises UserError for options that do not go together; reads no file."""
        lonely = [n for n in ("guide_scale", "guide_factor") if getattr(self, n) != 1]
        if lonely and not self.guide_image:
            raise UserError(f"--{lonely[0].replace('_', '-')} needs --guide-image")
        others = edit.given()
        for mine in self.given():
            for other in ("interpolate", "invert", "outpaint"):
                if other in others:
                    name = mine.replace("_", "-")
                    raise UserError(f"--{name} and --{other} do not go together: one at a time")


def prepare_guides(
    options: GuideOptions, request: Request, run: RunDir, towards: list[str]
) -> Callable[[Weights], list[Guide]]:
    """What makes the guides, once the weights are placed; nothing is computed before it is called.

    Args:
      towards: the classes to guide towards, one for each of the request's labels.

    Raises:
      UserError: options that do not fit this run; a file that cannot be read.
    """
    makers = []
    if options.classifier_scale:
        makers.append(_towards_classes(options, request, run, towards))
    if options.guide_image:
        makers.append(_towards_image(options, request))
    return lambda weights: [make(weights) for make in makers]


def _towards_classes(options: GuideOptions, request: Request, run: RunDir, towards: list[str]):
    name, experiment, facts = run.load()
    size = experiment.data.size
    if experiment.classifier.pool == "attention" and request.size[:2] != (size, size):
        raise UserError(
            f"the classifier of this run has learned the positions of {size}x{size} pixels: "
            "--classifier-scale goes with no other --height and --width"
        )
    average = "ema" if experiment.classifier.ema_decay else "params"
    saved = run.checkpoints(NAME).restore_part([average])
    if saved is None:
        raise UserError(
            f"{run.path} has no classifier to guide by; to train one: "
            f"python train.py {name} --run-dir {run.path} --stage classifier"
        )
    classifier = Classifier(experiment, facts, request.second)
    y = np.repeat(classifier.labels.encode(towards), request.copies)

    def make(weights: Weights) -> Guide:
        mesh = jax.tree.leaves(weights)[0].sharding.mesh
        own = put(saved[average], tree_sharding(saved[average], mesh))
        return Guide(classifier.log_p, own, y, options.classifier_scale)

    return make


def _towards_image(options: GuideOptions, request: Request):
    second, (h, w), n = request.second, request.size[:2], options.guide_factor
    if n < 1 or h % n or w % n:
        sides = f"{w} pixels of a side" if h == w else f"sides of {h} and {w} pixels"
        raise UserError(f"--guide-factor is {n}; it divides the {sides}")
    image = open_image("--guide-image", options.guide_image, second.first.channels)
    y = np.asarray(to_model_range(fitted(image, h // n, w // n)))
    y = np.broadcast_to(y, (len(request.all_labels), *y.shape))
    log_p = of_image(second.decode_float, transform=partial(downsample, n=n))
    return lambda weights: Guide(log_p, (weights[1], ()), y, options.guide_scale)
