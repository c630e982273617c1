"""LPIPS: the reference's number, a NumPy restatement, the documented mean, its properties."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.autoencoder.perceptual import SMALLEST_SIZE, _unit, abstract_params, lpips
from ldm_jax.data.scenes import ScenesConfig, ScenesSource
from ldm_jax.errors import UserError
from ldm_jax.pretrained.lpips import load_lpips

REAL = Path(__file__).parents[2].parent / "shared/data/lpips_squeeze/squeezenet11_lpips.npz"

distance = jax.jit(lpips, static_argnames=("network", "dtype"))


def images(count, height, width, channels=3):
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (2, count, height, width, channels)).astype(np.float32)


@pytest.fixture(scope="module")
def squeezenet():
    """Parameters drawn at random: heads from 0 to 1, the rest so that features keep their size."""
    rng = np.random.default_rng(1)

    def leaf(path, like):
        if path[0].key == "heads":
            return rng.uniform(size=like.shape).astype(np.float32)
        scale = (2 / np.prod(like.shape[:-1])) ** 0.5 if path[-1].key == "kernel" else 0.1
        return (scale * rng.normal(size=like.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, abstract_params("squeezenet"))


@pytest.fixture(scope="module")
def vgg16(fill, golden_weight):
    """Parameters by the golden rule."""
    convolutions = abstract_params("vgg16")
    heads = convolutions.pop("heads")
    places = dict(zip(convolutions, (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), strict=True))
    names = [(r"^conv(\d)_\d$", lambda m: f"net.slice{m[1]}.{places[m[0]]}")]

    def weight(key, shape):
        return golden_weight(key, shape) * np.float32(0.3 if len(shape) == 4 else 1.0)

    return fill(convolutions, names, weight) | {
        "heads": {
            tap: golden_weight(f"lin{i}.model.1.weight", (1, like.size, 1, 1)).reshape(-1)
            for i, (tap, like) in enumerate(heads.items())
        }
    }


@pytest.fixture(scope="module")
def real():
    if not REAL.exists():
        pytest.skip("needs the weights of SqueezeNet, which are not part of the project")
    return load_lpips("squeezenet", REAL)


# ---- values ----


def test_vgg16_equals_the_reference(golden, vgg16):
    x, x_hat = (golden[f"lpips/in_{name}"].transpose(0, 2, 3, 1) for name in ("x0", "x1"))
    expected = golden["lpips/out_d"].reshape(-1)
    np.testing.assert_allclose(distance(vgg16, "vgg16", x, x_hat), expected, rtol=1e-4)


def restated(params, x, x_hat):
    """LPIPS with SqueezeNet 1.1 in NumPy, float64; every window of the pooling is cut by hand."""

    def conv(layer, x, stride=1, pad=0):
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        size = layer["kernel"].shape[0]
        windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
        windows = windows[:, ::stride, ::stride]
        y = np.tensordot(windows, layer["kernel"].astype(np.float64), ([4, 5, 3], [0, 1, 2]))
        return np.maximum(y + layer["bias"], 0)

    def fire(name, x):
        module = params[name]
        x = conv(module["squeeze"], x)
        return np.concatenate(
            [conv(module["expand1x1"], x), conv(module["expand3x3"], x, pad=1)], -1
        )

    def pool(x):  # as many windows as it takes to see every row, the last one cut off
        rows, columns = (range(0, n - 1, 2) for n in x.shape[1:3])
        return np.stack(
            [
                np.stack([x[:, i : i + 3, j : j + 3].max((1, 2)) for j in columns], axis=1)
                for i in rows
            ],
            axis=1,
        )

    def features(x):
        x = (x - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
        yield "conv1", (x := conv(params["conv1"], x, stride=2))
        yield "fire3", (x := fire("fire3", fire("fire2", pool(x))))
        yield "fire5", (x := fire("fire5", fire("fire4", pool(x))))
        yield "fire6", (x := fire("fire6", pool(x)))
        for name in ("fire7", "fire8", "fire9"):
            yield name, (x := fire(name, x))

    total = 0
    for (tap, h), (_, h_hat) in zip(features(x), features(x_hat), strict=True):
        h, h_hat = (a / (np.sqrt((a**2).sum(-1, keepdims=True)) + 1e-10) for a in (h, h_hat))
        total = total + ((h - h_hat) ** 2 @ params["heads"][tap]).mean((1, 2))
    return total


@pytest.mark.parametrize("height, width", [(17, 17), (18, 21), (23, 32), (37, 30)])
def test_squeezenet_equals_its_formula(squeezenet, height, width):
    x, x_hat = images(2, height, width)
    expected = restated(squeezenet, x.astype(np.float64), x_hat.astype(np.float64))
    np.testing.assert_allclose(distance(squeezenet, "squeezenet", x, x_hat), expected, rtol=1e-5)


def test_real_weights_give_the_documented_mean(real):
    torch = pytest.importorskip("torch")
    torch.manual_seed(123)
    x, x_hat = ((torch.rand(10, 3, 100, 100) * 2 - 1).numpy() for _ in "ab")
    x, x_hat = x.transpose(0, 2, 3, 1), x_hat.transpose(0, 2, 3, 1)
    mean = distance(real, "squeezenet", x, x_hat).mean()
    np.testing.assert_allclose(mean, 0.1008, atol=5e-5)


# ---- properties ----


def test_it_is_zero_for_equal_images_symmetric_and_else_positive(squeezenet):
    x, x_hat = images(3, 24, 24)
    there, back, nowhere = (
        distance(squeezenet, "squeezenet", *pair) for pair in ((x, x_hat), (x_hat, x), (x, x))
    )
    assert np.all(there > 0) and there.dtype == jnp.float32 and there.shape == (3,)
    np.testing.assert_allclose(there, back, rtol=1e-6)
    np.testing.assert_allclose(nowhere, 0, atol=1e-12)  # two passes may be fused in two ways


def test_a_blur_is_farther_than_a_little_more_light(real):
    """Though it changes the pixels less: that is what the distance is for."""
    x = ScenesSource(ScenesConfig(64)).read(np.arange(4))["image"].astype(np.float32) / 127.5 - 1.0
    lighter = np.minimum(x + 0.1, 1.0)
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    blurred = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (1, 2)).mean((-1, -2))
    assert np.abs(blurred - x).mean() < np.abs(lighter - x).mean()
    to_blurred, to_lighter = (
        distance(real, "squeezenet", x, y.astype(np.float32)) for y in (blurred, lighter)
    )
    assert np.all(to_blurred > 2 * to_lighter)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_channels_that_are_no_colours_are_compared_one_by_one_in_grey(squeezenet, channels):
    x, x_hat = images(2, 20, 20, channels)
    each = [
        distance(squeezenet, "squeezenet", *(np.repeat(y[..., [c]], 3, -1) for y in (x, x_hat)))
        for c in range(channels)
    ]
    got = distance(squeezenet, "squeezenet", x, x_hat)
    np.testing.assert_allclose(got, np.mean(each, axis=0), rtol=1e-5)


def test_bfloat16_is_near_and_still_gives_float32(squeezenet):
    x, x_hat = images(2, 32, 32)
    exact = distance(squeezenet, "squeezenet", x, x_hat)
    rough = distance(squeezenet, "squeezenet", x, x_hat, dtype=jnp.bfloat16)
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(rough, exact, rtol=0.03)


# ---- gradients ----

gradient = jax.jit(
    jax.grad(lambda y, params, x: lpips(params, "squeezenet", x, y).sum()),
)


def test_the_gradient_is_that_of_the_formula(squeezenet):
    x, x_hat = (y.astype(np.float64) for y in images(1, 19, 19))
    way = np.random.default_rng(2).normal(size=x.shape)
    step = 1e-5 * way
    ahead, behind = (restated(squeezenet, x, x_hat + s)[0] for s in (step, -step))
    slope = np.sum(way * gradient(x_hat.astype(np.float32), squeezenet, x.astype(np.float32)))
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-5, rtol=1e-3)


@pytest.mark.parametrize("level", [-1.0, 0.0, 1.0])
def test_gradients_are_finite_for_constant_and_equal_images(squeezenet, level):
    x = images(1, 20, 20)[0]
    constant = np.full_like(x, level)
    blind = jax.tree.map(
        lambda leaf: -100 * np.ones_like(leaf) if leaf.ndim == 1 else leaf, squeezenet
    )
    for params in (squeezenet, blind):  # a blind network sees nothing: each feature is 0
        for y in (constant, x):
            assert np.all(np.isfinite(gradient(constant, params, y)))


def test_unit_vectors_equal_the_original_and_have_a_gradient_at_zero():
    h = np.outer([0.0, 1e-30, 1e-12, 1e-10, 1e-4, 1.0, 1e4], [3.0, 0.0, 4.0]).astype(np.float32)
    exact = h.astype(np.float64)
    expected = exact / (np.sqrt((exact**2).sum(-1, keepdims=True)) + 1e-10)
    np.testing.assert_allclose(_unit(h), expected, rtol=1e-5, atol=1e-15)
    slopes = jax.jacobian(lambda h: _unit(h[None])[0])
    assert np.all(np.isfinite([slopes(row) for row in h]))
    np.testing.assert_array_equal(slopes(h[0]), 0)


# ---- what it is made of, and what it refuses ----


@pytest.mark.parametrize("network, count", [("vgg16", 14_716_160), ("squeezenet", 724_736)])
def test_published_sizes_have_their_number_of_parameters(network, count):
    leaves = jax.tree.leaves(abstract_params(network))
    assert sum(leaf.size for leaf in leaves) == count
    assert {leaf.dtype for leaf in leaves} == {np.dtype("float32")}


@pytest.mark.parametrize("network", ["vgg16", "squeezenet"])
def test_the_smallest_image_has_a_distance_and_a_smaller_one_is_refused(network, request):
    params, side = request.getfixturevalue(network), SMALLEST_SIZE[network]
    x, x_hat = images(1, side, side + 1)
    assert np.all(np.isfinite(distance(params, network, x, x_hat)))
    with pytest.raises(UserError, match=f"{network} needs images of {side} pixels.*{side - 1}x"):
        lpips(params, network, x[:, 1:], x_hat[:, 1:])


def test_images_of_two_shapes_are_refused(squeezenet):
    x, x_hat = images(2, 20, 20)
    with pytest.raises(UserError, match="one shape"):
        lpips(squeezenet, "squeezenet", x, x_hat[:1])
