"""Features of images in the networks whose distances are reported, each by its own name.

The values of two networks are not comparable; only those on 'inception' may be called FID.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, Sharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from ldm_jax.autoencoder import perceptual
from ldm_jax.errors import UserError
from ldm_jax.evaluation import efficientnet, inception, scene_reader
from ldm_jax.evaluation.scene_network import FEATURES
from ldm_jax.layers import Array

_ROWS_AT_ONCE = 4096  # of features, whose logits are taken together
FeatureName = Literal["scene-reader", "inception", "efficientnet-lite0", "squeezenet"]


class FeatureNetwork(NamedTuple):
    """A network with constant weights; `ldm_jax.pretrained.feature_networks` reads them."""

    name: str
    dimension: int
    """Of the features."""
    features: Callable[[dict, Array], Array]
    """(params, `[n, H, W, 3]` of 0..255) -> float32 `[n, dimension]`."""
    logits: Callable[[dict, Array], Array] | None
    """(params, features) -> scores of the classes `[n, classes]`; None without a classifier."""


def _squeezenet(params: dict, images: Array) -> Array:
    """The mean over the positions of the last layer of LPIPS: `[n, H, W, 3]` -> `[n, 512]`."""
    x = efficientnet.resize(jnp.asarray(images, jnp.float32), efficientnet.SIZE) / 127.5 - 1
    with jax.default_matmul_precision("highest"):  # as the others: equal on all devices
        return perceptual.stages(params, "squeezenet", x)["fire9"].mean(axis=(1, 2))


NETWORKS: dict[FeatureName, FeatureNetwork] = {
    network.name: network
    for network in (
        FeatureNetwork("inception", inception.DIMENSION, inception.features, inception.logits),
        FeatureNetwork(
            "efficientnet-lite0",
            efficientnet.DIMENSION,
            efficientnet.features,
            efficientnet.logits,
        ),
        FeatureNetwork("squeezenet", 512, _squeezenet, None),
        FeatureNetwork("scene-reader", FEATURES, scene_reader.features, None),
    )
}


def extract(
    network: FeatureNetwork,
    params: dict,
    images: np.ndarray,
    batch_size: int = 32,
    *,
    sharding: Sharding | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Features of images of one size: uint8 `[n, H, W, 3]` -> float32 `[n, dimension]`.

    Grey images `[n, H, W, 1]` are taken as three equal channels. The features of an image do not
    depend on the others. One batch is on the devices at a time; one program serves all batches.

    Args:
      network: such as `NETWORKS['inception']`.
      params: its weights.
      batch_size: at most so many images at once, or one for each device.
      sharding: how a batch is split over devices, each of which has all weights; None: one device.
        Where the devices belong to several processes, all of them call this alike, with all images,
        and get all features.
      progress: show a bar.

    Raises:
      UserError: there are no images, or they have another shape or type.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8:
        raise UserError(
            "features are taken of RGB or grey images, uint8 [n, height, width, 3 or 1], not "
            f"{images.dtype} {list(images.shape)}"
        )
    if not images.size:
        raise UserError(f"features need at least one image, got {list(images.shape)}")
    found = np.empty((len(images), network.dimension), np.float32)
    with tqdm(
        total=len(images), desc=f"{network.name} features", disable=not progress, unit="img"
    ) as bar:
        for start, part in feature_batches(network, params, images, batch_size, sharding):
            found[start : start + len(part)] = part
            bar.update(len(part))
    return found


def feature_batches(
    network: FeatureNetwork,
    params: dict,
    images: np.ndarray,
    batch_size: int,
    sharding: Sharding | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the first image, features float32 `[b, dimension]`), batch by batch: `extract`."""
    sharding = sharding or SingleDeviceSharding(jax.devices()[0])
    program, params = _program(network, sharding), _placed(params, _everywhere(sharding))
    shards = sharding.num_devices
    batch_size = -(-min(batch_size, len(images)) // shards) * shards
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        count = len(batch)
        batch = np.broadcast_to(batch, (*batch.shape[:3], 3))
        # The last batch repeats its last image: another size would compile another program.
        batch = np.pad(batch, ((0, batch_size - count), (0, 0), (0, 0), (0, 0)), "edge")
        yield start, np.asarray(program(params, _placed(batch, sharding)))[:count]


def class_logits(network: FeatureNetwork, params: dict, features: np.ndarray) -> np.ndarray:
    """Scores of the classes, from features `[n, dimension]`: float32 `[n, classes]`."""
    logits = jax.jit(network.logits)
    rows = np.array_split(features, -(-len(features) // _ROWS_AT_ONCE))
    return np.concatenate([np.asarray(logits(params, some)) for some in rows])


@functools.lru_cache(maxsize=8)
def _program(network: FeatureNetwork, sharding: Sharding) -> Callable[[dict, Array], Array]:
    return jax.jit(network.features, out_shardings=_everywhere(sharding))


def _everywhere(sharding: Sharding) -> Sharding:
    """All of an array on each of the devices."""
    return NamedSharding(sharding.mesh, P()) if isinstance(sharding, NamedSharding) else sharding


def _placed(tree: Any, sharding: Sharding) -> Any:
    """Arrays that every process has, whole, on the devices."""
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, np.asarray(x).__getitem__), tree
    )
