"""The command lines: what they list, what they mean by default, and one line for bad input."""

import jax
import pytest
from PIL import Image

from ldm_jax.commands.cli import start_jax
from ldm_jax.commands.train.run import parse_command
from ldm_jax.errors import UserError
from ldm_jax.experiments import EXPERIMENTS


@pytest.mark.parametrize(
    "words, name",
    [
        ([], "scenes"),
        (["--seed", "7"], "scenes"),
        (["scenes-large"], "scenes-large"),
        (["--seed", "7", "scenes-large"], "scenes-large"),  # behind the options
        (["--seed=7", "scenes-large"], "scenes-large"),
    ],
)
def test_scenes_is_what_is_trained_by_default(words, name):
    trained, command = parse_command(words)
    assert (trained, command.run_dir, command.stage) == (name, f"runs/{name}", "both")
    assert command.experiment.data == EXPERIMENTS[name]().data
    assert command.experiment.seed == (7 if "7" in "".join(words) else 0)


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(UserError, match=r"'runs/l\\udce4uf' is not text in UTF-8"):
        parse_command(["--run-dir", "runs/l\udce4uf"])


def test_the_value_of_an_option_is_no_experiment():
    name, command = parse_command(["--run-dir", "smoke"])
    assert (name, command.run_dir) == ("scenes", "smoke")


def test_compiled_programs_are_kept_unless_jax_has_a_place_of_its_own(monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    start_jax()
    assert jax.config.jax_compilation_cache_dir == before
    monkeypatch.setenv("LDM_JAX_CACHE", str(tmp_path / "cache"))
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        start_jax()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "cache" / "xla")
        assert not (tmp_path / "cache").exists()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_a_cache_in_a_bucket_is_refused_with_what_can_be_shared(monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("LDM_JAX_CACHE", "gs://bucket/cache")
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        with pytest.raises(UserError, match="folder of this machine.*JAX_COMPILATION_CACHE_DIR="):
            start_jax()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def broken(tmp_path):
    """A folder with a file that is no image."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    return tmp_path / "broken"


@pytest.fixture
def flat(tmp_path):
    """A folder of images, without classes or captions."""
    (tmp_path / "flat").mkdir()
    for i in range(4):
        Image.new("RGB", (16, 16), (60 * i, 0, 0)).save(tmp_path / "flat" / f"{i}.png")
    return tmp_path / "flat"


@pytest.mark.parametrize(
    "words, said",
    [
        (["sceens"], ["unknown experiment 'sceens'", "--help lists them", "you meant scenes"]),
        (["runs/mine"], ["unknown experiment 'runs/mine'", "a run is --run-dir runs/mine"]),
        (["--seed", 1, "sceens"], ["'sceens' belongs to no option; perhaps you meant scenes"]),
        (["--run-dir"], ["Missing value", "--run-dir"]),
        (["smoke", ""], ["'' belongs to no option"]),
        (["smoke", "--data.size", 10**8], ["--data.size is 100000000; it must be at most 16384"]),
        (
            ["smoke", "--autoencoder.network.channel-mult", 1, 10**9],
            ["channel-mult is (1, 1000000000); it must be at most 1024"],
        ),
        (
            ["smoke", "--diffusion.unet.num-res-blocks", 10**9],
            ["num-res-blocks is 1000000000; it must be at most 1000"],
        ),
        (["smoke", "--diffusion.optimiser.learning-rate", "nan"], ["learning-rate is nan"]),
        (["smoke", "--mesh.data", 10**20], ["takes 100000000000000000000 devices; there are 8"]),
        (["smoke", "--run-dir", "/proc/x"], ["/proc/x cannot be written to"]),
        (["smoke", "--hosts.process", 7], ["several processes need all of --hosts.coordinator"]),
        (["smoke", "--run-dir", "hdfs://a/b"], ["paths that begin with hdfs:// are not known"]),
        (["smoke", "--epochs=3"], ["no option --epochs; training is counted in steps", "steps"]),
        (["zebra"], ["unknown experiment 'zebra'; python train.py --help lists them"]),
        (
            ["smoke", "--autoencoder.batchsize", 8],
            ["--autoencoder.batchsize", "perhaps you meant --autoencoder.batch-size"],
        ),
        (["smoke", "--zebra", 8], ["--zebra", "python train.py smoke --help"]),
        (["smoke", "zebra"], ["zebra"]),
        (["smoke", "--data.path", "x"], ["--data.path"]),
        (["smoke", "--autoencoder.steps", "many"], ["--autoencoder.steps", "int", "'many'"]),
        (["smoke", "--autoencoder.steps", 1.5], ["--autoencoder.steps", "int", "'1.5'"]),
        (["smoke", "--autoencoder.steps"], ["Missing value", "--autoencoder.steps"]),
        (["smoke", "--data.flip", "maybe"], ["--data.flip", "'maybe'", "'True', 'False'"]),
        (["smoke", "--diffusion.condition", "x"], ["'x'", "('auto', 'none', 'class', 'text', "]),
        (["smoke", "--stage", "third"], ["--stage", "'third'", "autoencoder"]),
        (
            ["smoke", "--autoencoder.optimiser.learning-rate", -1],
            ["--autoencoder.optimiser.learning-rate is -1.0; it must be at least 0"],
        ),
        (["smoke", "--data.size", 30], ["--data.size 30", "28 or 32"]),
        (["smoke", "--sampling.steps", 0], ["--sampling.steps is 0; it must be at least 1"]),
        (
            ["smoke", "--mesh.data", 8, "--autoencoder.batch-size", 12],
            ["--autoencoder.batch-size", "12", "= 8 devices", "8 or 16"],
        ),
        (["smoke", "--mesh.data", 9], ["data=9", "takes 9 devices; there are 8"]),
        (["smoke", "--mesh.data", 0], ["data=0", "sizes are positive"]),
        (["smoke", "--mesh.fsdp", 16], ["fsdp=16", "there are 8"]),
        (["smoke", "--stage", "diffusion"], ["no trained autoencoder", "step 0 of 40"]),
        (
            ["smoke", "--data.level", "full", "--diffusion.condition", "class"],
            ["--diffusion.condition is class, but this data has only what is needed for: text"],
        ),
        (
            ["smoke", "--diffusion.condition", "image-embedding"],
            ["scenes have no embedding: beside images, captions and classes"],
        ),
        (["smoke", "--sampling.sampler", "plms", "--sampling.eta", 1], ["eta is 1.0"]),
        (
            ["scenes-layout", "--autoencoder.from-run", "nowhere"],
            ["nowhere is no run directory", 'a first stage here: --autoencoder.from-run ""'],
        ),
        (["folder"], ["--data.path FOLDER"]),
        (["folder", "--data.path", "nowhere"], ["nowhere does not exist"]),
        (["folder", "--data.path", "."], ["no image in ."]),
        (
            ["folder", "--data.path", "x", "--data.crop", "random", "--data.fit", "pad"],
            ["crop 'random' needs fit 'crop'"],
        ),
        (
            ["tfds", "--data.dir", "."],
            ["no prepared data set 'mnist'", "to prepare it: pip install", "download_and_prepare"],
        ),
    ],
    ids=lambda value: " ".join(map(str, value)) if len(str(value)) < 60 else "",
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(words, said, train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = train(*words).error
    assert all(part in error for part in said), error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words, said",
    [
        (["scenes-layout", "--diffusion.sections", 4], "32 class names do not fit"),
        (
            ["scenes-super-resolution", "--autoencoder.network.bottleneck", "none"],
            "the factor of super-resolution must be at least 2, got 1",
        ),
    ],
)
def test_a_second_stage_that_cannot_be_is_refused_before_the_first(words, said, train, tmp_path):
    few = ["--data.count", 8, "--data.validation-count", 4, "--run-dir", tmp_path / "run"]
    own = ["--autoencoder.from-run", "", "--autoencoder.loss.perceptual-weight", 0]
    refused = train(*words, *own, *few)
    last = refused.err.splitlines()[-1]
    assert refused.code == 2 and last.startswith("error: ") and said in last
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_folder_of_broken_images_is_an_error(train, broken, tmp_path):
    refused = train("folder", "--data.path", broken, "--run-dir", tmp_path / "run")
    *reports, last = refused.err.splitlines()
    assert refused.code == 2 and last.startswith(f"error: no image in {broken} can be read; a.png")
    assert all(f"cannot read the image {broken}/a.png" in line for line in reports)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("condition", ["class", "text"])
def test_a_condition_that_a_folder_lacks_is_refused(train, flat, tmp_path, condition):
    words = ["--data.path", flat, "--run-dir", tmp_path / "run", "--diffusion.condition", condition]
    error = train("folder", *words).error
    assert error.endswith("what is needed for: super-resolution, inpainting")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_run_directory_that_cannot_be_written_is_refused(train, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    error = train("smoke", "--run-dir", tmp_path / place).error
    assert f"{tmp_path / place} cannot be written to: {tmp_path / 'file'} is not a folder" in error
    assert (tmp_path / "file").read_text() == "mine"
