"""The formats people have: folders of images and TFDS sets, trained on and sampled from."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.folder import FolderConfig
from ldm_jax.data.scenes import ScenesConfig
from ldm_jax.data.source import ArraySource
from ldm_jax.data.tfds import TfdsConfig
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.experiments.config import DiffusionStage
from ldm_jax.model.data import open_data
from ldm_jax.model.run_dir import RunDir


def checked(ended, path, condition):
    """Asserts that a tiny run is complete; returns the info of its data."""
    assert ended.code == 0, ended.err
    assert f"condition: {condition}" in ended.err
    summary = RunDir(path).summary()
    assert summary["autoencoder"]["finished"] and summary["diffusion"]["finished"]
    assert (path / "samples.png").exists()
    return RunDir(path).load()[2]


def opened(data):
    """Data that is opened for a model of whatever it has."""
    return open_data(data, DiffusionStage(), seed=0)


def grid(path):
    return np.asarray(Image.open(path))


@pytest.mark.slow
def test_a_flat_folder_trains_an_unconditional_model(trained, sample, tmp_path):
    """Random crops and mirror images: the encoder runs in every step."""
    ended, run = trained("flat")
    info = checked(ended, run, "none")
    assert (info.channels, info.class_names, info.vocabulary) == (3, (), ())
    assert "encoding images" not in ended.err
    out = tmp_path / "a.png"
    drawn = sample(run, "--num-images", 3, "--out", out)
    assert drawn.code == 0 and drawn.out == f"3 images in {out}\n", drawn.err
    for words in (["--prompt", "a square"], ["--class-label", "red"]):
        assert "this model is unconditional" in sample(run, *words).error
    assert "no condition to guide by" in sample(run, "--guidance", 2).error


@pytest.mark.slow
def test_a_folder_with_a_folder_a_class_trains_a_model_of_classes(trained, sample, tmp_path):
    """Centre crops and mirror images: the latents of both are computed once."""
    ended, run = trained("classes")
    info = checked(ended, run, "class")
    assert info.class_names == ("blue", "red")
    assert "encoding images" in ended.err
    images = []
    for i, words in enumerate((["red", 0], ["red", "--class-label", "blue"], [1, "blue"])):
        out = tmp_path / f"{i}.png"
        drawn = sample(run, "--class-label", *words, "--num-images", 2, "--out", out)
        assert drawn.out == f"4 images in {out}\n", drawn.err
        images.append(grid(out))
    assert (images[0] != images[1]).any()  # the labels under them: '0' and 'blue'
    for wrong in ("green", 2, -1, "²"):
        error = sample(run, "--class-label", wrong).error
        assert f"unknown class '{wrong}'; this model knows 0 to 1: blue, red" in error
    assert "trained on classes: use --class-label" in sample(run, "--prompt", "a square").error
    assert "--class-label NAME or --from-file" in sample(run).error


@pytest.mark.slow
def test_a_folder_with_captions_trains_a_model_of_texts(trained, sample, tmp_path):
    """Centre crops, nothing mirrored: the latents are computed once."""
    ended, run = trained("captions")
    info = checked(ended, run, "text")
    assert info.vocabulary == ("a", "blue", "red", "square") and info.caption_length == 3
    assert "encoding images" in ended.err
    drawn = sample(run, "--prompt", "A red square!", "--out", tmp_path / "a.png")
    assert drawn.out == f"4 images in {tmp_path / 'a.png'}\n", drawn.err


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """A TFDS set of ten squares, prepared as array_record: labels, captions, no test split."""
    import tensorflow_datasets as tfds

    of = tfds.features

    class Squares(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": of.Image(shape=(None, None, 3)),
                "label": of.ClassLabel(names=["blue", "red"]),
                "captions": of.Sequence({"text": of.Text()}),
            }
            return tfds.core.DatasetInfo(builder=self, features=of.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(10):
                pixels = np.full((18, 20, 3), 20 * i, np.uint8)
                pixels[4:12, 3:14, 2 * (i % 2)] = 220
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "PNG")
                colour = ("red", "blue")[i % 2]
                texts = [{"text": f"a {colour} square"}, {"text": f"{colour} square"}]
                yield i, {"image": file.getvalue(), "label": colour, "captions": texts}

    root = tmp_path_factory.mktemp("tfds")
    offline = tfds.download.DownloadConfig(try_download_gcs=False)
    builder = Squares(data_dir=root, file_format="array_record")
    builder.download_and_prepare(download_config=offline)
    return root


@pytest.mark.slow
def test_a_tfds_set_trains_on_random_crops_and_captions(train_tiny, sample, tfds_dir, tmp_path):
    run = tmp_path / "run"
    words = ["--data.name", "squares", "--data.dir", tfds_dir, "--data.fit", "crop"]
    words += ["--data.crop", "random", "--data.flip", True, "--data.caption-key", "captions/text"]
    ended = train_tiny("tfds", *words, "--run-dir", run)
    info = checked(ended, run, "text")
    assert info.vocabulary == ("a", "blue", "red", "square")
    assert "encoding images" not in ended.err
    drawn = sample(run, "--prompt", "a blue square", "--out", tmp_path / "a.png")
    assert drawn.code == 0, drawn.err


@pytest.mark.parametrize(
    "options, condition, fixed",
    [
        ({}, "class", True),
        ({"label_key": ""}, "none", True),
        ({"crop": "random"}, "class", False),
        ({"caption_key": "captions/text"}, "text", False),  # one of two captions at each reading
    ],
)
def test_a_tfds_set_is_what_its_features_are(options, condition, fixed, tfds_dir):
    data = TfdsConfig(name="squares", dir=str(tfds_dir), size=8, **options)
    found = opened(data)
    assert found.info.condition == condition and found.fixed_views == fixed
    assert len(found.train) == 8 and len(found.validation) == 2
    if condition == "class":
        assert found.info.class_names == ("blue", "red")


def test_a_tfds_feature_that_is_missing_is_named(train, tfds_dir, tmp_path):
    words = ["--data.name", "squares", "--data.dir", tfds_dir, "--run-dir", tmp_path / "run"]
    error = train("tfds", *words, "--data.caption-key", "title").error
    assert "has no caption feature 'title'; it has: captions/text" in error
    assert not (tmp_path / "run").exists()


def test_scenes_have_captions_and_at_level_single_classes():
    data = opened(ScenesConfig(size=16, count=64, validation_count=8))
    assert isinstance(data.train, ArraySource) and data.info.condition == "text"
    assert (len(data.train), len(data.validation), data.info.channels) == (64, 8, 3)
    assert {"red", "cube"} <= set(data.info.vocabulary) and data.fixed_views


def test_no_image_is_both_trained_on_and_held_out(photographs):
    data = opened(FolderConfig(path=str(photographs / "flat"), size=16, crop="centre"))
    train, held_out = (
        {image.tobytes() for image in source.read(range(len(source)))["image"]}
        for source in (data.train, data.validation)
    )
    assert len(train) + len(held_out) == 10 and not train & held_out


def written(folder, files):
    """Six grey images in a folder with other files, given by their names and texts."""
    for i in range(6):
        (folder / "images").mkdir(exist_ok=True)
        Image.new("L", (16, 16), 40 * i).save(folder / "images" / f"{i}.png")
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / "images"


def test_the_words_of_all_captions_of_an_image_are_known(tmp_path):
    lines = '{"file": "0.png", "caption": ["one", "two"]}\n{"file": "1.png", "caption": null}\n'
    lines += "".join(f'{{"file": "{i}.png", "caption": "x"}}\n' for i in range(2, 6))
    path = written(tmp_path, {"images/captions.jsonl": lines})
    data = FolderConfig(path=str(path), size=8, crop="centre", validation=0.01)
    seeds = range(8)  # with some of them the first image is trained on
    words = {open_data(data, DiffusionStage(), seed).info.vocabulary for seed in seeds}
    assert ("one", "two", "x") in words and not any("none" in word for word in words)


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (
            {"images/0.txt": "caf\xe9".encode("cp1252")},
            "",
            "0.txt cannot be read: not text in UTF-8",
        ),
        ({f"images/{i}.txt": "🔴" for i in range(6)}, "", "the captions have no words"),
        ({f"images/{i}.txt": "" for i in range(6)}, "", "are all empty"),
        (
            {f"labels/{i}.txt": "0 12 10 6 6" for i in range(6)},
            "--data.boxes {}/labels --diffusion.condition layout",
            "no usable box for any of the images",
        ),
        ({}, "--diffusion.objects 31", "objects is 31; it must be at most 30"),
        ({}, "--data.path {}/nowhere", "nowhere does not exist"),
    ],
)
def test_files_that_cannot_be_trained_on_end_in_one_line_before_a_run(
    train_tiny, tmp_path, files, options, message
):
    path = written(tmp_path, files)
    words = options.format(tmp_path).split()
    ended = train_tiny("folder", "--data.path", path, "--run-dir", tmp_path / "run", *words)
    assert message in ended.error and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name, start", [("folder", "scenes-64"), ("tfds", "scenes")])
def test_the_networks_on_own_data_are_those_of_scenes(name, start):
    """So that --init-from can start from a model of scenes; dropout changes no weights."""
    own, scenes = EXPERIMENTS[name](), EXPERIMENTS[start]()
    assert own.autoencoder.network == scenes.autoencoder.network
    assert replace(own.diffusion.unet, dropout=0.0) == scenes.diffusion.unet
    assert own.diffusion.text == scenes.diffusion.text
