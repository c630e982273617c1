"""benchmarks/zoo.py: what it trains, by the real command line, what it records and shows."""

import argparse
import importlib
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.autoencoder.perceptual import abstract_params, lpips
from ldm_jax.autoencoder.step import to_model_range
from ldm_jax.commands.train.run import main as train_main
from ldm_jax.commands.train.run import parse_command
from ldm_jax.data.scenes import SHAPES, ScenesConfig, ScenesSource
from ldm_jax.errors import UserError
from ldm_jax.evaluation.distortion import psnr
from ldm_jax.model.data_info import DataInfo
from ldm_jax.model.first_stage import FirstStage
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.load import load_run
from ldm_jax.model.networks import Networks
from ldm_jax.model.run_dir import RunDir
from ldm_jax.model.weights import Weights
from ldm_jax.shipped import FOLDER, zoo_models
from ldm_jax.shipped.recorded import RecordedAutoencoder, RecordedZoo, recorded_zoo
from ldm_jax.training.step import count_parameters
from tests.runs import TINY

ROOT = Path(__file__).parents[2]
SMALL = [*TINY.split(), "--data.size", "32", "--data.count", "16", "--data.validation-count", "16"]


@pytest.fixture(scope="module")
def of():
    """`of("zoo_members")`: a module of benchmarks/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module


@pytest.fixture(scope="module")
def experiments(of):
    """Name of each member -> the experiment that its words ask for."""
    members = of("zoo_members")
    return {
        name: parse_command(members.words(name, 300, "lpips.npz"))[1].experiment
        for name in members.MEMBERS
    }


@pytest.fixture(scope="module")
def weights():
    """Of LPIPS on SqueezeNet, small random ones."""
    rng = np.random.default_rng(0)
    shapes = abstract_params("squeezenet")
    return jax.tree.map(lambda a: rng.uniform(0, 0.1, a.shape).astype(np.float32), shapes)


# What is trained


def test_all_are_trained_alike(experiments):
    def alike(one):
        stage = one.autoencoder
        return (
            one.data,
            one.seed,
            stage.batch_size,
            stage.optimiser,
            stage.ema_decay,
            stage.init_gain,
        )

    assert len({alike(one) for one in experiments.values()}) == 1
    stage = experiments["f4"].autoencoder
    assert stage.optimiser.schedule == "cosine" and stage.optimiser.decay_steps == 300
    assert stage.init_gain == 2.45 and 0 < stage.ema_decay < 1


def test_each_is_what_its_group_says(of, experiments):
    groups = of("zoo_members").GROUPS

    def latent(name):
        network = experiments[name].autoencoder.network
        return network.f, network.z_channels * (32 // network.f) ** 2, network.z_channels

    def losses(names):
        return [experiments[name].autoencoder.loss for name in names]

    equal_values, equal_channels, bottlenecks, pixels = groups.values()
    assert [latent(name)[:2] for name in equal_values] == [(f, 256) for f in (2, 4, 8, 16)]
    assert [latent(name)[::2] for name in equal_channels] == [(f, 4) for f in (2, 4, 8, 16)]
    assert {latent(name) for name in bottlenecks} == {(4, 256, 4)}
    assert [one.kl_weight for one in losses(bottlenecks[:4])] == [0, 1e-6, 3e-3, 0.1]
    kinds = [experiments[name].autoencoder.network.bottleneck for name in bottlenecks]
    assert kinds == [*["kl"] * 4, "vq"]
    assert {latent(name) for name in pixels} == {(8, 64, 4)}
    terms = [
        (one.l1_weight, one.l2_weight, one.perceptual_weight, one.disc_weight)
        for one in losses(pixels)
    ]
    assert terms == [(0, 1, 0, 0), (1, 0, 0, 0), (1, 0, 1, 0), (1, 0, 1, 0.5)]
    assert losses(pixels)[3].disc_start == 180


def test_they_are_small(experiments):
    found = {}
    for one in experiments.values():
        network = one.autoencoder.network
        if network not in found:
            shapes = jax.eval_shape(
                FirstStage(one.autoencoder, 3).objective.init, jax.random.key(0)
            )
            found[network] = count_parameters(shapes["autoencoder"])
    assert all(300_000 <= count <= 650_000 for count in found.values())


def test_which_weights_come_with_the_package(of):
    name = of("zoo").packed_name
    assert name("f4", 300, 300) == "f4" and name("f4", 100, 300) == "f4-step-100"
    assert name("f4", 200, 300) == name("l2", 300, 300) == name("f2", 0, 300) == ""


# What is recorded


@pytest.fixture(scope="module")
def scenes(of):
    return of("zoo_judge").held_out(ScenesConfig(size=32, validation_count=32), 0)


def model_of(*words):
    """Tiny, with random weights."""
    config = parse_command(["scenes", *SMALL, *words])[1].experiment
    info = DataInfo(3, "none")
    params = Networks(config, info).first.objective.init(jax.random.key(0))
    constants = {"autoencoder": jax.tree.map(np.asarray, params["autoencoder"])}
    return LatentDiffusion(config, info, Weights(None, constants | {"scale_factor": np.float32(2)}))


def test_scenes_are_held_out_and_the_first_ones_show_all_shapes(scenes):
    assert scenes.images.shape == scenes.others.shape == (16, 32, 32, 3)
    both = np.concatenate([scenes.images, scenes.others])
    assert len(np.unique(both.reshape(32, -1), axis=0)) == 32
    source = ScenesSource(ScenesConfig(size=32, validation_count=32), "validation", 0)
    assert set(scenes.captions) <= {text for (text,) in source.texts(range(32))}
    shapes = [shape for text in scenes.captions[:8] for shape in SHAPES if shape in text]
    assert all(sorted(four) == sorted(SHAPES) for four in (shapes[:4], shapes[4:]))


@pytest.mark.slow
def test_numbers_and_arrays_are_those_of_the_model(of, scenes, weights):
    model = model_of()
    numbers, arrays = of("zoo_judge").judge(model, scenes, weights)
    x, x_hat = scenes.images, model.reconstruct(scenes.images)
    np.testing.assert_array_equal(arrays["images"], x_hat[:8])
    assert numbers["psnr"] == pytest.approx(psnr(x, x_hat).mean(), abs=1e-3)
    pairs = (to_model_range(jnp.asarray(a)) for a in (x, x_hat))
    distance = np.asarray(lpips(weights, "squeezenet", *pairs))
    np.testing.assert_allclose(numbers["of_shown"]["lpips"], distance[:8], rtol=1e-3, atol=1e-4)
    assert numbers["lpips"] == pytest.approx(distance.mean(), rel=1e-3, abs=1e-4)
    assert numbers["kid"]["mean"] > 0 and 0 <= numbers["read"]["whole"] <= 1
    # z = mean + sigma eps, unscaled
    z = numbers["z"]
    encoded = model.first.encode(model.weights.constants["autoencoder"], jnp.asarray(x))
    assert z["shape"] == [32, 32, 2]
    assert z["std"] == pytest.approx(1 / model.first.scale_factor(encoded), rel=0.02)
    mean, logvar = np.split(np.asarray(encoded), 2, axis=-1)
    assert z["kl"] == pytest.approx((mean**2 + np.exp(logvar) - 1 - logvar).mean() / 2, rel=1e-3)
    assert z["sigma"] == pytest.approx(np.exp(logvar / 2).mean(), rel=1e-3)
    assert 0.99 * 16 * 2048 < arrays["counts"].sum() <= 16 * 2048
    noise = np.random.default_rng(0).standard_normal((8, 32, 32, 2)).astype(np.float32)
    decoded = model.first.decode(model.weights.constants["autoencoder"], jnp.asarray(noise))
    assert np.abs(arrays["noise"].astype(int) - np.asarray(decoded)).max() <= 1


def test_the_codes_in_use_are_counted(of, scenes):
    words = ["--autoencoder.network.bottleneck", "vq", "--autoencoder.network.codebook-size", 16]
    model = model_of(*map(str, words))
    z, found = of("zoo_judge").latents(model, scenes.images)
    codebook = model.weights.constants["autoencoder"]["codebook"]
    nearest = ((z[..., None, :] - codebook) ** 2).sum(-1).argmin(-1)
    assert found["codes_used"] == len(np.unique(nearest)) / 16
    p = np.bincount(nearest.ravel(), minlength=16) / nearest.size
    assert found["perplexity"] == pytest.approx(
        np.exp(-(p[p > 0] * np.log(p[p > 0])).sum()), rel=1e-3
    )


@pytest.fixture
def options(tmp_path):
    return argparse.Namespace(
        folder=tmp_path / "zoo", steps=4, perceptual_file="none.npz", more=SMALL
    )


@pytest.mark.slow
def test_a_member_is_trained_judged_and_packed_once(of, options, scenes, weights, command):
    started = []

    def start(log, *words):
        started.append(words)
        assert command(train_main, [*words[1:], "--mesh.data", 1]).code == 0

    record, folder = of("zoo").record, options.folder
    record("f4", options, scenes, weights, start)
    assert len(started) == 1
    facts = {"same": {"steps": 4}, "judged": 16}
    zoo = of("zoo").collect(options, scenes, facts)
    one = zoo.members["f4"]
    np.testing.assert_array_equal(zoo.scenes, scenes.images[:8])
    assert zoo.captions == scenes.captions[:8]
    model = load_run(RunDir(folder / "f4" / "run"))
    np.testing.assert_array_equal(one.images, model.reconstruct(zoo.scenes))
    assert set(one.moments) == {0} and (one.moments[0].images != one.images).any()
    small = load_run(RunDir(folder / "packed" / "f4"))
    assert np.abs(small.encode(zoo.scenes) - model.encode(zoo.scenes)).max() < 0.1

    record("f4", options, scenes, weights, start)  # all is there
    (folder / "f4" / "judged-00004.json").unlink()
    record("f4", options, scenes, weights, start)  # as if it had been killed while it judged
    assert len(started) == 1 and (folder / "f4" / "judged-00004.json").exists()
    run = RunDir(folder / "f4" / "run")
    assert of("zoo").to_be_trained(run, 8) and not of("zoo").to_be_trained(run, 4)
    with pytest.raises(UserError, match="is past step 2"):
        of("zoo").to_be_trained(run, 2)
    options.more = [*SMALL, "--seed", "1"]
    with pytest.raises(UserError, match="begun with other options"):
        record("f4", options, scenes, weights, start)


# What is written and shown


def recorded(of):
    """A zoo of grey images: those of member i have the value 10 * (i + 1)."""

    def one(value, moments):
        images = np.full((8, 32, 32, 3), value, np.uint8)
        numbers = {
            "psnr": 20.0 + value,
            "ssim": 0.8,
            "lpips": 0.05,
            "kid": {"mean": 0.01, "standard_error": 0.001},
            "read": {"whole": 0.9, "shape": 0.95, "colour": 1.0},
            "z": {"shape": [8, 8, 4], "std": 1.5, "kl": 2.0},
            "parameters": 500_000,
            "seconds": 150.0,
        }
        histogram = np.zeros(60, np.int32), np.zeros(61, np.float32)
        return RecordedAutoencoder(numbers, images, 255 - images, *histogram, moments=moments)

    members = of("zoo_members")
    values = {name: 10 * (i + 1) for i, name in enumerate(members.MEMBERS)}
    groups = {
        group: {name: members.title(group, name) for name in names}
        for group, names in members.GROUPS.items()
    }
    true = {key: one(0, {}).numbers[key] for key in ("kid", "read")}
    facts = {"same": {"steps": 1500}, "judged": 512, "groups": groups, "true_renders": true}
    facts |= {"machine": "2 cores, x86_64", "date": "2026-01-01", "commit": "abc"}
    moments = {step: one(200 + step // 100, {}) for step in (500, 0, 100)}
    found = {name: one(value, moments if name == "f4" else {}) for name, value in values.items()}
    return RecordedZoo(facts, np.full((8, 32, 32, 3), 250, np.uint8), ["a"] * 8, found)


def test_the_table_has_each_group_and_the_true_renders(of):
    lines = of("zoo_report").table(recorded(of)).splitlines()
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert lines[3] == (
        "| f = 2 | 8x8x4 | 0.50 M | 30.0 | 0.800 | 0.050 | 0.0100 ± 0.0010 | 90.0% | 95.0% "
        "| 100.0% | 1.50 | 2.00 nats | 150 |"
    )
    assert sum("KL weight 1e-6" in line for line in lines) == 1
    assert lines[-1].startswith("| true renders |  |  |  |  |  | 0.0100")
    assert len(lines) == 2 + 4 + 4 + 4 + 5 + 4 + 1


def test_the_figure_shows_each_image_at_its_place(of):
    zoo = recorded(of)
    shown = of("zoo_report").drawn(zoo)
    top, column = 26 + 34, 100
    first_row = top + 48, np.arange(5) * column + 48
    values = [250, *(zoo.members[name].images[0, 0, 0, 0] for name in ("f2", "f4", "f8", "f16"))]
    assert shown[first_row[0], first_row[1], 0].tolist() == values
    height = top + 4 * column + 36 + 16  # of the first blocks, and what is between
    y = height + top + 4 * column + 36 + 48  # noise below the bottlenecks
    values = [zoo.members[name].noise[0, 0, 0, 0] for name in ("kl-0", "f4", "kl-3e-3")]
    assert shown[y, np.arange(1, 4) * column + 48, 0].tolist() == values
    y = 2 * height + 96 + top + 48  # moments of the training, in order
    assert shown[y, np.arange(5) * column + 48, 0].tolist() == [250, 200, 201, 205, 20]
    assert (shown[:26, :400] < 120).any() and (shown[26:top, 110:180] < 120).any()  # titles


def test_results_replace_those_on_a_page(of):
    report, zoo = of("zoo_report"), recorded(of)
    page = "\n".join(["before", report.MARKS[0], "old", report.MARKS[1], "after"])
    new = report.with_results(page, zoo)
    assert new.startswith("before\n") and new.endswith("after") and "old" not in new
    assert report.table(zoo) in new and "2026-01-01, commit abc" in new
    assert report.with_results(new, zoo) == new
    with pytest.raises(UserError, match="no marks"):
        report.with_results("before", zoo)


def test_it_is_published_when_it_is_complete(of, tmp_path):
    zoo, report = recorded(of), of("zoo_report")
    folder, package, page = tmp_path / "zoo", tmp_path / "package", tmp_path / "zoo.md"
    (folder / "packed" / "f4").mkdir(parents=True)
    for name in ("zoo.json", "zoo.npz", "zoo.png", "packed/f4/config.json"):
        (folder / name).write_text(name)
    page.write_text("\n".join(report.MARKS))
    of("zoo").publish(folder, zoo, package, page)
    found = {str(file.relative_to(package)) for file in package.rglob("*") if file.is_file()}
    assert found == {"zoo.json", "zoo.npz", "f4/config.json"}
    assert report.table(zoo) in page.read_text() and page.with_suffix(".png").exists()
    shutil.rmtree(package)
    del zoo.members["vq"], zoo.members["l1"]
    with pytest.raises(UserError, match="has no l1, vq yet"):
        of("zoo").publish(folder, zoo, package, page)
    assert not package.exists()


@pytest.mark.skipif(not (FOLDER / "zoo" / "zoo.json").exists(), reason="it is not recorded yet")
def test_the_page_shows_what_is_recorded(of):
    zoo, page = recorded_zoo(), (ROOT / "docs" / "zoo.md").read_text()
    assert of("zoo_report").with_results(page, zoo) == page
    members = of("zoo_members").MEMBERS
    assert set(zoo.members) == set(members)
    packed = {name for name, one in members.items() if one.packed}
    packed |= {f"{n}-step-{one.packed_at}" for n, one in members.items() if one.packed_at}
    assert zoo_models() == sorted(f"zoo/{name}" for name in packed)
    assert json.loads(json.dumps(zoo.facts)) == zoo.facts
