"""EfficientNet-Lite0: the published weights see in photographs what is there."""

from pathlib import Path

import jax
import matplotlib
import numpy as np
import pytest
from PIL import Image

from ldm_jax.errors import UserError
from ldm_jax.evaluation import efficientnet
from ldm_jax.pretrained.feature_networks import load_network, packaged_file


@pytest.fixture(scope="module")
def params():
    try:
        packaged_file()
    except UserError as error:
        pytest.skip(str(error))
    return load_network("efficientnet-lite0")


def classes(params, image):
    """The three most likely classes of ImageNet, of a photograph's central square."""
    size = min(image.size)
    left, top = ((side - size) // 2 for side in image.size)
    square = image.convert("RGB").crop((left, top, left + size, top + size)).resize((224, 224))
    features = jax.jit(efficientnet.features)(params, np.asarray(square)[None])
    return np.argsort(-efficientnet.logits(params, features)[0])[:3].tolist()


def test_a_portrait_of_an_officer_is_a_military_uniform(params):
    file = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    assert classes(params, Image.open(file))[0] == 652


@pytest.mark.parametrize(
    "name, expected",
    [("chelsea.png", {281, 282, 285}), ("coffee.png", {967}), ("rocket.jpg", {657})],
)
def test_photographs_have_their_classes(params, name, expected):
    skimage = pytest.importorskip("skimage")
    file = Path(skimage.__file__).parent / "data" / name
    if not file.exists():
        pytest.skip("not in this version of scikit-image")
    assert classes(params, Image.open(file))[0] in expected


def test_resizing_is_that_of_pillow():
    image = np.random.default_rng(0).integers(64, 192, (300, 200, 3), np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC))
    found = efficientnet.resize(image[None].astype(np.float32), 224)[0]
    assert np.abs(found - expected).max() < 1.2  # Pillow rounds after each axis


def test_the_network_has_the_published_layers():
    params = efficientnet.abstract_params()
    assert params["_blocks.3._depthwise_conv"]["kernel"].shape == (5, 5, 1, 144)
    assert "_blocks.0._expand_conv" not in params and "_blocks.15._project_conv" in params


def restated(state, x):
    """The network in PyTorch's operations, written from its description: `[n, 3, 224, 224]`."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional

    def norm(x, name):
        arrays = (state[f"{name}.{part}"] for part in ("running_mean", "running_var"))
        return F.batch_norm(x, *arrays, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-3)

    def conv(x, name, stride=1, groups=1):
        kernel = state[f"{name}.weight"]
        missing = max((-(-x.shape[-1] // stride) - 1) * stride + kernel.shape[-1] - x.shape[-1], 0)
        x = F.pad(x, 2 * (missing // 2, missing - missing // 2))  # "same" of TensorFlow
        return F.conv2d(x, kernel, None, stride, groups=groups)

    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]  # of the 16 blocks
    x = F.relu6(norm(conv(x, "_conv_stem", 2), "_bn0"))
    for number, stride in enumerate(strides):
        name, h = f"_blocks.{number}", x
        if f"{name}._expand_conv.weight" in state:
            h = F.relu6(norm(conv(h, f"{name}._expand_conv"), f"{name}._bn0"))
        h = conv(h, f"{name}._depthwise_conv", stride, groups=h.shape[1])
        h = F.relu6(norm(h, f"{name}._bn1"))
        h = norm(conv(h, f"{name}._project_conv"), f"{name}._bn2")
        x = x + h if stride == 1 and h.shape == x.shape else h
    return F.relu6(norm(conv(x, "_conv_head"), "_bn1")).mean((2, 3))


def test_features_are_those_of_a_restatement_in_pytorch(params):
    """Of small images as well, which are enlarged."""
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 64, 3), np.uint8)
    x = torch.tensor(images).permute(0, 3, 1, 2).float()
    x = torch.nn.functional.interpolate(x, (224, 224), mode="bicubic", antialias=True)
    state = torch.load(packaged_file(), weights_only=True)
    with torch.no_grad():
        expected = restated(state, (x - 127) / 128).numpy()
    found = jax.jit(efficientnet.features)(params, images)
    np.testing.assert_allclose(found, expected, atol=1e-4)
