"""Which networks' features are compared, and their weights."""

from __future__ import annotations

from collections.abc import Mapping

from ldm_jax.errors import UserError
from ldm_jax.evaluation.features import FeatureName
from ldm_jax.pretrained.feature_networks import load_network, packaged_file


def default_features(scenes: bool, weights: Mapping[str, str]) -> tuple[FeatureName, ...]:
    """The networks that report where none is named.

    The scene reader, which comes with the package. On other images than scenes also
    EfficientNet-Lite0, where its package is installed. And any network whose file is given.

    Args:
      scenes: whether the images are scenes. weights: network -> file.
    """
    installed = not scenes and _is_installed()
    chosen = ["scene-reader", *(["efficientnet-lite0"] if installed else []), *weights]
    return tuple(dict.fromkeys(chosen))


def load_networks(names: tuple[FeatureName, ...], weights: Mapping[str, str]) -> dict[str, dict]:
    """Network -> its parameters.

    Raises:
      UserError: a file or a package is missing, damaged or another one; a file of no use.
    """
    if unused := [name for name in weights if name not in names and name != "squeezenet"]:
        raise UserError(
            f"--weights {unused[0]}={weights[unused[0]]}: --features has no {unused[0]}"
        )
    return {name: load_network(name, weights.get(name, "")) for name in names}


def _is_installed() -> bool:
    try:
        return bool(packaged_file())
    except UserError:
        return False
