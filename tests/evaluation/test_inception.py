"""InceptionV3 of FID: equal to torch-fidelity's network and resizing, at equal weights."""

import jax
import numpy as np
import pytest

from ldm_jax.evaluation import inception


def published(params, seed=0):
    """A state dict with the published names: random weights that keep the size of activations."""
    rng, state = np.random.default_rng(seed), {}
    for layer, arrays in params.items():
        *size, c_in, c = arrays["kernel"].shape
        kernel = rng.standard_normal((c, c_in, *size), np.float32)
        kernel *= np.sqrt(2 / (c_in * np.prod(size)))
        if layer == "fc":
            state |= {"fc.weight": kernel.reshape(c, c_in), "fc.bias": rng.random(c, np.float32)}
            continue
        state[f"{layer}.conv.weight"] = kernel
        for part in ("weight", "running_var"):
            state[f"{layer}.bn.{part}"] = rng.uniform(0.5, 1.5, c).astype(np.float32)
        for part in ("bias", "running_mean"):
            state[f"{layer}.bn.{part}"] = rng.normal(0, 0.1, c).astype(np.float32)
    return state


@pytest.mark.parametrize("height, width", [(5, 7), (12, 9), (7, 7)])
def test_resizing_is_bilinear_on_the_grid_of_tensorflow_1(height, width):
    x = np.random.default_rng(0).uniform(0, 255, (2, height, width, 3)).astype(np.float32)
    expected = np.zeros((2, 7, 7, 3))
    for i in range(7):
        for j in range(7):
            y, left = i * height / 7, j * width / 7
            for a in range(height):
                for b in range(width):
                    # Beyond the last pixel that pixel goes on.
                    wy = max(0, 1 - abs(min(y, height - 1) - a))
                    wx = max(0, 1 - abs(min(left, width - 1) - b))
                    expected[:, i, j] += wy * wx * x[:, a, b]
    np.testing.assert_allclose(inception.resize(x, 7), expected, rtol=1e-5)


def test_the_network_has_the_published_layers():
    params = inception.abstract_params()
    assert len(params) == 95  # 94 convolutions, and the last layer
    assert params["Mixed_7c.branch3x3dbl_3b"]["kernel"].shape == (3, 1, 384, 384)


@pytest.mark.slow
def test_features_and_logits_are_those_of_torch_fidelity(tmp_path):
    torch = pytest.importorskip("torch")
    torch_fidelity = pytest.importorskip("torch_fidelity")
    from ldm_jax.pretrained.feature_networks import load_network

    file = tmp_path / "inception.pth"
    state = published(inception.abstract_params())
    torch.save({name: torch.from_numpy(array) for name, array in state.items()}, file)
    network = torch_fidelity.FeatureExtractorInceptionV3(
        "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(file)
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 40, 3), np.uint8)
    images[1] //= 4
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2)))

    params = load_network("inception", file)
    features = jax.jit(inception.features)(params, images)
    logits = inception.logits(params, features)
    for found, value in zip((features, logits), expected, strict=True):
        value = value.numpy()
        assert value.std() > 0.05
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-4 * np.abs(value).max())
