"""The objects that the scene reader (`scene_reader.py`) detects in an image.

An object is a connected component of one colour; its shape is the mean prediction of its pixels.
Objects of one colour that touch in the image form one component; they are separated by the centres
of their object that their pixels predict.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ldm_jax.data.scenes import CLASS_NAMES, COLOURS, SHAPES, SIZES
from ldm_jax.data.scenes.world import MATERIALS, MIN_VISIBLE, SceneObject
from ldm_jax.evaluation.scene_network import SIZE
from ldm_jax.evaluation.scene_reader import Reading, read

_APART = 0.10  # of the image's side: least distance between the centres of two objects
_SAME = 0.05  # below this distance, a component of another colour belongs to the same object
SOUND = (
    -4.0
)  # least log odds of a sound object: 99 of 100 true ones have more, also half a pixel off
_EDGE = 0.15  # the same for a component whose predicted centre is not its own
_OFF = 0.25  # of its extent: least distance of such a centre
_CLEARLY = 3.0  # least ratio of the distance of two centres to the spread of their predictions


# Pixels of one image that share an edge: [images, rows, columns].
_NEIGHBOURS = np.zeros((3, 3, 3), bool)
_NEIGHBOURS[1] = ndimage.generate_binary_structure(2, 1)


class DetectedObject(NamedTuple):
    """One object that the reader detects."""

    shape: str  # one of SHAPES
    colour: str  # one of COLOURS
    size: str  # one of SIZES
    material: str  # one of MATERIALS
    box: tuple[float, float, float, float]  # left, top, right, bottom in [0, 1]
    pixels: int
    certainty: float  # mean probability of its colour, times that of its shape
    sound: float  # log odds that its edges and its light are a true object's
    x: float  # its place in the world, in the units of `data.scenes.world`
    y: float
    radius: float
    turn: float

    @property
    def label(self) -> int:
        """Index in CLASS_NAMES."""
        return SHAPES.index(self.shape) * len(COLOURS) + COLOURS.index(self.colour)

    @property
    def name(self) -> str:
        return CLASS_NAMES[self.label]

    @property
    def is_sound(self) -> bool:
        return self.sound >= SOUND

    @property
    def solid(self) -> SceneObject:
        """The object of the world that it looks like."""
        words = (self.shape, self.colour, self.size, self.material)
        return SceneObject(*words, self.x, self.y, self.radius, self.turn)

    @property
    def footprint(self) -> float:
        """Radius of the smallest vertical cylinder around it, in the world."""
        return self.solid.footprint


def detect_objects(images) -> list[list[DetectedObject]]:
    """The objects in each image, the largest first.

    Args:
      images: uint8 [n, H, H, 3], H = 32 or a multiple of 64.
    Raises:
      UserError: for any other dtype or size.
    """
    return objects_in(read(images))


def objects_in(seen: Reading) -> list[list[DetectedObject]]:
    """The objects of images that the reader has read already."""
    least = min_pixels(seen.semantic.shape[1])
    colours = np.where(seen.semantic >= 2, seen.colour.astype(np.int32), -1)
    groups = [[] for _ in seen.semantic]
    for image, (rows, columns) in _components(colours, least):
        for part in _separate(seen.centre[image, rows, columns], least):
            groups[image].append((rows[part], columns[part]))
    return [
        [_summary(seen, image, *group) for group in _merge(seen.centre[image], found)]
        for image, found in enumerate(groups)
    ]


def _merge(centres, groups):
    """(rows, columns) of each object, the largest first; small components are merged into theirs.

    A highlight may look white, and a shadow may divide an object: the pixels of both still predict
    its centre. Where two objects touch, pixels between them predict a centre that is neither's, nor
    that of their own component.
    """
    whole = []
    for rows, columns in sorted(groups, key=lambda group: -len(group[0])):
        centre = centres[rows, columns].mean(axis=0)
        near = _EDGE if _is_part(centre, rows, columns, len(centres)) else _SAME
        distances = [np.linalg.norm(main - centre) for main, *_ in whole]
        k = int(np.argmin(distances)) if whole else -1
        if whole and distances[k] < near and 2 * len(rows) < len(whole[k][1]):
            main, *others = whole[k]
            joined = zip(others, (rows, columns), strict=True)
            whole[k] = main, *(np.concatenate(parts) for parts in joined)
        else:
            whole.append((centre, rows, columns))
    return [group for _, *group in sorted(whole, key=lambda group: -len(group[1]))]


def _is_part(centre, rows, columns, side) -> bool:
    """Whether a component's pixels predict a centre that is far from its own, for its size."""
    for predicted, places in zip(centre, (columns, rows), strict=True):
        low, high = places.min(), places.max() + 1
        if abs(predicted * side - (low + high) / 2) > _OFF * (high - low):
            return True
    return False


def min_pixels(side: int) -> int:
    """The least pixels of an object: scenes show more of each (`MIN_VISIBLE`)."""
    return round(MIN_VISIBLE * (side / SIZE) ** 2)


def components(classes) -> np.ndarray:
    """Connected components: pixels that share an edge and have the same class.

    Args:
      classes: integers [n, H, W], negative for the background.
    Returns:
      int64 [n, H, W]: a number per component, unique in the whole array; -1 in the background.
    """
    classes = np.asarray(classes)
    numbers = np.full(classes.shape, -1, np.int64)
    count = 0
    for number in np.unique(classes[classes >= 0]):
        labels, n = ndimage.label(classes == number, _NEIGHBOURS)
        numbers[labels > 0] = labels[labels > 0] - 1 + count
        count += n
    return numbers


def _components(classes, least):
    """(image, (rows, columns)) of each component of at least `least` pixels, by its first pixel."""
    numbers = components(classes).ravel()
    order = np.argsort(numbers, kind="stable")
    order = order[np.searchsorted(numbers[order], 0) :]
    if not len(order):
        return
    starts = np.nonzero(np.diff(numbers[order], prepend=-1))[0]
    for pixels in sorted(np.split(order, starts[1:]), key=lambda pixels: pixels[0]):
        if len(pixels) >= least:
            image, rows, columns = np.unravel_index(pixels, classes.shape)
            yield int(image[0]), (rows, columns)


def _separate(centres, least) -> list[np.ndarray]:
    """Separates a component into objects: the indices of the pixels of each.

    Args:
      centres: [m, 2], the centre of its object that each pixel predicts.
      least: pixels that an object must have.
    """
    if np.ptp(centres, axis=0).max() < _APART / 2:  # most components: one object
        return [np.arange(len(centres))]
    second = _two_means(centres)
    parts = np.nonzero(~second)[0], np.nonzero(second)[0]
    if min(len(part) for part in parts) >= least:
        one, two = (centres[part].mean(axis=0) for part in parts)
        own = np.where(second[:, None], two, one)
        spread = np.linalg.norm(centres - own, axis=-1).mean()
        if np.linalg.norm(two - one) >= max(_APART, _CLEARLY * spread):
            return [part[inner] for part in parts for inner in _separate(centres[part], least)]
    return [np.arange(len(centres))]


def _two_means(centres) -> np.ndarray:
    """k-means with k = 2: whether each point [m, 2] belongs to the second cluster, boolean [m]."""
    axis = np.argmax(np.ptp(centres, axis=0))
    order = np.argsort(centres[:, axis], kind="stable")
    means = centres[order[[len(order) // 20, -1 - len(order) // 20]]]  # robust to outliers
    for _ in range(10):
        distance = np.linalg.norm(centres[:, None] - means[None], axis=-1)
        second = distance[:, 1] < distance[:, 0]
        if second.all() or not second.any():
            break
        means = np.stack([centres[~second].mean(axis=0), centres[second].mean(axis=0)])
    return second


def _summary(seen, image, rows, columns) -> DetectedObject:
    side = seen.semantic.shape[1]
    at = image, rows, columns
    shapes = seen.shapes[at].mean(axis=0)
    shape = int(np.argmax(shapes))
    box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    x, y, radius, turn = np.median(seen.pose[at], axis=0)
    return DetectedObject(
        shape=SHAPES[shape],
        colour=COLOURS[int(np.bincount(seen.colour[at]).argmax())],
        size=SIZES[int(seen.large[at].mean() > 0)],
        material=MATERIALS[int(seen.shiny[at].mean() > 0)],
        box=tuple(float(edge) / side for edge in box),
        pixels=len(rows),
        certainty=float(seen.certainty[at].mean() * shapes[shape]),
        sound=float(seen.sound[at].mean()),
        x=float(x),
        y=float(y),
        radius=float(radius),
        turn=float(turn),
    )
