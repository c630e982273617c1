"""Random-access data: what every data set offers, arrays in memory, subsets."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from tqdm import tqdm

from ldm_jax.errors import UserError

Rngs = Sequence[np.random.Generator] | None


class Source(Protocol):
    """Examples by number.

    A source whose examples depend on `rngs` (random crops) also says `drawn = True`, so that nobody
    keeps one view of them for good.
    """

    class_names: tuple[str, ...] | None
    """The names of the classes where examples carry 'class_label', otherwise None."""
    box_names: tuple[str, ...] | None
    """The names of what 'box_labels' number where examples carry 'boxes', otherwise None."""
    semantic_names: tuple[str, ...] | None
    """The names of what 'semantic' numbers, otherwise None."""
    channels: int
    """1 (grey) or 3 (colour); 0 where the examples hold no image."""

    def __len__(self) -> int: ...

    def read(self, indices, rngs: Rngs = None) -> dict[str, np.ndarray]:
        """The examples at `indices` ([n] integers).

        rngs: one generator per example where its view is to be drawn (random crop, one of many
        captions); None gives the deterministic view (centre crop, first caption).
        Returns 'image' uint8 [n, H, W, C], and where the data has them
        'class_label' int32 [n]; 'caption' [n] of str (dtype object);
        'boxes' float32 [n, M, 4]: left, top, right, bottom as shares of the whole image, with
        'box_labels' int32 [n, M] (-1 behind the last box: none) and 'crop' float32 [n, 4], the part
        of the whole image that 'image' shows, in the same units;
        'semantic' uint8 (int32 for more than 256 classes) [n, H, W]: the class of each pixel.
        """
        ...


class ArraySource:
    """Equally long arrays in memory under any keys: images, cached latents, tokens."""

    drawn = False

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


class Subset:
    """A view of some examples of another source."""

    def __init__(self, source: Source, indices) -> None:
        self.source = source
        self.indices = np.asarray(indices, int)
        self.class_names = source.class_names
        self.box_names = getattr(source, "box_names", None)
        self.semantic_names = getattr(source, "semantic_names", None)
        self.channels = source.channels
        self.drawn = getattr(source, "drawn", False)

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices, rngs: Rngs = None) -> dict[str, np.ndarray]:
        """The examples `self.indices[indices]` of the source behind."""
        return self.source.read(self.indices[np.asarray(indices, int)], rngs)


def in_memory(
    source: Source, progress: str | None = None, limit_bytes: float = 2e9, chunk: int = 512
) -> Source:
    """Reads everything once and keeps it, where the images fit into `limit_bytes`.

    Returns an ArraySource, or `source` itself where it is too large or `drawn`.
    progress: the title of a tqdm bar; None shows none.
    """
    n = len(source)
    if n == 0 or isinstance(source, ArraySource) or getattr(source, "drawn", False):
        return source
    first = source.read([0])
    if n * sum(array[0].nbytes for array in first.values() if array.dtype != object) > limit_bytes:
        return source
    arrays = {key: np.empty((n, *array.shape[1:]), array.dtype) for key, array in first.items()}
    with tqdm(total=n, desc=progress, disable=progress is None, unit="img") as bar:
        for start in range(0, n, chunk):
            rows = range(start, min(start + chunk, n))
            for key, array in source.read(rows).items():
                arrays[key][rows.start : rows.stop] = array
            bar.update(len(rows))
    names = (getattr(source, key, None) for key in ("box_names", "semantic_names"))
    return ArraySource(arrays, source.class_names, *names)


def held_out(n: int, fraction: float, seed: int) -> tuple[np.ndarray, int]:
    """A seeded order of n examples and how many at its head are for validation.

    The number is round(fraction * n), at least 1 and at most n - 1; 0 for fraction 0.
    UserError for a fraction outside [0, 1) or when one example is all there is.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"the validation fraction must be in [0, 1), got {fraction}")
    if fraction and n < 2:
        raise UserError(
            f"{n} example cannot be divided into training and validation; give 2 or "
            "more, or a validation fraction of 0"
        )
    count = min(max(1, round(fraction * n)), n - 1) if fraction else 0
    return np.random.default_rng(seed).permutation(n), count


def split(source: Source, fraction: float, seed: int) -> tuple[Subset, Subset]:
    """Two disjoint subsets (training, validation), for data without a split of its own."""
    order, count = held_out(len(source), fraction, seed)
    return Subset(source, order[count:]), Subset(source, order[:count])


def one_text(texts: Sequence[str], rng: np.random.Generator | None) -> str:
    """One of an example's captions: drawn with a generator, otherwise the first; '' of none."""
    if not texts:
        return ""
    return texts[0 if rng is None else int(rng.integers(len(texts)))]
