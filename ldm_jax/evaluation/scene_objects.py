"""From pixels to things: the objects that the scene reader (`scene_reader.py`) sees in an image.

An object is a connected piece of one colour, and of the shape that its pixels agree on. Objects of
one colour that touch in the image make one piece; they are told apart by where their pixels take
the middle of their object to be.
"""

from typing import NamedTuple

import numpy as np

from ldm_jax.data.scenes import CLASS_NAMES, COLOURS, SIZES
from ldm_jax.data.scenes.world import MATERIALS, MIN_VISIBLE
from ldm_jax.evaluation.scene_reader import SIZE, Reading, read

_APART = 0.10  # of the image's side: middles nearer to each other are those of one object
_SAME = 0.05  # middles nearer to each other are one: a patch of another colour is no object
_CLEARLY = 3.0  # how many times further apart two middles are than the pixels' opinions of each


class SeenObject(NamedTuple):
    """One object as the reader sees it."""

    label: int  # index in CLASS_NAMES
    box: tuple[float, float, float, float]  # left, top, right, bottom in [0, 1]
    pixels: int
    certainty: float  # mean probability of its colour, times that of its shape
    size: str  # one of SIZES
    material: str  # one of MATERIALS

    @property
    def name(self) -> str:
        return CLASS_NAMES[self.label]


def objects(images) -> list[list[SeenObject]]:
    """What stands in each image, the largest first.

    Args:
      images: uint8 [n, H, H, 3], H = 32 or a multiple of 64.
    Raises:
      UserError: for any other dtype or size.
    """
    return objects_of(read(images))


def objects_of(seen: Reading) -> list[list[SeenObject]]:
    """The objects of images that were read already."""
    least = least_pixels(seen.semantic.shape[1])
    colours = np.where(seen.semantic >= 2, seen.colour.astype(np.int32), -1)
    groups = [[] for _ in seen.semantic]
    for image, (rows, columns) in _pieces(colours, least):
        for part in _parted(seen.middle[image, rows, columns], least):
            groups[image].append((rows[part], columns[part]))
    return [
        [_summary(seen, image, *group) for group in _gathered(seen.middle[image], things)]
        for image, things in enumerate(groups)
    ]


def _gathered(middles, groups):
    """(rows, columns) of each object, the largest first: patches go to what they are patches of.

    A highlight may look white, and a shadow part an object: both still point at its middle.
    """
    whole = []
    for rows, columns in sorted(groups, key=lambda group: -len(group[0])):
        middle = middles[rows, columns].mean(axis=0)
        for k, (main, main_rows, main_columns) in enumerate(whole):
            if np.linalg.norm(main - middle) < _SAME and 2 * len(rows) < len(main_rows):
                joined = (main_rows, rows), (main_columns, columns)
                whole[k] = main, *(np.concatenate(parts) for parts in joined)
                break
        else:
            whole.append((middle, rows, columns))
    return [group for _, *group in sorted(whole, key=lambda group: -len(group[1]))]


def least_pixels(side: int) -> int:
    """Anything smaller is no object: scenes show more of each (`MIN_VISIBLE`)."""
    return round(MIN_VISIBLE * (side / SIZE) ** 2)


def components(classes) -> np.ndarray:
    """Connected pieces: pixels that touch at a side and have the same class.

    Args:
      classes: integers [n, H, W], negative where there is nothing.
    Returns:
      int64 [n, H, W]: one number per piece, unique in the whole array, -1 where there is nothing.
    """
    classes = np.asarray(classes)
    index = np.arange(classes.size).reshape(classes.shape)
    pairs = []
    for axis in (1, 2):
        first, second = (np.delete(index, end, axis).ravel() for end in (-1, 0))
        flat = classes.ravel()
        same = (flat[first] == flat[second]) & (flat[first] >= 0)
        pairs.append((first[same], second[same]))
    one, two = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
    # Union-find, all pairs at once: each root hangs itself under a smaller one, then every pixel
    # looks up its root; a few rounds are enough for pieces of any shape.
    root = index.ravel().copy()
    while len(one):
        a, b = root[one], root[two]
        differ = a != b
        one, two, a, b = one[differ], two[differ], a[differ], b[differ]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while (higher := root[root]).tobytes() != root.tobytes():
            root = higher
    return np.where(classes >= 0, root.reshape(classes.shape), -1)


def _pieces(classes, least):
    """(image, (rows, columns)) of each connected piece of at least `least` pixels."""
    roots = components(classes).ravel()
    order = np.argsort(roots, kind="stable")
    order = order[np.searchsorted(roots[order], 0) :]
    if not len(order):
        return
    starts = np.nonzero(np.diff(roots[order], prepend=-1))[0]
    for pixels in np.split(order, starts[1:]):
        if len(pixels) >= least:
            image, rows, columns = np.unravel_index(pixels, classes.shape)
            yield int(image[0]), (rows, columns)


def _parted(middles, least) -> list[np.ndarray]:
    """Which pixels of a piece belong together: the indices of those of each object.

    Args:
      middles: [m, 2], where each pixel takes the middle of its object to be.
      least: pixels that an object must have.
    """
    if np.ptp(middles, axis=0).max() < _APART / 2:  # most objects: of one opinion
        return [np.arange(len(middles))]
    second = _halves(middles)
    parts = np.nonzero(~second)[0], np.nonzero(second)[0]
    if min(len(part) for part in parts) >= least:
        one, two = (middles[part].mean(axis=0) for part in parts)
        own = np.where(second[:, None], two, one)
        opinions = np.linalg.norm(middles - own, axis=-1).mean()
        if np.linalg.norm(two - one) >= max(_APART, _CLEARLY * opinions):
            return [part[inner] for part in parts for inner in _parted(middles[part], least)]
    return [np.arange(len(middles))]


def _halves(middles) -> np.ndarray:
    """Two means: whether each point [m, 2] is nearer to the second of two centres, boolean [m]."""
    axis = np.argmax(np.ptp(middles, axis=0))
    order = np.argsort(middles[:, axis], kind="stable")
    centres = middles[order[[len(order) // 20, -1 - len(order) // 20]]]  # a stray does not decide
    for _ in range(10):
        distance = np.linalg.norm(middles[:, None] - centres[None], axis=-1)
        second = distance[:, 1] < distance[:, 0]
        if second.all() or not second.any():
            break
        centres = np.stack([middles[~second].mean(axis=0), middles[second].mean(axis=0)])
    return second


def _summary(seen, image, rows, columns) -> SeenObject:
    side = seen.semantic.shape[1]
    at = image, rows, columns
    shapes = seen.shapes[at].mean(axis=0)
    shape = int(np.argmax(shapes))
    box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return SeenObject(
        label=shape * len(COLOURS) + int(np.bincount(seen.colour[at]).argmax()),
        box=tuple(float(edge) / side for edge in box),
        pixels=len(rows),
        certainty=float(seen.certainty[at].mean() * shapes[shape]),
        size=SIZES[int(seen.large[at].mean() > 0.5)],
        material=MATERIALS[int(seen.shiny[at].mean() > 0.5)],
    )
