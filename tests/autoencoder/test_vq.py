"""The VQ bottleneck: the reference's numbers, exact codes, gradients, the codes' health."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldm_jax.autoencoder.network import Autoencoder, AutoencoderConfig
from ldm_jax.autoencoder.vq import (
    code_counts,
    codebook_init,
    nearest_code,
    nearest_counts,
    perplexity,
    quantise,
    reset_dead_codes,
    straight_through,
    usage,
    vq_loss,
)
from ldm_jax.parameters import abstract_module
from ldm_jax.training.cost import largest_array

EPS = np.finfo(np.float32).eps


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def squared_distances(z, codebook):
    """Of every vector from every code, in float64: `[..., K]`."""
    z, codebook = z.astype(np.float64), codebook.astype(np.float64)
    return ((z[..., None, :] - codebook) ** 2).sum(-1)


def nhwc(a):
    return a.transpose(0, 2, 3, 1)


@pytest.fixture(scope="module")
def published():
    """`vq/*` and `vq_grad/*` that CompVis/latent-diffusion computed, and the codebook they had."""
    with np.load(Path(__file__).with_name("vq.npz")) as file:
        return dict(file)


@pytest.fixture(scope="module")
def codebook(golden_weight):
    return golden_weight("embedding.weight", (64, 4))


# (weight of the codes, of the commitment) that the reference's two conventions amount to.
CONVENTIONS = {"legacy": (0.25, 1.0), "fixed": (1.0, 0.25)}


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_codes_and_loss_equal_the_reference(convention, published, codebook):
    z = nhwc(published["vq/in_z"])
    np.testing.assert_array_equal(nearest_code(z, codebook).ravel(), published["vq/out_idx"])
    z_q = quantise(z, codebook)
    np.testing.assert_allclose(z_q, nhwc(published["vq/out_zq"]), rtol=1e-4, atol=1e-7)
    loss = vq_loss(z, z_q, *CONVENTIONS[convention])
    np.testing.assert_allclose(loss, published[f"vq/out_loss_{convention}"], rtol=1e-4)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_gradients_equal_the_reference(convention, published, codebook):
    z = published["vq/in_z"]
    pull = nhwc(np.cos(0.31 * np.arange(z.size) + 2).reshape(z.shape))

    def loss(z, codebook):
        z_q = quantise(z, codebook)
        regulariser = vq_loss(z, z_q, *CONVENTIONS[convention])
        return regulariser + jnp.sum(straight_through(z, z_q) * pull)

    d_z, d_codebook = jax.grad(loss, argnums=(0, 1))(nhwc(z), codebook)
    for ours, name in ((d_z, "dz"), (d_codebook, "demb")):
        theirs = published[f"vq_grad/{convention}_{name}"]
        theirs = nhwc(theirs) if theirs.ndim == 4 else theirs
        assert np.linalg.norm(ours - theirs) < 1e-4 * np.linalg.norm(theirs)


@pytest.mark.parametrize("shape", [(7,), (2, 3, 5)])
def test_the_nearest_code_is_that_of_brute_force(shape):
    z, codebook = normal(*shape, 3), normal(40, 3, seed=1)
    expected = squared_distances(z, codebook).argmin(-1)
    indices = jax.jit(nearest_code)(z, codebook)
    assert indices.dtype == jnp.int32 and indices.shape == shape
    np.testing.assert_array_equal(indices, expected)
    z_q = quantise(z, codebook)
    assert z_q.dtype == jnp.float32
    np.testing.assert_array_equal(z_q, codebook[expected])


def test_latents_far_from_all_codes_get_the_nearest_one_still():
    """So it is when training starts: |z|^2 is the same for each code, and would drown the rest."""
    z, codebook = 1000 * normal(500, 4), np.array(codebook_init(jax.random.key(0), (512, 4)))
    expected = squared_distances(z, codebook).argmin(-1)
    assert len(set(expected)) > 10
    np.testing.assert_array_equal(nearest_code(z, codebook), expected)


@pytest.mark.parametrize("offset, right", [(0, 1), (10, 1), (100, 0.95), (1000, 0)])
def test_a_code_is_the_nearest_but_for_the_rounding_of_its_own_square(offset, right):
    """Codes all far from zero: what float32 cannot tell apart is a fraction of |e|^2."""
    z, codebook = offset + normal(500, 4), offset + normal(64, 4, seed=1)
    exact = squared_distances(z, codebook)
    chosen = np.take_along_axis(exact, np.asarray(nearest_code(z, codebook))[:, None], -1)[:, 0]
    excess = chosen - exact.min(-1)
    longest = np.linalg.norm(codebook, axis=-1).max() + np.linalg.norm(z, axis=-1).max()
    assert excess.max() <= EPS * longest**2
    assert (excess == 0).mean() >= right


def test_equally_near_codes_give_way_to_the_first():
    codebook = np.array([[3.0], [1.0], [-1.0], [1.0], [-1.0]])
    assert nearest_code(np.array([[0.0], [1.0], [-1.0], [2.0]]), codebook).tolist() == [1, 1, 2, 0]


def test_rounded_latents_are_compared_in_float32():
    codebook = 1 + 1e-3 * normal(64, 2)  # bfloat16 knows 1 and 1.0078 and nothing between
    z = jnp.asarray(1 + 1e-2 * normal(100, 2, seed=1), jnp.bfloat16)
    expected = squared_distances(np.asarray(z, np.float32), codebook).argmin(-1)
    assert len(set(expected)) > 5
    np.testing.assert_array_equal(nearest_code(z, codebook), expected)


def test_straight_through_has_the_value_of_the_codes_and_the_gradient_of_the_latents():
    z, z_q, pull = normal(5, 3), normal(5, 3, seed=1), normal(5, 3, seed=2)
    np.testing.assert_allclose(straight_through(z, z_q), z_q, atol=1e-6)
    _, pull_back = jax.vjp(straight_through, z, z_q)
    d_z, d_z_q = pull_back(pull)
    np.testing.assert_array_equal(d_z, pull)
    assert not np.any(d_z_q)


def test_the_two_weights_give_one_value_and_share_the_gradient_out_differently():
    z, z_q = normal(6, 3), normal(6, 3, seed=1)
    values, gradients = zip(
        *(
            jax.value_and_grad(vq_loss, argnums=(0, 1))(z, z_q, *weights)
            for weights in ((1.0, 0.25), (0.25, 1.0))
        ),
        strict=True,
    )
    mean_square = 2 * (z - z_q) / z.size  # its gradient
    np.testing.assert_allclose(values, 2 * [1.25 * np.mean((z - z_q) ** 2)], rtol=1e-6)
    for (codes, commitment), (d_z, d_z_q) in zip(
        ((1.0, 0.25), (0.25, 1.0)), gradients, strict=True
    ):
        np.testing.assert_allclose(d_z, commitment * mean_square, rtol=1e-5)
        np.testing.assert_allclose(d_z_q, -codes * mean_square, rtol=1e-5)


def test_counts_are_of_every_code_over_all_positions():
    indices = np.array([[[0, 3], [3, 3]], [[5, 0], [3, 1]]], np.int32)
    counts = jax.jit(code_counts, static_argnums=1)(indices, 7)
    assert counts.tolist() == [2, 1, 0, 4, 0, 1, 0]
    assert float(usage(counts)) == pytest.approx(4 / 7)


def test_perplexity_is_how_many_equally_frequent_codes_would_tell_as_much():
    assert float(perplexity(np.full(64, 5))) == pytest.approx(64, rel=1e-5)
    assert float(perplexity(np.eye(64)[7])) == pytest.approx(1)
    assert float(perplexity(np.array([9, 0, 9, 0]))) == pytest.approx(2)
    counts = np.array([7, 0, 2, 40, 1])
    p = counts[counts > 0] / counts.sum()
    assert float(perplexity(counts)) == pytest.approx(np.prod(p**-p), rel=1e-5)


def test_codes_that_nobody_uses_become_latents_and_the_others_stay():
    codebook, z = normal(32, 3), 100 + normal(50, 3, seed=1)
    counts = np.arange(32) % 3  # every third code occurs not at all
    key = jax.random.key(0)
    revived = np.asarray(jax.jit(reset_dead_codes)(codebook, counts, z, key))
    used = counts > 0
    np.testing.assert_array_equal(revived[used], codebook[used])
    rows = {tuple(row) for row in z.tolist()}
    drawn = [tuple(row) for row in revived[~used].tolist()]
    assert rows.issuperset(drawn) and len(set(drawn)) > 5
    np.testing.assert_array_equal(reset_dead_codes(codebook, counts, z, key), revived)
    assert not np.array_equal(reset_dead_codes(codebook, counts, z, jax.random.key(1)), revived)


def test_codes_start_uniform_in_one_over_their_number():
    codes = np.asarray(codebook_init(jax.random.key(0), (512, 4)))
    assert codes.shape == (512, 4) and codes.dtype == np.float32
    assert np.abs(codes).max() <= 1 / 512
    assert codes.std() == pytest.approx(1 / 512 / 3**0.5, rel=0.03)  # uniform
    assert codes.mean() == pytest.approx(0, abs=1e-4)


CONFIG = AutoencoderConfig(
    channels=4,
    channel_mult=(1, 1),
    num_res_blocks=1,
    mid_attention=False,
    z_channels=3,
    groups=2,
    bottleneck="vq",
    codebook_size=16,
)


def with_bottleneck(bottleneck):
    return AutoencoderConfig(**(vars(CONFIG) | {"bottleneck": bottleneck}))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_decoder_of_a_vq_model_quantises_first(dtype, drawn):
    graph, params = drawn(Autoencoder, CONFIG, 3, dtype=dtype)
    z = normal(2, 4, 4, 3)

    @jax.jit
    def decode(params, z):
        return nnx.merge(graph, params).decode(z)

    x_hat = decode(params, z)
    assert x_hat.shape == (2, 8, 8, 3) and x_hat.dtype == jnp.float32
    z_q = params["codebook"][squared_distances(z, params["codebook"]).argmin(-1)]
    assert np.abs(z - z_q).max() > 0.5
    np.testing.assert_array_equal(decode(params, z_q), x_hat)
    assert not np.allclose(decode(params, -z), x_hat)


def test_gradients_pass_the_quantiser_of_a_decoder_as_if_it_were_not_there(drawn):
    """Or nothing that looks at the image could tell the latents anything."""
    graph, params = drawn(Autoencoder, CONFIG, 3)
    z = normal(1, 2, 2, 3)

    @jax.jit
    def pulls(params, z):
        model = nnx.merge(graph, params)
        after = jax.grad(lambda z_q: jnp.sum(model.decoder(model.post_quant_conv(z_q)) ** 2))
        z_q = quantise(z, model.codebook[...])
        return jax.grad(lambda z: jnp.sum(model.decode(z) ** 2))(z), after(z_q)

    through, after = pulls(params, z)
    assert np.abs(after).max() > 1e-3
    np.testing.assert_allclose(through, after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bottleneck, channels", [("vq", 3), ("kl", 6)])
def test_what_the_encoder_gives_is_z_or_moments(bottleneck, channels):
    """z is not quantised: the diffusion model learns it as it comes from E."""
    model = abstract_module(
        lambda rngs: Autoencoder(with_bottleneck(bottleneck), 3, dtype=jnp.bfloat16, rngs=rngs)
    )
    x = jax.ShapeDtypeStruct((2, 8, 16, 3), jnp.float32)
    encoded = nnx.eval_shape(lambda model, x: model.encode(x), model, x)
    assert (encoded.shape, encoded.dtype) == ((2, 4, 8, channels), jnp.float32)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert params["quant_conv"]["kernel"].shape == (1, 1, channels, channels)
    shapes = {name: leaf.shape for name, leaf in params.items() if name == "codebook"}
    assert shapes == ({"codebook": (16, 3)} if bottleneck == "vq" else {})


def test_without_a_first_stage_nothing_is_reduced():
    assert [with_bottleneck(b).f for b in ("kl", "vq", "none")] == [2, 2, 1]


def test_a_large_codebook_is_searched_in_parts_with_the_same_result():
    """Also where the parts overlap, and of two equal codes in different parts the first one."""
    z, codebook = normal(3, 4, 5, 2), normal(7, 2, seed=1)
    codebook[6] = codebook[1]
    expected = squared_distances(z, codebook).argmin(-1)
    for most in (10**9, 240, 60, 1):  # in 1, 2, 7 and 7 parts
        np.testing.assert_array_equal(nearest_code(z, codebook, most), expected)


def test_what_is_searched_at_a_time_is_bounded():
    images = jax.ShapeDtypeStruct((512, 64, 64, 3), np.float32)  # 256x256, f = 4
    codebook = jax.ShapeDtypeStruct((8192, 3), np.float32)
    for search in (nearest_code, nearest_counts):
        program = jax.make_jaxpr(search)(images, codebook)
        assert 2**24 < largest_array(program).size <= 2**26


def test_codes_of_images_are_counted():
    z, codebook = normal(5, 4, 4, 2), normal(9, 2, seed=1)
    expected = np.bincount(squared_distances(z, codebook).argmin(-1).ravel(), minlength=9)
    np.testing.assert_array_equal(nearest_counts(z, codebook), expected)
