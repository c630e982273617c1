"""Which examples stand for all in figures and numbers: spread over a data set and its classes."""

import numpy as np

from ldm_jax.data.source import Source

LOOKED_AT = 1024  # examples whose classes are looked up, at most, unless more are wanted


def spread(source: Source, n: int) -> np.ndarray:
    """At most `n` examples of a source, none of them twice: int [min(n, len(source))].

    They are a random choice, always the same one, whatever the order of the source is. Where it
    has classes they take turns, so that the first examples of the result are of different ones.
    """
    order = np.random.default_rng(0).permutation(len(source))
    if source.class_names:
        order = order[: max(n, LOOKED_AT)]
        order = order[np.argsort(turns(source.labels(order)), kind="stable")]
    return order[:n]


def turns(labels: np.ndarray) -> np.ndarray:
    """How many equal labels precede each label: int [n]."""
    turn = np.empty(len(labels), int)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        turn[places] = np.arange(len(places))
    return turn
