"""Random-access data: what every data set offers, arrays in memory, subsets."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal, Protocol

import numpy as np
from tqdm import tqdm

from ldm_jax.bounds import Bounds
from ldm_jax.errors import UserError

Split = Literal["train", "validation"]
HeldOutFraction = Annotated[
    float, Bounds(0, 1, open=True, above=True, why="both stages are judged by held-out images")
]
"""0 < value < 1: the fraction of the images for validation."""
Rngs = Sequence[np.random.Generator] | None


class Source(Protocol):
    """A data set whose examples are read by index.

    A source whose examples depend on `rngs` (random crops) also has `is_random = True`: its
    examples must not be cached. A source of files has `files_digest` and `labels_digest`, which
    tell them, and what is known of them, from others.
    """

    class_names: tuple[str, ...] | None
    """The names of the classes where examples have 'class_label', otherwise None."""
    box_names: tuple[str, ...] | None
    """The names of the classes of 'box_labels' where examples have 'boxes', otherwise None."""
    semantic_names: tuple[str, ...] | None
    """The names of the classes of 'semantic' where examples have it, otherwise None."""
    channels: int
    """1 (grey) or 3 (colour); 0 where examples have no image."""

    def __len__(self) -> int: ...

    def read(self, indices, rngs: Rngs = None) -> dict[str, np.ndarray]:
        """The examples at `indices` ([n] integers).

        rngs: one generator per example for random crops and the choice among several captions;
        None takes the central crop and the first caption.
        Returns 'image' uint8 [n, H, W, C], and where the data has them
        'class_label' int32 [n]; 'caption' [n] of str (dtype object);
        'boxes' float32 [n, M, 4]: left, top, right, bottom as fractions of the whole image, with
        'box_labels' int32 [n, M] (-1: no box) and 'crop' float32 [n, 4], the part of the whole
        image that 'image' shows, in the same units;
        'embedding' float32 [n, M, dim]: M vectors that another model has computed;
        'semantic' uint8 (int32 for more than 256 classes) [n, H, W]: the class of each pixel.
        """
        ...

    def texts(self, indices) -> list[list[str]]:
        """All captions of each of the examples at `indices`, where examples have 'caption'."""
        ...

    def labels(self, indices) -> np.ndarray:
        """The 'class_label' of the examples at `indices`, where they have one; reads no image."""
        ...


class ArraySource:
    """Equally long arrays in memory under any keys: images, cached latents, tokens."""

    is_random = False

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        class_names: Sequence[str] | None = None,
        box_names: Sequence[str] | None = None,
        semantic_names: Sequence[str] | None = None,
    ) -> None:
        """arrays: [n, ...] each. UserError where there is none, or the lengths differ."""
        self.arrays = dict(arrays)
        lengths = {key: len(array) for key, array in self.arrays.items()}
        if len(set(lengths.values())) != 1:
            raise UserError(f"arrays of one data set must be equally long, got {lengths}")
        image = self.arrays.get("image")
        self.class_names = tuple(class_names) if class_names is not None else None
        self.box_names = tuple(box_names) if box_names is not None else None
        self.semantic_names = tuple(semantic_names) if semantic_names is not None else None
        self.channels = 0 if image is None else image.shape[-1]
        self._length = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._length

    def read(self, indices, rngs: Rngs = None) -> dict[str, np.ndarray]:
        """The rows at `indices`, as copies."""
        indices = np.asarray(indices, int)
        return {key: array[indices] for key, array in self.arrays.items()}

    def texts(self, indices) -> list[list[str]]:
        """The captions at `indices`: see `Source`."""
        return [[caption] for caption in self.arrays["caption"][np.asarray(indices, int)]]

    def labels(self, indices) -> np.ndarray:
        """The classes at `indices`: see `Source`."""
        return self.arrays["class_label"][np.asarray(indices, int)]


class Subset:
    """Some examples of another source."""

    def __init__(self, source: Source, indices) -> None:
        self.source = source
        self.indices = np.asarray(indices, int)
        self.class_names = source.class_names
        self.box_names = getattr(source, "box_names", None)
        self.semantic_names = getattr(source, "semantic_names", None)
        self.channels = source.channels
        self.is_random = getattr(source, "is_random", False)
        self.files_digest = getattr(source, "files_digest", "")

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices, rngs: Rngs = None) -> dict[str, np.ndarray]:
        """The examples `self.indices[indices]` of the underlying source."""
        return self.source.read(self.indices[np.asarray(indices, int)], rngs)

    def texts(self, indices) -> list[list[str]]:
        """Their captions: see `Source`."""
        return self.source.texts(self.indices[np.asarray(indices, int)])

    def labels(self, indices) -> np.ndarray:
        """Their classes: see `Source`."""
        return self.source.labels(self.indices[np.asarray(indices, int)])


def read_all(
    source: Source, progress: bool = False, limit_bytes: float = 2e9, chunk: int = 512
) -> Source:
    """Reads all examples once into memory, where they fit into `limit_bytes`.

    Returns an ArraySource, or `source` itself where it is too large or random.
    progress: whether to show a progress bar.
    """
    n = len(source)
    if n == 0 or isinstance(source, ArraySource) or getattr(source, "is_random", False):
        return source
    first = source.read([0])
    if n * sum(array[0].nbytes for array in first.values() if array.dtype != object) > limit_bytes:
        return source
    arrays = {key: np.empty((n, *array.shape[1:]), array.dtype) for key, array in first.items()}
    with tqdm(total=n, desc="reading images", disable=not progress, unit="img") as bar:
        for start in range(0, n, chunk):
            rows = range(start, min(start + chunk, n))
            for key, array in source.read(rows).items():
                arrays[key][rows.start : rows.stop] = array
            bar.update(len(rows))
    names = (getattr(source, key, None) for key in ("box_names", "semantic_names"))
    return ArraySource(arrays, source.class_names, *names)


def gathered(count: int, parts: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """`count` examples of which the parts come one by one, so that no more is held twice."""
    whole, start = {}, 0
    for part in parts:
        stop = start + len(next(iter(part.values())))
        for name, array in part.items():
            if name not in whole:
                whole[name] = np.empty((count, *array.shape[1:]), array.dtype)
            whole[name][start:stop] = array
        start = stop
    return whole


def hash_positions(names: Iterable[str], seed: int) -> np.ndarray:
    """A number in [0, 1) for each name, evenly spread: float64 `[n]`.

    The name and the seed alone decide it, whatever other names there are.
    """
    keys = (f"{seed}:{name}".encode(errors="surrogatepass") for name in names)
    hashes = (hashlib.blake2b(key, digest_size=6).digest() for key in keys)
    return np.array([int.from_bytes(one, "big") / 2**48 for one in hashes])


def held_out_below(positions: np.ndarray, fraction: float) -> float:
    """The number below which the `hash_positions` of held-out examples lie; 0 for fraction 0.

    It is the fraction, so that a further example never moves another one to the other side. Only
    where that would leave one side empty it is just enough for one example.

    UserError for a fraction outside [0, 1) and for fewer than two examples.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"the validation fraction must be in [0, 1), got {fraction}")
    if not fraction:
        return 0.0
    if len(positions) < 2:
        raise UserError(
            f"{len(positions)} example cannot be divided into training and validation; give 2 or "
            "more"
        )
    lowest, highest = positions.min(), positions.max()
    return float(min(max(fraction, np.nextafter(lowest, 1)), highest))


def split(source: Source, fraction: float, seed: int) -> tuple[Subset, Subset]:
    """Two disjoint subsets (training, validation), for data that comes without a split."""
    positions = hash_positions(map(str, range(len(source))), seed)
    order, limit = np.argsort(positions), held_out_below(positions, fraction)
    held_out = positions[order] < limit
    return Subset(source, order[~held_out]), Subset(source, order[held_out])


def digest(rows: Iterable[object]) -> str:
    """What tells these rows from others: 16 hexadecimal digits. Rows are what `repr` shows."""
    total = hashlib.blake2b(digest_size=8)
    for row in rows:
        total.update(f"{row!r}\n".encode(errors="surrogatepass"))
    return total.hexdigest()


def choose_caption(captions: Sequence[str], rng: np.random.Generator | None) -> str:
    """A random caption of an example, or the first without a generator; '' if it has none."""
    if not captions:
        return ""
    return captions[0 if rng is None else int(rng.integers(len(captions)))]
