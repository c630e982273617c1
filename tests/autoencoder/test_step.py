"""The first stage's step: its assembled gradient is that of Eq. (25), written out and derived."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldm_jax.autoencoder.discriminator import Discriminator, DiscriminatorConfig
from ldm_jax.autoencoder.loss import AutoencoderLossConfig
from ldm_jax.autoencoder.network import Autoencoder, AutoencoderConfig
from ldm_jax.autoencoder.perceptual import abstract_params, lpips
from ldm_jax.autoencoder.step import AutoencoderObjective, to_bytes, to_model_range

KL = AutoencoderConfig(
    channels=4, channel_mult=(1,), num_res_blocks=1, mid_attention=False, z_channels=2, groups=2
)
NETWORKS = {"kl": KL, "vq": replace(KL, bottleneck="vq", codebook_size=9)}
# The weights of the regulariser are large, so that its part of the gradient counts.
LOSS = AutoencoderLossConfig(
    l1_weight=0.9,
    l2_weight=0.4,
    perceptual="squeezenet",
    perceptual_weight=0.7,
    kl_weight=0.3,
    codebook_weight=0.8,
    commitment_weight=0.3,
    disc_weight=0.6,
    max_adaptive_weight=1.8,  # between the two models' ratios
    disc_start=100,
)
CRITIC = DiscriminatorConfig(channels=4, layers=1)
BATCH = {"image": np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), dtype=np.uint8)}
CONSTANTS = {"perceptual": {"strength": np.float32(2)}}
KEY = jax.random.key(5)
WEIGHT_OF_KL = 0.3 / (8 * 12 * 3)
QUICKLY = {"xla_backend_optimization_level": 0}  # compiling takes longer than computing here
HEALTH = {
    "kl": {"kl_per_element"},
    "vq": {"vq_loss", "codebook_usage", "codebook_perplexity"},
}


def distance(params, network, x, x_hat):
    """In place of LPIPS, some distance of each image: of the vertical differences."""
    assert network == "squeezenet"
    difference = jnp.diff(x, axis=1) - jnp.diff(x_hat, axis=1)
    return params["strength"] * jnp.mean(difference**2, axis=(1, 2, 3))


@pytest.fixture(scope="module", params=NETWORKS)
def bottleneck(request):
    return request.param


def make_objective(bottleneck="kl", **loss):
    network, loss = NETWORKS[bottleneck], replace(LOSS, **loss)
    return AutoencoderObjective(network, loss, CRITIC, 3, perceptual=distance)


@pytest.fixture(scope="module")
def params(bottleneck, drawn):
    """Both players' parameters."""
    return {
        "autoencoder": drawn(Autoencoder, NETWORKS[bottleneck], 3)[1],
        "discriminator": drawn(Discriminator, CRITIC, 3)[1],
    }


def bottleneck_kl(model, moments):
    """(z, L_reg, what the metrics should say) of a Gaussian posterior."""
    mean, logvar = moments[..., :2], moments[..., 2:]
    noise = jax.random.normal(jax.random.split(KEY)[0], mean.shape)
    z = mean + jnp.exp(logvar / 2) * noise
    kl = 0.5 * jnp.sum(mean**2 + jnp.exp(logvar) - 1 - logvar) / 3
    return z, WEIGHT_OF_KL * kl, {"kl_per_element": kl / (8 * 12 * 2), "z": z}


def bottleneck_vq(model, z):
    """The same of a codebook."""
    codes = model.codebook[...]
    distances = jnp.sum((z[..., None, :] - codes[None, None, None]) ** 2, axis=-1)
    index = jnp.argmin(distances, axis=-1)
    z_q, fixed = codes[index], jax.lax.stop_gradient
    loss = 0.8 * jnp.mean((z_q - fixed(z)) ** 2) + 0.3 * jnp.mean((fixed(z_q) - z) ** 2)
    p = jnp.mean(index.ravel()[:, None] == jnp.arange(9)[None], axis=0)
    health = {
        "vq_loss": loss,
        "codebook_usage": jnp.mean(p > 0),
        "codebook_perplexity": jnp.prod(jnp.where(p > 0, p, 1.0) ** -p),
    }
    return z + fixed(z_q - z), loss, health | {"z": z}


@pytest.fixture(scope="module")
def terms(bottleneck, params):
    """name -> (value, gradient for every parameter) of the terms of Eq. (25), written out."""
    graphs = make_objective(bottleneck).graphs
    regularised = {"kl": bottleneck_kl, "vq": bottleneck_vq}[bottleneck]

    def written_out(params):
        model = nnx.merge(graphs["autoencoder"], params["autoencoder"])
        critic = nnx.merge(graphs["discriminator"], params["discriminator"])
        x = jnp.float32(BATCH["image"]) / 127.5 - 1
        z, reg, health = regularised(model, model.encode(x))
        x_hat = model.decoder(model.post_quant_conv(z))
        rec = 0.9 * jnp.mean(jnp.abs(x - x_hat)) + 0.4 * jnp.mean((x - x_hat) ** 2)
        vertical = jnp.diff(x, axis=1) - jnp.diff(x_hat, axis=1)
        real, held = critic(x), critic(jax.lax.stop_gradient(x_hat))
        return {
            "rec": rec + 0.7 * 2 * jnp.mean(vertical**2),
            "reg": reg,
            "gan": -jnp.mean(critic(x_hat)),
            "disc_loss": (jnp.mean(nnx.relu(1 - real)) + jnp.mean(nnx.relu(1 + held))) / 2,
        }, (10 * jnp.log10(4 / jnp.mean((x - x_hat) ** 2, axis=(1, 2, 3))), health)

    names = ("rec", "reg", "gan", "disc_loss")

    @partial(jax.jit, compiler_options=QUICKLY)
    def derive(params):
        values, pull_back, others = jax.vjp(written_out, params, has_aux=True)
        one_hot = {name: jnp.eye(len(names))[i] for i, name in enumerate(names)}
        return values, jax.vmap(pull_back)(one_hot)[0], others

    values, gradients, (psnr, health) = jax.tree.map(np.asarray, derive(params))
    rows = {name: jax.tree.map(lambda g, i=i: g[i], gradients) for i, name in enumerate(names)}
    z = health.pop("z")
    scores = {"psnr": psnr.mean(), "latent_mean": z.mean(), "latent_std": z.std(), **health}
    return {name: (values[name], rows[name]) for name in names} | {
        name: (value, None) for name, value in scores.items()
    }


@pytest.fixture(scope="module")
def grads(bottleneck):
    """The objective's, with an adversary."""
    return jax.jit(make_objective(bottleneck).loss_and_grads, compiler_options=QUICKLY)


@pytest.fixture(scope="module")
def step(params, grads):
    """(step, key) -> (grads, metrics)."""
    return lambda step, key=KEY: grads(params, CONSTANTS, BATCH, key, jnp.int32(step))


def weight_of(terms):
    """The adaptive weight from two whole backward passes."""
    last = [
        np.linalg.norm(terms[name][1]["autoencoder"]["decoder"]["conv_out"]["kernel"])
        for name in ("rec", "gan")
    ]
    return 0.6 * min(last[0] / (last[1] + 1e-4), 1.8)


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


def test_gradient_is_that_of_equation_25_once_the_adversary_is_in(terms, step):
    grads, metrics = step(100)
    weight = weight_of(terms)
    np.testing.assert_allclose(metrics["adaptive_weight"], weight, rtol=1e-4)
    expected = combine(terms, "autoencoder", rec=1.0, reg=1.0, gan=weight)
    assert_same(grads["autoencoder"], expected)
    assert_same(grads["discriminator"], combine(terms, "discriminator", disc_loss=1.0))


def test_no_player_feels_the_other_before_disc_start(terms, step):
    grads, metrics = step(99)
    assert_same(grads["autoencoder"], combine(terms, "autoencoder", rec=1.0, reg=1.0))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads["discriminator"]))
    np.testing.assert_allclose(metrics["adaptive_weight"], weight_of(terms), rtol=1e-4)


def test_the_codes_in_use_have_a_gradient_and_the_others_none(bottleneck, params, step):
    gradient = step(0)[0]["autoencoder"].get("codebook")
    if bottleneck == "kl":
        assert gradient is None
        return
    moved = np.any(gradient, axis=-1).mean()
    assert 0 < moved < 1 and moved == pytest.approx(float(step(0)[1]["codebook_usage"]))


def test_without_an_adversary_there_is_one_player(bottleneck, params, terms):
    objective = make_objective(bottleneck, disc_weight=0.0)
    alone = {"autoencoder": params["autoencoder"]}
    alone_grads = jax.jit(objective.loss_and_grads, compiler_options=QUICKLY)
    grads, metrics = alone_grads(alone, CONSTANTS, BATCH, KEY, jnp.int32(1000))
    assert set(grads) == set(jax.eval_shape(objective.init, KEY)) == {"autoencoder"}
    assert_same(grads["autoencoder"], combine(terms, "autoencoder", rec=1.0, reg=1.0))
    assert not {"gan", "disc_loss", "adaptive_weight"} & set(metrics)


def test_half_size_latents_decode_to_half_size_images(bottleneck, params, terms):
    """The term's loss and gradient, written out, beside those of Eq. (25); too small for LPIPS."""
    objective = make_objective(bottleneck, disc_weight=0.0, equivariance_weight=0.25)

    def halved(a):
        return (a[:, ::2, ::2] + a[:, 1::2, ::2] + a[:, ::2, 1::2] + a[:, 1::2, 1::2]) / 4

    def written_out(autoencoder):
        model = nnx.merge(objective.graphs["autoencoder"], autoencoder)
        x = jnp.float32(BATCH["image"]) / 127.5 - 1
        if bottleneck == "kl":
            z = halved(bottleneck_kl(model, model.encode(x))[0])
        else:  # which D quantises
            z = bottleneck_vq(model, halved(model.encode(x)))[0]
        error = halved(x) - model.decoder(model.post_quant_conv(z))
        return 0.9 * jnp.mean(jnp.abs(error)) + 0.4 * jnp.mean(error**2)

    @partial(jax.jit, compiler_options=QUICKLY)
    def both(autoencoder):
        step = objective.loss_and_grads(
            {"autoencoder": autoencoder}, CONSTANTS, BATCH, KEY, jnp.int32(0)
        )
        return *step, *jax.value_and_grad(written_out)(autoencoder)

    grads, metrics, half, gradient = both(params["autoencoder"])
    np.testing.assert_allclose(metrics["rec_half_size"], half, rtol=1e-4)
    total = terms["rec"][0] + terms["reg"][0] + 0.25 * half
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)
    eq_25 = combine(terms, "autoencoder", rec=1.0, reg=1.0)
    expected = jax.tree.map(lambda a, b: a + 0.25 * np.asarray(b), eq_25, gradient)
    assert_same(grads["autoencoder"], expected)


@pytest.mark.parametrize("side, shown", [(34, {34, 17}), (32, {32})])
def test_lpips_compares_half_size_images_that_are_large_enough(side, shown):
    sides = set()

    def watch(params, network, x, x_hat):
        assert x.shape == x_hat.shape
        sides.add(x.shape[1])
        return distance(params, network, x, x_hat)

    loss = replace(LOSS, equivariance_weight=0.25, disc_weight=0.0)
    objective = AutoencoderObjective(KL, loss, CRITIC, 3, perceptual=watch)
    fresh = jax.eval_shape(objective.init, KEY)
    batch = {"image": np.zeros((1, side, side, 3), np.uint8)}
    jax.eval_shape(objective.loss_and_grads, fresh, CONSTANTS, batch, KEY, jnp.int32(0))
    assert sides == shown


def test_without_the_encoder_the_decoder_learns_the_same(bottleneck, params, step):
    frozen = AutoencoderObjective(
        NETWORKS[bottleneck], LOSS, CRITIC, 3, freeze_encoder=True, perceptual=distance
    )
    derive = jax.jit(frozen.loss_and_grads, compiler_options=QUICKLY)
    ours, expected = (
        g["autoencoder"]
        for g, _ in (derive(params, CONSTANTS, BATCH, KEY, jnp.int32(100)), step(100))
    )
    trained = "decoder", "post_quant_conv"
    assert_same({k: ours[k] for k in trained}, {k: expected[k] for k in trained}, 1e-4)
    assert all(
        not np.any(leaf) for leaf in jax.tree.leaves([ours[k] for k in ours if k not in trained])
    )
    assert {"encoder", "quant_conv"} <= ours.keys()


def test_metrics_are_what_they_are_called(bottleneck, terms, step):
    _, metrics = step(0)
    for name in ("rec", "gan", "disc_loss", "psnr", *HEALTH[bottleneck]):
        np.testing.assert_allclose(metrics[name], terms[name][0], rtol=1e-4)
    (other,) = HEALTH.keys() - {bottleneck}
    assert not HEALTH[other] & set(metrics)
    # With KL these are of the posterior, that is of all samples; the 576 are some.
    mean, std = {"kl": (0.2, 0.1), "vq": (1e-6, 1e-5)}[bottleneck]
    np.testing.assert_allclose(metrics["latent_mean"], terms["latent_mean"][0], atol=mean)
    np.testing.assert_allclose(metrics["latent_std"], terms["latent_std"][0], rtol=std)
    np.testing.assert_allclose(metrics["loss"], terms["rec"][0] + terms["reg"][0], rtol=1e-5)
    assert all(np.shape(value) == () for value in metrics.values())


def test_the_posterior_is_sampled_anew_with_every_key_and_codes_are_not(bottleneck, step):
    losses = {float(step(0, jax.random.key(k))[1]["loss"]) for k in (1, 2, 1)}
    assert len(losses) == (2 if bottleneck == "kl" else 1)


def test_without_a_perceptual_weight_no_network_is_needed():
    objective = make_objective(perceptual_weight=0.0)
    fresh = jax.eval_shape(objective.init, KEY)
    grads, _ = jax.eval_shape(objective.loss_and_grads, fresh, {}, BATCH, KEY, jnp.int32(0))
    assert jax.tree.structure(grads) == jax.tree.structure(fresh)


def test_a_few_steps_reduce_the_loss(params, grads):
    losses = []
    for _ in range(20):
        gradient, metrics = grads(params, CONSTANTS, BATCH, KEY, jnp.int32(0))
        losses.append(float(metrics["loss"]))
        params = jax.tree.map(lambda p, g: p - 0.01 * np.asarray(g), params, gradient)
    assert losses[-1] < 0.9 * losses[0]


def test_grads_have_the_tree_of_fresh_parameters_with_dropout_and_in_bfloat16(bottleneck):
    for dtype in (jnp.float32, jnp.bfloat16):
        network = replace(NETWORKS[bottleneck], dropout=0.1)
        objective = AutoencoderObjective(network, LOSS, CRITIC, 3, dtype=dtype, perceptual=distance)
        fresh = jax.eval_shape(objective.init, KEY)
        grads, _ = jax.eval_shape(
            objective.loss_and_grads, fresh, CONSTANTS, BATCH, KEY, jnp.int32(0)
        )
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


def test_the_initial_kernels_of_the_autoencoder_alone_have_a_gain():
    def init(gain, key):
        return AutoencoderObjective(NETWORKS["vq"], LOSS, CRITIC, 3, init_gain=gain).init(key)

    both = jax.jit(lambda key: (init(1.0, key), init(2.5, key)), compiler_options=QUICKLY)
    plain, gained = both(KEY)
    assert jax.tree.structure(plain) == jax.tree.structure(gained)
    for (path, weights), before in zip(
        jax.tree_util.tree_leaves_with_path(gained), jax.tree.leaves(plain), strict=True
    ):
        has_gain = path[0].key == "autoencoder" and path[-1].key == "kernel"
        assert not has_gain or np.any(before)
        np.testing.assert_allclose(weights, (2.5 if has_gain else 1.0) * before, rtol=1e-6)


def test_lpips_is_the_distance_unless_another_is_given(drawn):
    """And it is asked with the weights among the constants, of the network that is configured."""
    image = BATCH["image"].repeat(3, 1).repeat(2, 2)  # of 24 x 24 pixels, of which it needs 17
    rng = np.random.default_rng(0)
    weights = jax.tree.map(
        lambda a: np.abs(rng.normal(size=a.shape, scale=0.1)).astype(np.float32),
        abstract_params("squeezenet"),
    )
    given = {"disc_weight": 0.0, "l1_weight": 0.0, "l2_weight": 0.0, "perceptual_weight": 0.7}
    objective = AutoencoderObjective(KL, replace(LOSS, **given), CRITIC, 3)

    @partial(jax.jit, compiler_options=QUICKLY)
    def both(params, weights):
        _, metrics = objective.loss_and_grads(
            params, {"perceptual": weights}, {"image": image}, KEY, jnp.int32(0)
        )
        x, model = to_model_range(image), objective.autoencoder(params["autoencoder"])
        z, *_ = bottleneck_kl(model, model.encode(x))
        return metrics["rec"], lpips(weights, "squeezenet", x, model.decode(z))

    rec, distances = both({"autoencoder": drawn(Autoencoder, KL, 3)[1]}, weights)
    np.testing.assert_allclose(rec, 0.7 * distances.mean(), rtol=1e-4)
    assert rec > 0
