"""Captions of scenes lose clauses in training, and only there."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.commands.train.clauses import ShortenedCaptions, in_training
from ldm_jax.commands.train.diffusion import diffusion_task
from ldm_jax.conditioning.class_label import ClassLabels
from ldm_jax.conditioning.tokenizer import Tokenizer
from ldm_jax.data.folder import FolderConfig
from ldm_jax.data.loader import Loader
from ldm_jax.data.scenes import ScenesConfig, ScenesSource
from ldm_jax.data.scenes.clauses import shortened
from ldm_jax.data.source import ArraySource
from ldm_jax.errors import UserError
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.model.check import check
from ldm_jax.model.conditions import ClassCondition, TextCondition
from ldm_jax.model.data import open_data
from ldm_jax.model.initial import InitialWeights
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.run_dir import RunDir
from ldm_jax.training.step import TrainState

N, PROBABILITY = 40, 0.5


@pytest.fixture(scope="module")
def examples():
    return ScenesSource(ScenesConfig(8, "pair", N)).read(range(N))


@pytest.fixture(scope="module")
def condition(examples):
    return TextCondition(Tokenizer.from_captions(examples["caption"], 100))


def rows_of(tokens):
    return {row.tobytes() for row in tokens}


def test_some_captions_of_a_batch_are_shortened_and_the_others_whole(examples, condition):
    training = ShortenedCaptions(condition.encoder, PROBABILITY)
    cached, share = training.to_cache(examples), []
    for seed in range(20):
        rngs = [np.random.default_rng([seed, i]) for i in range(N)]
        tokens = training.to_batch(cached, rngs)["condition"]
        share.append((tokens == cached["condition"]).all(axis=1).mean())
    assert abs(np.mean(share) - (1 - PROBABILITY)) < 0.05 and np.std(share) > 0
    np.testing.assert_array_equal(cached["condition"], condition.to_cache(examples)["condition"])


def test_tokens_are_those_of_the_same_words_in_a_prompt(examples, condition):
    training = ShortenedCaptions(condition.encoder, PROBABILITY)
    cached = training.to_cache(examples)
    for caption, rows in zip(examples["caption"], cached["shortened"], strict=True):
        texts = shortened(caption, len(rows))
        np.testing.assert_array_equal(rows, condition.parse(texts)["condition"])


def test_without_generators_captions_are_whole(examples, condition):
    training = ShortenedCaptions(condition.encoder, PROBABILITY)
    tokens = training.to_batch(training.to_cache(examples), None)["condition"]
    np.testing.assert_array_equal(tokens, condition.parse(list(examples["caption"]))["condition"])


def test_a_batch_depends_on_the_seed_and_the_step(examples, condition):
    training = ShortenedCaptions(condition.encoder, PROBABILITY)
    source = ArraySource(training.to_cache(examples))
    loaders = [Loader(source, 8, seed, transform=training.to_batch) for seed in (0, 0, 1)]
    one, same, other = (loader.batch(11)["condition"] for loader in loaders)
    np.testing.assert_array_equal(one, same)
    assert (one != other).any() and (one != loaders[0].batch(12)["condition"]).any()
    np.testing.assert_array_equal(one, next(loaders[1].iterate(start_step=11))["condition"])


def test_what_has_no_clauses_stays_as_it_is(condition):
    labels = ClassCondition(ClassLabels(("a", "b")))
    assert in_training(None, 0.5) is None and in_training(labels, 0.5) is labels
    assert in_training(condition, 0.0) is condition


def test_only_captions_of_scenes_can_lose_clauses(one_device):
    smoke = EXPERIMENTS["smoke"]()
    losing = dataclasses.replace(
        smoke, diffusion=dataclasses.replace(smoke.diffusion, drop_clauses=0.5)
    )
    check(losing, one_device)
    with pytest.raises(UserError, match="drop-clauses is 0.5"):
        check(dataclasses.replace(losing, data=FolderConfig(path=".", size=32)), one_device)


def task_of(drop_clauses, folder, mesh):
    """The second stage of a tiny experiment without a first."""
    smoke = EXPERIMENTS["smoke"]()
    network = dataclasses.replace(smoke.autoencoder.network, bottleneck="none")
    stage = dataclasses.replace(smoke.diffusion, drop_clauses=drop_clauses)
    experiment = dataclasses.replace(
        smoke,
        data=ScenesConfig(8, "single", 32, 8),
        autoencoder=dataclasses.replace(smoke.autoencoder, network=network),
        diffusion=stage,
    )
    data = open_data(experiment.data, stage, experiment.seed)
    model = LatentDiffusion(experiment, data.info)
    return diffusion_task(model, {}, data, RunDir(folder), mesh, InitialWeights()), data, model


@pytest.mark.slow
def test_training_reads_shorter_captions_and_held_out_measures_whole_ones(tmp_path, one_device):
    (task, data, model), (without, *_) = (
        task_of(drop, tmp_path / str(drop), one_device) for drop in (0.5, 0.0)
    )
    whole = rows_of(model.condition.parse(list(data.train.read(range(32))["caption"]))["condition"])
    read = np.concatenate([task.loader.batch(step)["condition"] for step in range(8)])
    lost = np.mean([row.tobytes() not in whole for row in read])
    assert 0.3 < lost < 0.7
    read = np.concatenate([without.loader.batch(step)["condition"] for step in range(8)])
    assert rows_of(read) <= whole

    params = task.objective.init(jax.random.key(0))
    # A UNet starts out predicting zero: perturbed, it looks at its input.
    params = jax.tree.map(lambda p: p + 0.1 * jnp.cos(jnp.arange(p.size)).reshape(p.shape), params)
    state = TrainState(jnp.int32(1), params, None, (), task.constants)
    assert task.measure(state) == without.measure(state)
