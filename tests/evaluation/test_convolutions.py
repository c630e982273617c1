"""Layers of the feature networks: equal to JAX's convolutions, with shapes noted as computed."""

import numpy as np
import pytest
from jax import lax

from ldm_jax.evaluation.convolutions import abstract_params, apply, dense


@pytest.mark.parametrize("height, width", [(7, 8), (8, 7)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
def test_a_depthwise_convolution_has_a_kernel_for_each_channel(size, stride, height, width):
    def network(conv, x):
        return conv("a", x, 3, size, stride, depthwise=True)

    rng = np.random.default_rng(0)
    shapes = abstract_params(network, 16)["a"]
    assert shapes["kernel"].shape == (size, size, 1, 3) and shapes["bias"].shape == (3,)
    layer = {name: rng.random(a.shape, np.float32) for name, a in shapes.items()}
    x = rng.random((2, height, width, 3), np.float32)
    expected = lax.conv_general_dilated(
        x,
        layer["kernel"],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=3,
    )
    found = apply(network, {"a": layer}, x)
    np.testing.assert_allclose(found, expected + layer["bias"][None, None, None], rtol=1e-5)


def test_a_dense_layer_is_a_matrix_product():
    rng = np.random.default_rng(0)
    x, kernel, bias = rng.random((2, 4)), rng.random((4, 3)), rng.random(3)
    params = {"kernel": np.float32(kernel[None, None]), "bias": np.float32(bias)}
    np.testing.assert_allclose(dense(params, np.float32(x)), x @ kernel + bias, rtol=1e-5)
