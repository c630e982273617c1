"""Refines the factors of a scene until its render shows the objects of an image.

Gauss-Newton steps with Levenberg's damping. The derivatives are differences of renders, wide ones
of blurred images first, as an edge jumps from ray to ray. All objects are moved at once, since a
pixel shows one of them: nine renders a step at most, whatever the number of objects.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ldm_jax.data.scenes import geometry
from ldm_jax.data.scenes.render import render
from ldm_jax.data.scenes.world import Scene
from ldm_jax.evaluation.scene_factors import OBJECT, SURROUNDINGS, errors, factors, with_factors

# The brightest place of a floor's pattern is at most so much brighter than the darkest, as
# displayed: those of the checkered floor at the distance of the objects.
_CONTRAST = 1.65


class Stage(NamedTuple):
    """One part of the search."""

    side: int  # of the renders
    steps: int
    difference: float  # of a factor, for the derivative, in standard errors of a reader
    blur: float  # standard deviation in pixels


SEARCH = {
    32: (Stage(32, 3, 1.0, 1.0), Stage(32, 4, 0.5, 0.0)),
    64: (Stage(32, 3, 1.0, 1.0), Stage(32, 3, 0.5, 0.0), Stage(64, 3, 0.3, 0.0)),
}
_TRIES = 4  # of a step, each more cautious
_LONGEST = 1.5  # step of a factor, in standard errors of a reader
_DAMPING = 0.03  # at first, in mean curvatures
_STALLED = 0.005  # a step that gains less of the error asks for finer differences


class Comparison(NamedTuple):
    """A scene beside an image. S is the side."""

    nearest: np.ndarray  # float32 [S, S, 3]: see `compare`
    instance: np.ndarray  # [S, S]: index of the object in the render, negative where there is none
    compared: np.ndarray  # bool [S, S]: the pixels that count


def rim(side: int) -> int:
    """Width in pixels of the rim around the objects."""
    return max(1, side // 32)


def compare(image: np.ndarray, scene: Scene, objects: np.ndarray) -> Comparison:
    """What the render of a scene looks like where it or an image has objects.

    The pixels of sky and floor are the render's times one factor between 1 / 1.65 and 1.65, that
    which brings them nearest to the image: no search finds where a pattern begins.

    Args:
      image: [S, S, 3], 0..255.
      objects: bool [S, S], the pixels of the image that belong to an object.
    """
    side = len(image)
    nearest = render(scene, side).astype(np.float32)
    _, instance = geometry.pixel_truth(scene, side)
    shown = instance >= 0
    compared = ndimage.binary_dilation(shown | objects, iterations=rim(side))
    around = compared & ~shown
    a, b = image[around], nearest[around]
    gain = (a * b).sum(axis=1) / np.maximum((b * b).sum(axis=1), 1.0)
    nearest[around] = b * np.clip(gain, 1 / _CONTRAST, _CONTRAST)[:, None]
    return Comparison(nearest, instance, compared)


def shrunk(image: np.ndarray, objects: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Image float32 [S, S, 3] and mask at a smaller side; light is averaged, as in a render."""
    k = len(image) // side
    image = image.astype(np.float32)
    if k == 1:
        return image, objects
    image = np.sqrt((image**2).reshape(side, k, side, k, 3).mean(axis=(1, 3)))
    return image, objects.reshape(side, k, side, k).mean(axis=(1, 3)) >= 0.5


class Search:
    """Minimises the squared differences between an image and the renders of a scene.

    Args:
      image, objects: as `compare` has them, with the side of a stage of `SEARCH`.
      guess: the scene where the search begins.
      low, high: the range of each factor (`scene_factors.ranges`).
    """

    def __init__(self, image, objects, guess: Scene, low, high):
        self.image, self.objects, self.guess = image, objects, guess
        self.low, self.high = low, high
        self.unit = errors(guess)
        self.renders = 0
        self._groups = _groups(guess)

    def run(self, stages: tuple[Stage, ...]) -> np.ndarray:
        """The refined factors."""
        values = np.clip(factors(self.guess), self.low, self.high)
        for stage in stages:
            values = self._refine(values, stage)
        return values

    def scene(self, values: np.ndarray) -> Scene:
        """The guess with these factors."""
        return with_factors(self.guess, values)

    def _refine(self, values, stage):
        image, objects = shrunk(self.image, self.objects, stage.side)

        def look(values):
            """The differences [S, S, 3], their squared norm, the object nearest to each pixel."""
            self.renders += 1
            nearest, instance, compared = compare(image, self.scene(values), objects)
            difference = (nearest - image) * compared[..., None]
            if stage.blur:
                difference = ndimage.gaussian_filter(difference, (stage.blur, stage.blur, 0))
            return difference, float(np.vdot(difference, difference)), instance

        at, error, instance = look(values)
        width, side, damping = stage.difference, 1.0, _DAMPING
        for _ in range(stage.steps):
            if error == 0.0 or (instance < 0).all():
                break
            owner = _nearest_object(instance)
            slopes = np.zeros((at.size, len(values)), np.float32)  # for steps in standard errors
            for group in self._groups:
                moved = self._move(values, group, side * width)
                moved_at, *_ = look(moved)
                for number, k in enumerate(group):
                    if moved[k] == values[k]:
                        continue
                    slope = (moved_at - at) / np.float32((moved[k] - values[k]) / self.unit[k])
                    if k >= len(SURROUNDINGS):
                        number = (k - len(SURROUNDINGS)) // len(OBJECT)
                        slope = slope * (owner == number)[..., None]
                    slopes[:, k] = slope.ravel()
            gradient, curvature = slopes.T @ at.ravel(), slopes.T @ slopes
            ridge = np.eye(len(values)) * max(np.trace(curvature) / len(values), 1e-6)
            gained = 0.0
            for _ in range(_TRIES):
                step = -np.linalg.solve(curvature + damping * ridge, gradient)
                new = values + np.clip(step, -_LONGEST, _LONGEST) * self.unit
                new = np.clip(new, self.low, self.high)
                found = look(new)
                if found[1] < error:
                    gained = 1.0 - found[1] / error
                    values, (at, error, instance) = new, found
                    damping *= 0.3
                    break
                damping *= 5.0
            if gained < _STALLED:
                width *= 0.5
            side = -side  # differences to the left and to the right in turn
        return values

    def _move(self, values, group, errors):
        """The factors of a group moved by so many standard errors, inwards at the ends."""
        moved = values.copy()
        for k in group:
            new = values[k] + errors * self.unit[k]
            if not self.low[k] <= new <= self.high[k]:
                new = values[k] - errors * self.unit[k]
            moved[k] = np.clip(new, self.low[k], self.high[k])
        return moved


def _groups(scene: Scene) -> list[list[int]]:
    """Indices of factors that are moved together: each of camera and light, one of all objects."""
    groups = [[k] for k in range(len(SURROUNDINGS))]
    for k, name in enumerate(OBJECT):
        # Only a cube looks different when it is turned.
        chosen = [n for n, o in enumerate(scene.objects) if name != "turn" or o.shape == "cube"]
        groups.append([len(SURROUNDINGS) + n * len(OBJECT) + k for n in chosen])
    return [group for group in groups if group]


def _nearest_object(instance):
    """The index of the object nearest to each pixel, [S, S]."""
    _, (rows, columns) = ndimage.distance_transform_edt(instance < 0, return_indices=True)
    return instance[rows, columns]
