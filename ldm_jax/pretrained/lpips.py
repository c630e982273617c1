"""Published weights of LPIPS, for `ldm_jax.autoencoder.perceptual`.

The networks are torchvision's (BSD-3-Clause). The heads are version 0.1 of PerceptualSimilarity's
(BSD-2-Clause, `LICENSE.lpips`); they are small and stored beside this file.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import jax
import numpy as np
from etils import epath

from ldm_jax.autoencoder.perceptual import PerceptualNetwork, abstract_params
from ldm_jax.errors import UserError
from ldm_jax.pretrained.convert import check_finite
from ldm_jax.pretrained.download import download
from ldm_jax.pretrained.files import read_state_dict

HEADS = Path(__file__).with_name("lpips_heads.npz")
PUBLISHED = {  # network -> (url, sha256)
    "vgg16": (
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    ),
    "squeezenet": (
        "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
        "b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
    ),
}

# Layer -> its index in torchvision's `features`, which names it in all published files.
# fmt: off
_INDEX = {
    "vgg16": {
        "conv1_1": 0, "conv1_2": 2,
        "conv2_1": 5, "conv2_2": 7,
        "conv3_1": 10, "conv3_2": 12, "conv3_3": 14,
        "conv4_1": 17, "conv4_2": 19, "conv4_3": 21,
        "conv5_1": 24, "conv5_2": 26, "conv5_3": 28,
    },
    "squeezenet": {
        "conv1": 0,
        "fire2": 3, "fire3": 4,
        "fire4": 6, "fire5": 7,
        "fire6": 9, "fire7": 10, "fire8": 11, "fire9": 12,
    },
}
# fmt: on


def load_lpips(network: PerceptualNetwork, file: epath.PathLike = "", fetch=download) -> dict:
    """Published parameters of `lpips`: NumPy arrays, float32, as `abstract_params(network)`.

    Args:
      file: one of
        - a state dict of torchvision's vgg16 or squeezenet1_1; the heads are the stored ones;
        - a first stage of CompVis/latent-diffusion, whose loss holds VGG16 and its heads;
        - an `.npz` of network and heads, named by torchvision's indices (`3_squeeze_weight`,
          `head0`), with kernels `[h, w, c_in, c_out]`;
        - '': the file of torchvision, downloaded once.
      fetch: (url, sha256) -> the path of a published file.

    Raises:
      UserError: if the file is none of these, holds another network, or is incomplete.
    """
    file = epath.Path(file) if file else fetch(*PUBLISHED[network])
    arrays = _read(network, file)
    params = abstract_params(network)
    taps = [layer for layer in _INDEX[network] if layer in params["heads"]]

    def published(path, like):
        keys = tuple(part.key for part in path)
        layer, *part, leaf = keys
        if layer == "heads":
            key = f"head{taps.index(leaf)}"
        else:
            leaf = {"kernel": "weight"}.get(leaf, leaf)
            key = ".".join(["features", str(_INDEX[network][layer]), *part, leaf])
        problem = f"{file} does not hold LPIPS with {network}: {'.'.join(keys)} "
        if key not in arrays:
            raise UserError(problem + "is missing")
        array = arrays[key]
        if array.ndim == 4:  # torch's layout
            array = array.reshape(-1) if layer == "heads" else array.transpose(2, 3, 1, 0)
        if array.shape != like.shape:
            raise UserError(problem + f"has the shape {array.shape}, not {like.shape}")
        check_finite(f"{file}: {key}", array)
        return np.array(array, like.dtype, order="C")

    return jax.tree_util.tree_map_with_path(published, params)


def _read(network: str, file: epath.Path) -> dict[str, np.ndarray]:
    """Arrays with torchvision's names and layout; the heads are `head0`, `head1`, ..."""
    if file.suffix == ".npz":
        arrays = _read_npz(file)
        return {
            re.sub(r"^(\d+)_", r"features.\1.", key).replace("_", "."): (
                array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
            )
            for key, array in arrays.items()
        }
    state = read_state_dict(file)
    # Read only what is needed: the classifier of VGG16 is eight times as large as its convolutions.
    first_stage = [key for key in state if key.startswith("loss.perceptual_loss.")]
    if first_stage:
        return {_torchvision_name(key): state[key] for key in first_stage}
    features = [key for key in state if key.startswith("features.")]
    if not features:
        raise UserError(
            f"{file} holds no LPIPS weights: it is neither a state dict of torchvision's "
            f"{network} nor a first stage with loss.perceptual_loss"
        )
    heads = {
        key.removeprefix(f"{network}/"): array
        for key, array in _read_npz(epath.Path(HEADS)).items()
        if key.startswith(f"{network}/")
    }
    return {key: state[key] for key in features} | heads


def _torchvision_name(key: str) -> str:
    """`loss.perceptual_loss.net.slice2.5.bias` -> `features.5.bias`, `...lin0...` -> `head0`."""
    key = re.sub(r".*\.net\.slice\d\.", "features.", key)
    return re.sub(r".*\.lin(\d)\..*", r"head\1", key)


def _read_npz(file: epath.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # a damaged file can raise any type
        raise UserError(f"{file} cannot be read as an .npz of arrays: {error}") from error
