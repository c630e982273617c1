"""Coverage: do samples show every combination of words as often as the world does?

The world's distribution is known. Colour, material, floor and sky are uniform and independent of
all else. At the levels pair and full, scenes are drawn again where an object does not fit or is
hardly visible, so that small objects and balls are more common there; the joint distribution of
number, shape and size is counted in many scenes.

A reading is anything with `objects` (each with `shape`, `colour`, `size`, `material`), `floor` and
`sky`: a `Scene`, or what a reader reads. A word that was not read is None.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy import stats

from ldm_jax.data.scenes import geometry
from ldm_jax.data.scenes.cache import RENDER_VERSION
from ldm_jax.data.scenes.combinations import OBJECT_WORDS, SCENE_WORDS
from ldm_jax.data.scenes.world import (
    LEVELS,
    MAX_OBJECTS,
    SHAPES,
    SIZES,
    generator,
    sample_scene,
)
from ldm_jax.errors import UserError
from ldm_jax.paths import cache_folder, write_whole

_MOST_OBJECTS = {"single": 1, "pair": 2, "full": MAX_OBJECTS}
NUMBER = "number"  # of objects
_COUNTED = (NUMBER, "shape", "size")  # factors that decide whether objects can be seen
FACTORS = (("shape",), ("colour",), ("size",), ("material",), ("floor",), ("sky",))
PAIRS = (("shape", "colour"), ("floor", "sky"))

LEAST_EXPECTED = 5  # the usual rule for the chi-square distribution to hold
_SCENES = 8_192  # that are counted; seed and split are those of no data set
_SEED = 20_261_130


class Coverage(NamedTuple):
    """One factor, or a combination of them, against the world. The arrays have one axis each."""

    names: tuple[str, ...]
    words: tuple[tuple, ...]
    """The values along each axis."""
    observed: np.ndarray
    """How often each combination was read, int."""
    expected: np.ndarray
    """How often it would be in as many true scenes, float64."""
    statistic: float
    """Pearson's chi-square, divided by 1 + n / m where the world was counted in m rows."""
    degrees: int
    p_value: float | None
    """Of a larger statistic, if the samples were true scenes; None where an expected count is below
    5, so that it would be wrong: more images are needed."""
    missing: tuple[tuple, ...]
    """Combinations that were never read where 5 or more were expected."""
    total_variation: float
    """Half the sum of the differences of the shares: 0 equal, 1 disjoint."""
    total_variation_of_true: float
    """What it would be, on average, for as many true scenes."""
    unread: int
    """Objects or images that were left out: a word was not read, or the world never has it."""


def coverage(
    readings: Sequence, level: str, tables: Iterable[tuple[str, ...]] | None = None
) -> dict[str, Coverage]:
    """Compares what was read in samples with the distribution of the world.

    Args:
      readings: one of each image; see above. At least one.
      level: of the scenes, 'single', 'pair' or 'full'.
      tables: tuples of 'number', 'shape', 'colour', 'size', 'material', 'floor', 'sky'; by default
        each by itself, shape x colour and floor x sky. Those with a word of objects count objects,
        the others count images.
    Returns:
      'shape x colour' -> its coverage, in the order of the tables. Tables of which nothing was read
      in any image are left out: bad samples may show no object at all.
    Raises:
      UserError: for an unknown level, factor or word, and without readings.
    """
    if level not in LEVELS:
        raise UserError(f"unknown level {level!r} of scenes: choose one of {', '.join(LEVELS)}")
    if not len(readings):
        raise UserError("coverage needs the readings of at least one image")
    if tables is None:
        number = () if _MOST_OBJECTS[level] == 1 else ((NUMBER,),)
        tables = (*number, *FACTORS, *PAIRS)
    found = {" x ".join(names): _coverage(readings, level, tuple(names)) for names in tables}
    return {name: one for name, one in found.items() if one is not None}


def _coverage(readings, level, names) -> Coverage | None:
    words = tuple(_words(name, level) for name in names)
    observed, unread = np.zeros([len(own) for own in words], np.int64), 0
    for row in _rows(readings, names):
        if any(value is None for value in row) or _beyond(row, names, words):
            unread += 1
        else:
            observed[tuple(own.index(value) for own, value in zip(words, row, strict=True))] += 1
    n = int(observed.sum())
    shares, m = _shares(level, names, words)
    expected = n * shares
    if not n:
        return None
    possible = shares > 0
    statistic, p_value, degrees = 0.0, 1.0, int(possible.sum()) - 1
    if degrees:
        statistic = float(stats.chisquare(observed[possible], expected[possible]).statistic)
        # The shares that were counted have an error of their own: (1/n + 1/m) in place of 1/n.
        statistic /= 1.0 + (n / m if m else 0.0)
        p_value = float(stats.chi2.sf(statistic, degrees))
    few = expected[possible].min() < LEAST_EXPECTED
    deviations = np.sqrt(shares * (1.0 - shares) / n)
    return Coverage(
        names=names,
        words=words,
        observed=observed,
        expected=expected,
        statistic=statistic,
        degrees=degrees,
        p_value=None if few and degrees else p_value,
        missing=tuple(
            value
            for value, seen, wanted in zip(
                product(*words), observed.ravel(), expected.ravel(), strict=True
            )
            if not seen and wanted >= LEAST_EXPECTED
        ),
        total_variation=float(np.abs(observed / n - shares).sum() / 2),
        # The mean absolute value of a normal deviate is sqrt(2 / pi).
        total_variation_of_true=float(deviations.sum() * np.sqrt(2 / np.pi) / 2),
        unread=unread,
    )


def _words(name, level) -> tuple:
    if name == NUMBER:
        return tuple(range(1, _MOST_OBJECTS[level] + 1))
    known = OBJECT_WORDS | SCENE_WORDS
    if name not in known:
        raise UserError(f"unknown factor {name!r}: choose one of {', '.join((NUMBER, *known))}")
    return known[name]


def _rows(readings, names):
    """The values of one object, or of one image, in the order of the names."""
    of_objects = any(name in OBJECT_WORDS for name in names)
    for reading in readings:
        own = {NUMBER: len(reading.objects), "floor": reading.floor, "sky": reading.sky}
        for solid in reading.objects if of_objects else (None,):
            yield [own[n] if n in own else getattr(solid, n) for n in names]


def _beyond(row, names, words) -> bool:
    """Whether the number of objects is one that the world never has; another word is an error."""
    for value, name, own in zip(row, names, words, strict=True):
        if value not in own and name != NUMBER:
            raise UserError(f"unknown {name} {value!r}: choose one of {', '.join(own)}")
    return any(value not in own for value, own in zip(row, words, strict=True))


def _shares(level, names, words) -> tuple[np.ndarray, int]:
    """The probability of each combination, and in how many rows it was counted (0: exact)."""
    of_objects = any(name in OBJECT_WORDS for name in names)
    axes = {name: axis for axis, name in enumerate(_COUNTED)}
    counted = [name for name in names if name in axes and level != "single"]
    operands, m = [], 0
    for place, (name, own) in enumerate(zip(names, words, strict=True)):
        if name not in counted:
            operands += [np.full(len(own), 1 / len(own)), [place]]
    if counted:
        counts = counted_objects(level).astype(np.float64)
        if not of_objects:  # an image of k objects is in k of the rows
            counts /= np.arange(1, len(counts) + 1)[:, None, None]
        m = round(counts.sum())
        # Axes that are not asked for get letters of their own, which einsum sums over.
        letters = [names.index(n) if n in counted else len(names) + axes[n] for n in _COUNTED]
        operands += [counts / counts.sum(), letters]
    return np.einsum(*operands, list(range(len(names)))), m


@functools.cache
def counted_objects(level: str, num_scenes: int = _SCENES) -> np.ndarray:
    """How often objects of the world stand in scenes of k objects: int [number, shape, size].

    Counted in scenes of level 'pair' or 'full', from their parameters alone; kept in the cache
    folder, as it takes some seconds.
    """
    path = cache_folder("scenes") / f"objects-{level}-{num_scenes}-{RENDER_VERSION}.json"
    shape = (_MOST_OBJECTS[level], len(SHAPES), len(SIZES))
    with contextlib.suppress(OSError, ValueError):
        kept = np.array(json.loads(path.read_text()))
        if kept.shape == shape and kept.dtype == np.int64:
            return kept
    counts = np.zeros(shape, np.int64)
    for index in range(num_scenes):
        rng = generator(_SEED, "train", level, index)
        scene = sample_scene(rng, level, geometry.visible_pixels)
        for solid in scene.objects:
            at = len(scene.objects) - 1, SHAPES.index(solid.shape), SIZES.index(solid.size)
            counts[at] += 1
    with contextlib.suppress(OSError, UserError):  # without a cache it is counted again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(counts.tolist()))
    return counts
