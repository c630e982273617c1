"""Cached latents are the same training as encoding in every step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.commands.train.diffusion import diffusion_task, settled_scale_factor
from ldm_jax.commands.train.latents import LatentView, latent_loader, one_view
from ldm_jax.data.folder import FolderConfig
from ldm_jax.diffusion.unet import UNetConfig
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.model.data import open_data
from ldm_jax.model.first_stage import FirstStage
from ldm_jax.model.initial import InitialWeights
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.run_dir import RunDir
from ldm_jax.training.config import LoaderConfig
from ldm_jax.training.step import TrainState


class Drawn:
    """A source that says its views are random, though they are not: it is not cached."""

    is_random = True

    def __init__(self, source):
        self.source, self.channels, self.class_names = source, source.channels, source.class_names

    def __len__(self):
        return len(self.source)

    def read(self, indices, rngs=None):
        return self.source.read(indices, rngs)


@pytest.fixture(scope="module")
def problem(photographs):
    """(model, data, autoencoder parameters) on the folder with captions."""
    smoke = EXPERIMENTS["smoke"]()
    unet = UNetConfig(8, (1,), 1, attention_factors=(), head_channels=4, groups=4)
    experiment = dataclasses.replace(
        smoke,
        data=FolderConfig(path=str(photographs / "captions"), size=16, crop="centre", flip=False),
        diffusion=dataclasses.replace(smoke.diffusion, unet=unet, batch_size=4),
    )
    data = open_data(experiment.data, experiment.diffusion, experiment.seed)
    model = LatentDiffusion(experiment, data.info)
    return model, data, model.first.objective.init(jax.random.key(0))["autoencoder"]


def loader_of(view, data, mesh):
    """(batches of four, what measures the scale factor)."""
    return latent_loader(view, data, mesh, 4, 0, LoaderConfig())


@pytest.mark.slow
def test_the_loss_is_the_same_for_the_same_key(problem, one_device):
    model, data, autoencoder = problem
    params = model.objective.init(jax.random.key(1))
    # A UNet starts out predicting zero: perturbed, it looks at its input.
    params = jax.tree.map(lambda p: p + 0.05 * jnp.cos(jnp.arange(p.size)).reshape(p.shape), params)
    view, losses = LatentView(model.first, autoencoder, model.condition, False), []
    for source in (data.train, Drawn(data.train)):
        loader, measure = loader_of(view, dataclasses.replace(data, train=source), one_device)
        batch, scale = loader.batch(3), measure()
        assert ("image" in batch) == source.is_random
        constants = {"autoencoder": autoencoder, "scale_factor": scale}
        loss, t = jax.jit(model.objective.loss)(params, constants, batch, jax.random.key(2))
        losses.append((loss, t, batch["condition"], scale))
    for cached, online in zip(*losses, strict=True):
        np.testing.assert_allclose(cached, online, rtol=1e-5)
    assert np.std(losses[0][0]) > 0


def test_what_does_not_fit_into_memory_is_not_cached(problem, one_device):
    model, data, autoencoder = problem
    view = LatentView(model.first, autoencoder, model.condition, False)
    loader, _ = latent_loader(view, data, one_device, 4, 0, LoaderConfig(), most_cached=10)
    assert "image" in loader.batch(0)


def test_the_mirror_image_is_cached_beside_the_image(problem, one_device):
    model, data, autoencoder = problem
    view = LatentView(model.first, autoencoder, model.condition, mirrored=True)
    loader, _ = loader_of(view, data, one_device)
    images = data.train.read(range(len(data.train)))["image"]
    moments = loader.source.arrays["encoded"]
    for number, rows in enumerate((images, images[:, :, ::-1])):
        expected = model.first.encode(autoencoder, rows)
        np.testing.assert_allclose(moments[:, number], expected, atol=1e-5)


def test_a_view_is_drawn_for_each_example_at_each_reading():
    batch = {"encoded": np.arange(400).reshape(200, 2, 1, 1, 1), "condition": np.arange(200)}
    out = one_view(batch, [np.random.default_rng([7, i]) for i in range(200)])
    assert out["encoded"].shape == (200, 1, 1, 1)
    taken = out["encoded"].ravel() - 2 * out["condition"]
    assert set(taken) == {0, 1} and 70 < taken.sum() < 130


def first_stage(problem, bottleneck):
    """The first stage with another bottleneck."""
    stage = problem[0].config.autoencoder
    network = dataclasses.replace(stage.network, bottleneck=bottleneck)
    return FirstStage(dataclasses.replace(stage, network=network), 3)


def test_the_scale_factor_makes_samples_of_the_posterior_have_unit_deviation(problem):
    rng = np.random.default_rng(0)
    mean, logvar = rng.normal(0.3, 2.0, (2, 50, 4, 4, 3)) * [[[[[1.0]]]], [[[[0.1]]]]]
    moments = np.concatenate([mean, logvar], axis=-1).astype(np.float32)
    z = mean + np.exp(0.5 * logvar) * rng.standard_normal((400, *mean.shape))
    first = first_stage(problem, "kl")
    assert abs(first.scale_factor(moments) * z.std() - 1) < 5e-3


def test_the_scale_factor_is_measured_only_where_nothing_says_it(tmp_path):
    run, wanted = RunDir(tmp_path), []

    def measure():
        wanted.append("measured")
        return np.float32(3)

    assert settled_scale_factor(2.0, run, measure) == 2 and not wanted
    assert settled_scale_factor(0.0, run, measure) == 3 and wanted
    checkpoints = run.checkpoints("diffusion")
    checkpoints.save(1, TrainState(jnp.int32(1), {}, None, (), {"scale_factor": np.float32(4)}))
    checkpoints.close()
    assert settled_scale_factor(0.0, run, measure) == 4 and len(wanted) == 1


@pytest.mark.parametrize("bottleneck", ["vq", "none"])
def test_what_is_no_posterior_is_learnt_as_it_is(bottleneck, problem):
    """z before it is quantised, or the pixels."""
    z = np.random.default_rng(0).normal(0.3, 2.0, (50, 4, 4, 4)).astype(np.float32)
    first = first_stage(problem, bottleneck)
    assert abs(first.scale_factor(z) * z.std() - 1) < 1e-5
    assert first.mean(z) is z and first.sample(z, jax.random.key(0)) is z


def test_without_a_first_stage_latents_are_pixels_and_not_cached(problem, one_device):
    model, data, _ = problem
    first = first_stage(problem, "none")
    loader, measure = loader_of(LatentView(first, {}, model.condition, False), data, one_device)
    batch = loader.batch(0)
    assert set(batch) == {"image", "condition"} and batch["image"].dtype == np.uint8
    z = first.encode({}, batch["image"])
    np.testing.assert_allclose(z, batch["image"] / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(first.decode({}, z), batch["image"])
    pixels = data.train.read(range(len(data.train)))["image"]
    assert abs(measure() * (pixels / 127.5).std() - 1) < 1e-4


def test_the_scale_factor_that_is_given_is_not_measured(problem, one_device, tmp_path):
    model, data, autoencoder = problem
    stage = dataclasses.replace(model.config.diffusion, scale_factor=0.18215)
    model = LatentDiffusion(dataclasses.replace(model.config, diffusion=stage), model.info)
    task = diffusion_task(model, autoencoder, data, RunDir(tmp_path), one_device, InitialWeights())
    assert task.constants["scale_factor"] == np.float32(0.18215)
