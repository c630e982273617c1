"""The weights of a model, and where they lie while it is used."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from ldm_jax.sampling.guides import Guide
from ldm_jax.training.sharding import batch_sharding, make_mesh, put, tree_sharding


@dataclass(frozen=True)
class Weights:
    """What a trained model consists of, as nested dicts of arrays."""

    params: dict | None
    """Of the UNet and tau_theta, their moving average where there is one; None: no second stage."""
    constants: dict
    """`autoencoder`, the parameters of the first stage, and `scale_factor` (App. G)."""


class Placement:
    """Puts weights onto devices when they are needed, and keeps them there.

    Args:
      tensor: number of devices over which they are split as in training, where that is possible.
      mesh: the devices that hold the weights already; None: they are NumPy arrays.
    """

    def __init__(self, weights: Weights, tensor: int = 1, mesh: Mesh | None = None):
        self.weights, self.tensor, self.mesh = weights, tensor, mesh
        self._placed: tuple[Mesh, Weights] | None = None

    def of(self, n: int) -> tuple[Weights, NamedSharding]:
        """(the weights on the devices, how batches are split over these), for n images.

        No more devices than images are taken, unless the weights are split over them, or they
        belong to several processes.
        """
        if self.mesh is not None:
            return self.weights, batch_sharding(self.mesh)
        devices = jax.devices()
        if self.tensor > 1 and len(devices) % self.tensor == 0:
            mesh = make_mesh(-1, 1, self.tensor)
        else:
            mesh = make_mesh(devices=devices[:n] if jax.process_count() == 1 else devices)
        if self._placed is None or self._placed[0] != mesh:
            trees = (self.weights.params, self.weights.constants)
            self._placed = mesh, Weights(*put(trees, tree_sharding(trees, mesh)))
        return self._placed[1], batch_sharding(mesh)

    def guides(self, guides: tuple[Guide, ...], n: int) -> tuple[Guide, ...]:
        """Guides with their weights on the same devices; those of the model are there already."""
        placed, sharding = self.of(n)
        own = jax.tree.leaves((self.weights.params, self.weights.constants))
        here = jax.tree.leaves((placed.params, placed.constants))
        known = {id(a): b for a, b in zip(own, here, strict=True)}

        def place(tree: Any) -> Any:
            shardings = tree_sharding(tree, sharding.mesh)
            return jax.tree.map(
                lambda a, s: known[id(a)] if id(a) in known else put(a, s), tree, shardings
            )

        return tuple(replace(guide, weights=place(guide.weights)) for guide in guides)
