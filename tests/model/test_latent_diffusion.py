"""A trained model in Python: `ldm_jax.load(run)` samples, encodes, decodes, predicts."""

import json
import shutil
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import ldm_jax
from ldm_jax import plots
from ldm_jax.data.scenes import ScenesConfig, ScenesSource
from ldm_jax.errors import UserError
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.sampling.inputs import SamplingInputs
from ldm_jax.sampling.settings import SamplingSettings
from ldm_jax.training.step import count_parameters

pytestmark = pytest.mark.slow

RED, BLUE = "a red square", "a blue square"
# What a model takes in Python, and the same as words of a command line.
ASKED = {
    "captions": ([RED, BLUE], ["--prompt", RED, BLUE]),
    "classes": (["red", 0], ["--class-label", "red", 0]),
    "flat": (None, []),
}


@pytest.fixture
def model(trained, loaded):
    """Of captions, on 8x8 images, with f = 1 and two latent channels."""
    return loaded(trained("captions")[1])


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def archive(sample, tmp_path):
    """`archive(run, '--prompt', 'a cube')`: the images that sample.py writes, `[n, H, W, 3]`."""

    def read(run, *words):
        ended = sample(run, *words, "--out", tmp_path / "a.npz")
        assert ended.code == 0, ended.err
        with np.load(tmp_path / "a.npz") as file:
            return file["arr_0"]

    return read


# Sampling


@pytest.mark.parametrize("layout", ASKED)
def test_images_are_those_of_the_command(layout, trained, loaded, archive):
    condition, words = ASKED[layout]
    run = trained(layout)[1]
    n = 1 if condition is None else len(condition)
    images = loaded(run).sample(condition, num_images=2, seed=0, steps=3)
    assert images.shape == (2 * n, 8, 8, 3) and images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 2 * n
    written = archive(run, *words, "--num-images", 2, "--seed", 0, "--steps", 3)
    np.testing.assert_array_equal(images, written)
    assert not np.array_equal(images, loaded(run).sample(condition, num_images=2, seed=1, steps=3))


def test_a_run_directory_is_a_model(trained, model):
    run = trained("captions")[1]
    again = ldm_jax.load(str(run))
    assert isinstance(again, ldm_jax.LatentDiffusion)
    np.testing.assert_array_equal(again.sample(RED, seed=5), model.sample(RED, seed=5))


def test_what_is_left_out_is_as_the_model_was_configured(model, trained, loaded):
    assert model.settings == model.config.sampling and model.settings.guidance == 2.0
    assert loaded(trained("flat")[1]).settings == replace(model.settings, guidance=1.0)
    images = model.sample([RED, BLUE])
    changed = SamplingSettings(steps=2, guidance=2.0)
    np.testing.assert_array_equal(model.sample([RED, BLUE], settings=changed), images)
    # Hardly trained, it hardly heeds words: 9 in place of 2 may change no pixel.
    changed = SamplingSettings(steps=2, guidance=200.0)
    np.testing.assert_array_equal(model.sample([RED, BLUE], settings=changed, guidance=2.0), images)
    assert not np.array_equal(model.sample([RED, BLUE], settings=changed), images)


def test_other_values_of_the_settings_compile_nothing(model):
    model.sample(RED, num_images=2, steps=2)
    programs = model.sampler.compiled_programs()
    model.sample(BLUE, num_images=2, steps=2, guidance=5.0, seed=3, eta=0.5, temperature=0.5)
    assert model.sampler.compiled_programs() == programs


def test_no_condition_is_the_null_condition_without_guidance(model):
    images = model.sample(num_images=3, steps=3)
    null = np.stack([model.condition.null] * 3)
    settings = replace(model.settings, steps=3, guidance=1.0)
    expected = np.concatenate(list(model.batches(SamplingInputs(3, null), settings)))
    np.testing.assert_array_equal(images, expected)


def test_a_trajectory_ends_in_the_images(model):
    settings = {"num_images": 2, "steps": 4, "seed": 2}
    steps = model.sample([RED, BLUE], trajectory=True, **settings)
    assert steps.shape == (4, 4, 8, 8, 3) and steps.dtype == np.uint8
    np.testing.assert_array_equal(steps[:, -1], model.sample([RED, BLUE], **settings))
    assert not np.array_equal(steps[:, 0], steps[:, -1])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One condition of each kind: {kind: (as arrays, as words of a command line)}."""
    folder = tmp_path_factory.mktemp("conditions")
    scene = ScenesSource(ScenesConfig(48, "full", 1), extras=("semantic",)).read([0])
    image, semantic = scene["image"][0][:32], scene["semantic"][0]
    mask = np.zeros((32, 48), bool)
    mask[8:21, 10:31] = True
    layout = {"objects": [{"label": "red ball", "box": [0.1, 0.4, 0.4, 0.8]}]}
    (folder / "layout.json").write_text(json.dumps(layout))
    for name, pixels in (
        ("image", image),
        ("low", image[:8, :12]),
        ("mask", np.uint8(255 * mask)),
        ("map", semantic),
    ):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return {
        "layout": (layout, ["--layout", folder / "layout.json"]),
        "semantic": (semantic, ["--semantic-map", folder / "map.png"]),
        "super-resolution": (image[:8, :12], ["--low-res", folder / "low.png"]),
        "inpainting": (
            {"image": image, "mask": mask},
            ["--image", folder / "image.png", "--mask", folder / "mask.png"],
        ),
    }


SIZES = {
    "layout": (32, 32),
    "semantic": (48, 48),
    "super-resolution": (16, 24),
    "inpainting": (32, 48),
}


@pytest.mark.parametrize("kind", SIZES)
def test_conditions_may_be_arrays(kind, trained_task, loaded, files, archive):
    condition, words = files[kind]
    run = trained_task(kind)[1]
    images = loaded(run).sample(condition, num_images=2, steps=2, seed=1)
    assert images.shape == (2, *SIZES[kind], 3)
    written = archive(run, *words, "--num-images", 2, "--steps", 2, "--seed", 1)
    np.testing.assert_array_equal(images, written)
    if kind == "inpainting":
        known = ~condition["mask"]
        np.testing.assert_array_equal(images[:, known], [condition["image"][known]] * 2)
        assert (images[:, ~known] != condition["image"][~known]).any(axis=-1).mean() > 0.9
        several = {name: np.stack([array] * 2) for name, array in condition.items()}
    elif kind == "layout":
        several = [condition] * 2
    else:
        several = np.stack([condition] * 2)
    both = loaded(run).sample(several, steps=2, seed=1)  # images 0 and 1 of it, as before
    np.testing.assert_array_equal(both, images)


# First stage and network


def test_images_to_latents_and_back(model, images):
    z_0 = model.encode(images)
    assert z_0.shape == (3, 8, 8, 2) and z_0.dtype == np.float32
    params = model.parameters["autoencoder"]
    mean = model.first.mean(model.first.encode(params, jnp.asarray(images)))
    np.testing.assert_allclose(z_0, model.scale_factor * mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.encode(images / 127.5 - 1.0), z_0, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.encode(images[0]), z_0[:1], rtol=1e-4, atol=1e-5)
    x_hat = model.decode(z_0)
    assert x_hat.shape == images.shape and x_hat.dtype == np.uint8 and x_hat.std() > 1
    np.testing.assert_allclose(np.int32(model.decode(z_0[0])), x_hat[:1], atol=1)
    np.testing.assert_allclose(np.int32(model.reconstruct(images)), x_hat, atol=1)
    np.testing.assert_allclose(np.int32(model.reconstruct(images[1])), x_hat[1:2], atol=1)


def test_latents_to_images_and_back(model):
    """Of other sizes too: the first stage is convolutional."""
    z_0 = np.random.default_rng(1).normal(size=(2, 12, 20, 2))
    x = model.decode(z_0)
    assert x.shape == (2, 12, 20, 3) and x.dtype == np.uint8
    again = model.encode(x)
    assert again.shape == z_0.shape and np.isfinite(again).all()


def test_latents_are_smaller_by_f(trained_task, loaded):
    model = loaded(trained_task("none")[1])
    z_0 = model.encode(np.zeros((1, 16, 24, 3), np.uint8))
    assert model.first.f == 2 and z_0.shape == (1, 8, 12, 2)
    assert model.decode(z_0).shape == (1, 16, 24, 3)
    assert model.geometry().shape == (16, 16, 2)


def test_what_the_network_predicts(model, trained, loaded):
    z_t = np.random.default_rng(0).normal(size=(2, 8, 8, 2)).astype(np.float32)
    t = np.array([10, 700])
    y = model.condition.parse([RED, BLUE])["condition"]
    expected = model.network(jnp.asarray(z_t), jnp.asarray(t), jnp.asarray(y))
    conditional = model.predict(z_t, t, [RED, BLUE])
    np.testing.assert_allclose(conditional, expected, rtol=1e-4, atol=1e-4)
    null = model.predict(z_t, t)
    guided = model.predict(z_t, t, [RED, BLUE], guidance=3.0)
    np.testing.assert_allclose(guided, null + 3.0 * (conditional - null), rtol=1e-3, atol=1e-3)
    one = model.predict(z_t, 10, RED)  # a timestep and a condition for all
    np.testing.assert_allclose(one[0], conditional[0], rtol=1e-4, atol=1e-4)
    flat = loaded(trained("flat")[1])
    expected = flat.unet(jnp.asarray(z_t), jnp.asarray(t))
    np.testing.assert_allclose(flat.predict(z_t, t), expected, rtol=1e-4, atol=1e-4)


def test_embeddings_are_what_the_unet_attends_to(model):
    conditions = model.parse([RED, BLUE])
    c = model.embed(conditions)
    assert c.shape == (2, 3, model.spec.context_dim)
    assert not np.array_equal(c[0], c[1])


# What the model is


def test_its_parts(model):
    assert set(model.parameters) == {"autoencoder", "unet", "tau"}
    for name, module in (
        ("autoencoder", model.autoencoder),
        ("unet", model.unet),
        ("tau", model.network.tau),
    ):
        state = nnx.to_pure_dict(nnx.state(module, nnx.Param))
        assert count_parameters(state) == count_parameters(model.parameters[name]) > 0
    schedule = model.schedule
    t = jnp.arange(schedule.timesteps)
    assert schedule.timesteps == 1000 and (np.diff(schedule.alpha_bar) < 0).all()
    np.testing.assert_allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, 1, atol=1e-5)


def test_it_says_what_it_is(model, trained, trained_task, loaded):
    text = repr(model)
    assert text.splitlines()[0] == f"LatentDiffusion {trained('captions')[1]} (folder)"
    for part in (
        "images       8x8x3, condition: text",
        "first stage  kl, f = 1, latents 8x8x2",
        f"unet {count_parameters(model.parameters['unet']):,}",
        f"tau {count_parameters(model.parameters['tau']):,}",
        "sampling     ddim, 2 steps, guidance 2",
    ):
        assert part in text, text
    assert "tau" not in repr(loaded(trained("flat")[1]))
    assert "f = 2, latents 16x16x2" in repr(loaded(trained_task("none")[1]))


def test_a_grid_is_an_image(model, images):
    grid = model.grid(images, columns=2)
    assert isinstance(grid, Image.Image)
    np.testing.assert_array_equal(grid, plots.grid(images, 2))
    labelled = model.grid(images, ["a", "b", "c"])
    np.testing.assert_array_equal(labelled, plots.labelled_grid(images, ["a", "b", "c"], 3))


def test_a_model_may_have_no_weights(model):
    bare = LatentDiffusion(model.config, model.info)
    assert "parameters" not in repr(bare) and bare.geometry() == model.geometry()
    for use in (lambda: bare.sample(RED), lambda: bare.parameters, lambda: bare.scale_factor):
        with pytest.raises(UserError, match="has no weights yet"):
            use()
    np.testing.assert_array_equal(model.with_weights(model.weights).sample(RED), model.sample(RED))


def test_a_first_stage_alone_encodes_and_decodes(trained, images, tmp_path):
    run = shutil.copytree(trained("captions")[1], tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "diffusion")
    model = ldm_jax.load(str(run))
    assert set(model.parameters) == {"autoencoder"} and "unet" not in repr(model)
    assert model.decode(model.encode(images)).shape == images.shape
    z_t, settings = np.zeros((1, 8, 8, 2), np.float32), model.settings
    for use in (
        lambda: model.sample(RED),
        lambda: model.unet,
        lambda: model.predict(z_t, 0, RED),
        lambda: model.invert(z_t, model.parse(RED)["condition"], settings),
        lambda: model.embed(model.parse(RED)),
    ):
        with pytest.raises(UserError, match="is a first stage: .* has no UNet"):
            use()


# What cannot be

ONE = np.zeros((1, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    "use, said",
    [
        (lambda m: m.sample("a puce square"), "unknown words: puce"),
        (lambda m: m.sample(3), "a prompt is a text"),
        (lambda m: m.sample(RED, steps=0), "steps is 0; this model takes 1 to 1000"),
        (lambda m: m.sample(RED, steps=1001), "steps is 1001"),
        (lambda m: m.sample(RED, seed=-1), "seed is -1"),
        (lambda m: m.sample(RED, eta=2.0), "eta is 2.0"),
        (lambda m: m.sample(RED, sampler="ddpm", eta=1.0), "sampler ddpm has none"),
        (lambda m: m.sample(RED, sampler="rk4"), "unknown sampler 'rk4'; there are: ddim"),
        (lambda m: m.sample(RED, batch_size=0), "batch size is 0"),
        (lambda m: m.sample(RED, height=0), "height is 0; for this model"),
        (lambda m: m.sample(RED, num_images=0), "number of images is 0"),
        (lambda m: m.encode(ONE[..., :1]), r"images are \[n, H, W, 3\].* not \[1, 8, 8, 1\]"),
        (lambda m: m.encode(ONE[0, 0]), r"not \[8, 3\]"),
        (lambda m: m.reconstruct(ONE[..., :2]), r"not \[1, 8, 8, 2\]"),
        (lambda m: m.decode(np.zeros((1, 8, 8, 3))), r"latents are \[n, h, w, 2\]"),
        (lambda m: m.predict(np.zeros((3, 8, 8, 2)), 0, [RED, BLUE]), "3 latents and 2 cond"),
    ],
)
def test_what_cannot_be_is_said(use, said, model):
    with pytest.raises(UserError, match=said):
        use(model)


@pytest.mark.parametrize(
    "layout, use, said",
    [
        ("flat", lambda m: m.sample(RED), "is unconditional: it takes no condition"),
        ("flat", lambda m: m.sample(guidance=2.0), "no condition to guide by"),
        ("flat", lambda m: m.predict(np.zeros((1, 8, 8, 2)), 0, guidance=2.0), "to guide by"),
        ("classes", lambda m: m.sample("puce"), "unknown class 'puce'; this model knows 0 to 1"),
        ("classes", lambda m: m.sample(2), "unknown class"),
    ],
)
def test_what_other_models_cannot_is_said(layout, use, said, trained, loaded):
    with pytest.raises(UserError, match=said):
        use(loaded(trained(layout)[1]))


@pytest.mark.parametrize(
    "kind, condition, said",
    [
        ("layout", {"objects": [{"label": "puce ball", "box": [0, 0, 1, 1]}]}, "unknown label"),
        ("semantic", np.zeros((33, 32), int), "height is 33; .* a multiple of 2, such as 32 or 34"),
        ("semantic", np.full((32, 32), 9), "has class 9; this model knows 0 to 5"),
        ("semantic", None, "this model needs its condition: semantic"),
        ("super-resolution", np.zeros((8, 8, 1), np.uint8), r"not \[1, 8, 8, 1\]"),
        (
            "inpainting",
            {"image": np.zeros((33, 32, 3), np.uint8), "mask": np.ones((33, 32), bool)},
            "height is 33",
        ),
    ],
)
def test_conditions_that_do_not_fit_are_said(kind, condition, said, trained_task, loaded):
    with pytest.raises(UserError, match=said):
        loaded(trained_task(kind)[1]).sample(condition)


def test_what_is_no_model_is_said(tmp_path):
    with pytest.raises(UserError, match="nowhere is no run directory"):
        ldm_jax.load(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match='has no config.json.* weights need model="NAME"'):
        ldm_jax.load(str(tmp_path))
