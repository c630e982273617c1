"""Distance to the world: how far a sample is from its nearest true render.

A reader of images gives the scene that it sees; a search over the renderer refines its factors
until the objects look as they do in the sample. A sample that no scene explains is no proper scene,
however well its class is recognised.

Only the pixels of objects are compared, those of the render and those that the reader takes for an
object, with a rim around them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from ldm_jax.data.scenes.render import render
from ldm_jax.data.scenes.world import (
    COLOURS,
    FLOORS,
    LEVELS,
    MATERIALS,
    SHAPES,
    SIZES,
    SKIES,
    Scene,
)
from ldm_jax.errors import UserError
from ldm_jax.evaluation.scene_factors import factors, ranges, with_factors
from ldm_jax.evaluation.scene_search import SEARCH, Search, compare, rim

# What a proper scene has. 97 % of true renders do, at both sides, by what the scene reader reads in
# them (benchmarks/scene_match.py).
PROPER_PSNR = 31.0
MOST_UNEXPLAINED = 0.05
_CLEARLY = 3.0  # dB above PROPER_PSNR; with less a second search is worth its time


@dataclass(frozen=True)
class Match:
    """A sample and its nearest true render. H is the side."""

    scene: Scene
    """The guess with refined factors."""
    render: np.ndarray
    """Of this scene, uint8 [H, H, 3]."""
    nearest: np.ndarray
    """The sample with the compared pixels replaced by the render's, uint8 [H, H, 3]."""
    compared: np.ndarray
    """The pixels that count, bool [H, H]."""
    psnr: float
    """In dB, between the sample and `nearest` over the compared pixels; infinite where equal."""
    unexplained: float
    """The share of the reader's object pixels that are no object in the render, nor in its rim."""
    renders: int
    """How many the search took."""

    @property
    def is_proper(self) -> bool:
        """Whether the sample is a proper scene: near to a true render, and nothing is left over."""
        return self.psnr >= PROPER_PSNR and self.unexplained <= MOST_UNEXPLAINED


def match(
    image: np.ndarray, guess: Scene, objects: np.ndarray | None = None, level: str = "single"
) -> Match:
    """The true render that is nearest to an image.

    Shapes, colours, sizes, materials, floor and sky are the guess's. The camera, the direction of
    the light and each object's place, radius and turn are refined within the ranges of the level.

    Args:
      image: uint8 [H, H, 3], H = 32 or 64.
      guess: the scene that a reader reads in it.
      objects: bool [H, H], the pixels that the reader takes for an object; None: only the
        render's count, and nothing is unexplained.
      level: 'single', 'pair' or 'full'.
    Raises:
      UserError: for an image of another type or size, a guess without objects, with unknown words
        or with values that are not finite, an unknown level.
    """
    check(image, guess, objects, level)
    seen = np.zeros(image.shape[:2], bool) if objects is None else objects
    stages, enough = SEARCH[len(image)], PROPER_PSNR + _CLEARLY
    best = _result(image, seen, with_factors(guess, np.clip(factors(guess), *ranges(guess, level))))
    if best.psnr == math.inf:
        return best
    renders = 0
    # A search that stops in a local minimum: it has the light on the wrong side, or needs wider
    # differences to leave it.
    wider = tuple(stage._replace(difference=1.6 * stage.difference) for stage in stages)
    for plan, other_side in ((stages, False), (stages, True), (wider, False)):
        start = _lit_from_the_other_side(best.scene) if other_side else best.scene
        search = Search(image, seen, start, *ranges(start, level))
        found = _result(image, seen, search.scene(search.run(plan)))
        renders += search.renders
        best = max(best, found, key=lambda one: one.psnr)
        if best.psnr >= enough:
            break
    return replace(best, renders=renders)


def _lit_from_the_other_side(scene: Scene) -> Scene:
    x, y, z = scene.sun
    return replace(scene, sun=(-x, y, z))


def _result(image, objects, scene) -> Match:
    side = len(image)
    nearest, instance, compared = compare(image.astype(np.float32), scene, objects)
    whole = image.copy()
    whole[compared] = np.clip(np.rint(nearest[compared]), 0, 255).astype(np.uint8)
    reached = ndimage.binary_dilation(instance >= 0, iterations=2 * rim(side))
    return Match(
        scene=scene,
        render=render(scene, side),
        nearest=whole,
        compared=compared,
        psnr=_psnr(image[compared], whole[compared]),
        unexplained=float((objects & ~reached).sum() / max(objects.sum(), 1)),
        renders=0,
    )


def _psnr(a, b) -> float:
    if not a.size:
        return -math.inf  # nothing is shown that could be compared
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return math.inf if error == 0.0 else float(10.0 * np.log10(255.0**2 / error))


_WORDS = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "material": MATERIALS}


def check(image: np.ndarray, guess: Scene, objects: np.ndarray | None, level: str) -> None:
    """Raises UserError for what `match` cannot work with."""
    sides = " or ".join(f"{side}" for side in SEARCH)
    shape = getattr(image, "shape", None)
    if getattr(image, "dtype", None) != np.uint8 or shape not in [(s, s, 3) for s in SEARCH]:
        raise UserError(
            f"an image to match is uint8 [H, H, 3] with H = {sides}, "
            f"not {getattr(image, 'dtype', type(image).__name__)} {list(shape or [])}"
        )
    if objects is not None and (objects.dtype != bool or objects.shape != shape[:2]):
        raise UserError(
            f"the objects of an image {list(shape)} are bool {list(shape[:2])}, "
            f"not {objects.dtype} {list(objects.shape)}"
        )
    if level not in LEVELS:
        raise UserError(f"unknown level {level!r} of scenes: choose one of {', '.join(LEVELS)}")
    if not guess.objects:
        raise UserError("a scene to match needs at least one object")
    said = [("floor", guess.floor, FLOORS), ("sky", guess.sky, SKIES)]
    said += [(n, getattr(o, n), known) for o in guess.objects for n, known in _WORDS.items()]
    for name, word, known in said:
        if word not in known:
            raise UserError(f"unknown {name} {word!r}: choose one of {', '.join(known)}")
    if not np.isfinite([*factors(guess), *guess.offset, guess.floor_turn, guess.floor_tone]).all():
        raise UserError("a scene to match has values that are not finite; read the image again")
