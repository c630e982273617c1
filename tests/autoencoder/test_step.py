"""The first stage's step: its assembled gradient is that of Eq. (25), written out and derived."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldm_jax.autoencoder.discriminator import Discriminator, DiscriminatorConfig
from ldm_jax.autoencoder.loss import AutoencoderLossConfig
from ldm_jax.autoencoder.network import Autoencoder, AutoencoderConfig
from ldm_jax.autoencoder.step import AutoencoderProblem, to_bytes, to_model_range

NETWORK = AutoencoderConfig(
    channels=4, channel_mult=(1,), num_res_blocks=1, mid_attention=False, z_channels=2, groups=2
)
# The KL weight is large, so that its part of the gradient counts.
LOSS = AutoencoderLossConfig(
    l1_weight=0.9,
    l2_weight=0.4,
    perceptual_weight=0.7,
    kl_weight=0.3,
    disc_weight=0.6,
    disc_start=100,
)
CRITIC = DiscriminatorConfig(channels=4, layers=1)
BATCH = {"image": np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), dtype=np.uint8)}
KEY = jax.random.key(5)


def perceptual(x, x_hat):
    """Some distance of each picture: of the vertical differences."""
    return jnp.mean((jnp.diff(x, axis=1) - jnp.diff(x_hat, axis=1)) ** 2, axis=(1, 2, 3))


def make_problem(**loss):
    return AutoencoderProblem(NETWORK, replace(LOSS, **loss), CRITIC, 3, perceptual=perceptual)


@pytest.fixture(scope="module")
def params(drawn):
    """Both players' parameters."""
    return {
        "autoencoder": drawn(Autoencoder, NETWORK, 3)[1],
        "discriminator": drawn(Discriminator, CRITIC, 3)[1],
    }


@pytest.fixture(scope="module")
def terms(params):
    """name -> (value, gradient for every parameter) of the terms of Eq. (25), written out."""
    graphs = make_problem().graphs

    def written_out(params):
        model = nnx.merge(graphs["autoencoder"], params["autoencoder"])
        critic = nnx.merge(graphs["discriminator"], params["discriminator"])
        x = jnp.float32(BATCH["image"]) / 127.5 - 1
        moments = model.encode(x)
        mean, logvar = moments[..., :2], moments[..., 2:]
        noise = jax.random.normal(jax.random.split(KEY)[0], mean.shape)
        z = mean + jnp.exp(logvar / 2) * noise
        x_hat = model.decode(z)
        rec = 0.9 * jnp.mean(jnp.abs(x - x_hat)) + 0.4 * jnp.mean((x - x_hat) ** 2)
        real, held = critic(x), critic(jax.lax.stop_gradient(x_hat))
        return {
            "rec": rec + 0.7 * jnp.mean(perceptual(x, x_hat)),
            "kl": 0.5 * jnp.sum(mean**2 + jnp.exp(logvar) - 1 - logvar) / 3,
            "gan": -jnp.mean(critic(x_hat)),
            "disc_loss": (jnp.mean(nnx.relu(1 - real)) + jnp.mean(nnx.relu(1 + held))) / 2,
        }, (10 * jnp.log10(4 / jnp.mean((x - x_hat) ** 2, axis=(1, 2, 3))), z)

    names = ("rec", "kl", "gan", "disc_loss")

    @jax.jit
    def derive(params):
        values, pull_back, others = jax.vjp(written_out, params, has_aux=True)
        one_hot = {name: jnp.eye(len(names))[i] for i, name in enumerate(names)}
        return values, jax.vmap(pull_back)(one_hot)[0], others

    values, gradients, (psnr, z) = jax.tree.map(np.asarray, derive(params))
    rows = {name: jax.tree.map(lambda g, i=i: g[i], gradients) for i, name in enumerate(names)}
    scores = {"psnr": psnr.mean(), "latent_mean": z.mean(), "latent_std": z.std()}
    return {name: (values[name], rows[name]) for name in names} | {
        name: (value, None) for name, value in scores.items()
    }


@pytest.fixture(scope="module")
def step(params):
    """(step, key) -> (grads, metrics) of the problem with an adversary."""
    grads = jax.jit(make_problem().grads)
    return lambda step, key=KEY: grads(params, {}, BATCH, key, jnp.int32(step))


def weight_of(terms):
    """The adaptive weight from two whole backward passes."""
    last = [
        np.linalg.norm(terms[name][1]["autoencoder"]["decoder"]["conv_out"]["kernel"])
        for name in ("rec", "gan")
    ]
    return 0.6 * last[0] / (last[1] + 1e-4)


def combine(terms, player, **weights):
    """The weighted sum of the terms' gradients for a player."""
    trees = [terms[name][1][player] for name in weights]
    return jax.tree.map(
        lambda *leaves: sum(w * g for w, g in zip(weights.values(), leaves, strict=True)), *trees
    )


def assert_same(ours, expected, tolerance=1e-5):
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
        mine = ours
        for key in path:
            mine = mine[key.key]
        error = np.abs(mine - leaf).max()
        assert error <= tolerance * max(np.abs(leaf).max(), 0.1 * scale), path


KL_WEIGHT = 0.3 / (8 * 12 * 3)


def test_gradient_is_that_of_equation_25_once_the_adversary_is_in(terms, step):
    grads, metrics = step(100)
    weight = weight_of(terms)
    np.testing.assert_allclose(metrics["adaptive_weight"], weight, rtol=1e-4)
    expected = combine(terms, "autoencoder", rec=1.0, kl=KL_WEIGHT, gan=weight)
    assert_same(grads["autoencoder"], expected)
    assert_same(grads["discriminator"], combine(terms, "discriminator", disc_loss=1.0))


def test_no_player_feels_the_other_before_disc_start(terms, step):
    grads, metrics = step(99)
    assert_same(grads["autoencoder"], combine(terms, "autoencoder", rec=1.0, kl=KL_WEIGHT))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads["discriminator"]))
    np.testing.assert_allclose(metrics["adaptive_weight"], weight_of(terms), rtol=1e-4)


def test_without_an_adversary_there_is_one_player(params, terms):
    problem = make_problem(disc_weight=0.0)
    alone = {"autoencoder": params["autoencoder"]}
    grads, metrics = jax.jit(problem.grads)(alone, {}, BATCH, KEY, jnp.int32(1000))
    assert set(grads) == set(jax.eval_shape(problem.init, KEY)) == {"autoencoder"}
    assert_same(grads["autoencoder"], combine(terms, "autoencoder", rec=1.0, kl=KL_WEIGHT))
    assert not {"gan", "disc_loss", "adaptive_weight"} & set(metrics)


def test_metrics_are_what_they_are_called(terms, step):
    _, metrics = step(0)
    for name in ("rec", "gan", "disc_loss", "psnr"):
        np.testing.assert_allclose(metrics[name], terms[name][0], rtol=1e-4)
    # Of the posterior, that is of all samples; these 576 are some.
    np.testing.assert_allclose(metrics["latent_mean"], terms["latent_mean"][0], atol=0.2)
    np.testing.assert_allclose(metrics["latent_std"], terms["latent_std"][0], rtol=0.1)
    kl = terms["kl"][0]
    np.testing.assert_allclose(metrics["kl_per_element"], kl / (8 * 12 * 2), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], terms["rec"][0] + KL_WEIGHT * kl, rtol=1e-5)
    assert all(np.shape(value) == () for value in metrics.values())


def test_the_posterior_is_sampled_anew_with_every_key(step):
    losses = {float(step(0, jax.random.key(k))[1]["loss"]) for k in (1, 2, 1)}
    assert len(losses) == 2


def test_grads_have_the_tree_of_fresh_parameters_with_dropout_and_in_bfloat16():
    for dtype in (jnp.float32, jnp.bfloat16):
        problem = AutoencoderProblem(
            replace(NETWORK, dropout=0.1), LOSS, CRITIC, 3, dtype=dtype, perceptual=perceptual
        )
        fresh = jax.eval_shape(problem.init, KEY)
        grads, _ = jax.eval_shape(problem.grads, fresh, {}, BATCH, KEY, jnp.int32(0))
        assert jax.tree.structure(grads) == jax.tree.structure(fresh)
        for gradient, leaf in zip(jax.tree.leaves(grads), jax.tree.leaves(fresh), strict=True):
            assert (gradient.shape, gradient.dtype) == (leaf.shape, jnp.float32)


def test_bytes_survive_the_way_to_the_model_and_back():
    image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    x = to_model_range(image)
    assert (x.min(), x.max(), x.dtype) == (-1.0, 1.0, jnp.float32)
    np.testing.assert_array_equal(to_bytes(x), image)
    assert to_bytes(jnp.array([-7.0, 7.0])).tolist() == [0, 255]
    assert to_bytes(jnp.array([-1 + 0.6 / 127.5])).tolist() == [1]  # rounded, not cut
