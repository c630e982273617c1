"""TFDS sets, read from their folders without TensorFlow."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.loader import Loader, flip
from ldm_jax.data.source import ArraySource, read_all
from ldm_jax.data.tfds import TfdsConfig, TfdsSource, find_prepared, prepare_command, split_names
from ldm_jax.data.tfds_features import BoxFeature
from ldm_jax.errors import UserError

N = 8


def opened(name, split, dir, size, **fields) -> TfdsSource:
    return TfdsSource(TfdsConfig(name=name, dir=str(dir), size=size, **fields), split)


def png(value: int, size: tuple[int, int], mode: str) -> bytes:
    file = io.BytesIO()
    Image.new("L", size, value).convert(mode).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    """Two tiny sets: 'tiny' with everything a source can read, 'grey' with images alone."""
    import tensorflow_datasets as tfds

    of = tfds.features

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            features = {
                "image": of.Image(shape=(None, None, 3)),
                "mask": of.Image(shape=(None, None, 1)),
                "label": of.ClassLabel(names=["ant", "bee"]),
                "number": of.ClassLabel(num_classes=N),
                "caption": of.Text(),
                "image/name": of.Text(),
                "titles": of.Sequence(of.Text()),
                "captions": of.Sequence({"text": of.Text(), "id": np.int64}),
            }
            return tfds.core.DatasetInfo(builder=self, features=of.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {
                "train": self._generate_examples(0, N),
                "test": self._generate_examples(N, N + 2),
                "broken": self._generate_examples(0, 1, png=lambda *_: b"junk"),
            }

        def _generate_examples(self, start, stop, png=png):
            for i in range(start, stop):
                titles = [f"title {i} {k}" for k in range(i % 3)]
                yield (
                    i,
                    {
                        "image": png(10 * i, (20 + i, 12), "RGB"),
                        "mask": png(255, (4, 4), "L"),
                        "label": i % 2 if start == 0 else -1,
                        "number": i % N,
                        "caption": f"número {i}\n",
                        "image/name": f"{i}.png",
                        "titles": titles,
                        "captions": [{"text": f"text {i} {k}", "id": k} for k in range(3)],
                    },
                )

    class Grey(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("small", "large")]

        def _info(self):
            features = of.FeaturesDict({"image": of.Image(shape=(28, 28, 1))})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield 0, {"image": Image.fromarray(np.pad(np.full((20, 20), 200, np.uint8), 4))}

    root = tmp_path_factory.mktemp("tfds")
    offline = tfds.download.DownloadConfig(try_download_gcs=False)
    for make, config in ((Tiny, None), (Grey, "small"), (Grey, "large")):
        builder = make(config=config, data_dir=root, file_format="array_record")
        builder.download_and_prepare(download_config=offline)
    return root


def tiny(sets, split="train", **options):
    return opened("tiny", split, sets, 8, **options)


def number(batch) -> list[int]:
    """Which examples these are, by their images."""
    return (batch["image"][:, 4, 4, 0] // 10).tolist()


def test_images_labels_and_captions_belong_together(sets):
    source = tiny(sets)
    batch = source.read([3, 0, 0, 7])
    i = number(batch)
    assert batch["image"].shape == (4, 8, 8, 3) and batch["image"].dtype == np.uint8
    assert batch["class_label"].tolist() == [k % 2 for k in i]
    assert batch["class_label"].dtype == np.int32 and batch["caption"].dtype == object
    np.testing.assert_array_equal(source.labels([3, 0, 0, 7]), batch["class_label"])
    assert batch["caption"].tolist() == [f"número {k}" for k in i]
    assert i[1] == i[2] and len(set(i)) == 3
    assert (len(source), source.channels, source.class_names) == (N, 3, ("ant", "bee"))


def test_each_example_is_there_once(sets):
    assert sorted(number(tiny(sets).read(range(N)))) == list(range(N))


@pytest.mark.parametrize(("split", "count"), [("train[:50%]", 4), ("train[6:]", 2)])
def test_parts_of_a_split(sets, split, count):
    assert len(tiny(sets, split)) == count


def test_split_names(sets):
    assert split_names("tiny", str(sets)) == ("broken", "test", "train")
    assert split_names("grey/large:1.0.0", str(sets)) == ("train",)
    with pytest.raises(UserError, match="cifar10"):
        split_names("cifar10", str(sets))


def test_other_features_can_be_named(sets):
    source = tiny(sets, image_key="mask", label_key="number", caption_key="image/name")
    batch = source.read(range(N))
    assert batch["image"].shape == (N, 8, 8, 1) and (batch["image"] == 255).all()
    assert batch["caption"].tolist() == [f"{i}.png" for i in batch["class_label"]]
    assert source.class_names == tuple(map(str, range(N)))


def test_features_can_be_left_out_and_default_ones_may_be_missing(sets):
    assert tiny(sets, label_key="", caption_key="").read([0]).keys() == {"image"}
    grey = opened("grey/small", "train", sets, 32, fit="pad")
    assert grey.read([0]).keys() == {"image"} and grey.class_names is None
    image = np.pad(np.full((20, 20), 200, np.uint8), 6)
    np.testing.assert_array_equal(grey.read([0])["image"][0, ..., 0], image)
    assert grey.channels == 1


@pytest.mark.parametrize(
    ("key", "word", "several"), [("captions/text", "text", 3), ("titles", "title", 2)]
)
def test_one_of_several_captions_is_drawn(sets, key, word, several):
    source = tiny(sets, caption_key=key, label_key="number")
    batch = source.read(range(N))
    first = [
        "" if key == "titles" and i % 3 == 0 else f"{word} {i} 0" for i in batch["class_label"]
    ]
    assert batch["caption"].tolist() == first
    i = batch["class_label"].tolist().index(2)
    drawn = {source.read([i], [np.random.default_rng(k)])["caption"][0] for k in range(30)}
    assert drawn == {*source.texts([i])[0]} == {f"{word} 2 {k}" for k in range(several)}
    assert read_all(source) is source


def test_read_all_gives_the_same_examples(sets):
    source = tiny(sets)
    kept = read_all(source)
    assert isinstance(kept, ArraySource) and kept.class_names == source.class_names
    for key, array in source.read(range(N)).items():
        np.testing.assert_array_equal(kept.read(range(N))[key], array)


def test_random_crops_depend_on_the_generator_alone(sets):
    source = tiny(sets, crop="random", min_crop=0.5, image_key="image")
    rngs = lambda: [np.random.default_rng(i) for i in range(N)]  # noqa: E731
    a, b = source.read(range(N), rngs()), source.read(range(N), rngs())
    np.testing.assert_array_equal(a["image"], b["image"])
    assert source.is_random and read_all(source) is source and not tiny(sets).is_random


def test_a_split_without_labels_says_so(sets):
    with pytest.raises(UserError, match="no labels"):
        tiny(sets, "test").read([0])
    assert "class_label" not in tiny(sets, "test", label_key="").read([0])


@pytest.mark.parametrize(
    ("options", "there"),
    [
        ({"image_key": "photo"}, "image, mask"),
        ({"image_key": "label"}, "image, mask"),
        ({"label_key": "class"}, "label, number"),
        ({"caption_key": "text"}, "caption, captions/text, image/name, titles"),
        ({"split": "validation"}, r"train \(8\)"),
        ({"split": "train[9:12]"}, r"test \(2\)"),
        ({"split": "train[3:"}, "train"),
        ({"fit": "squash"}, "stretch"),
    ],
)
def test_what_is_missing_is_named_with_what_there_is(sets, options, there):
    with pytest.raises(UserError, match=there):
        tiny(sets, **options)


def test_a_missing_set_names_the_folder_and_a_command_that_prepares_it(sets):
    with pytest.raises(UserError) as error:
        opened("cifar10", "train", sets, 32)
    message = str(error.value)
    assert str(sets) in message and "grey, tiny" in message and "\n" not in message
    assert prepare_command("cifar10", str(sets)) in message
    code = prepare_command("cifar10", "D").split('python -c "')[1].removesuffix('"')
    compile(code, "command", "exec")
    assert "'cifar10', data_dir='D', file_format='array_record'" in code


def test_the_command_for_a_stock_set_names_a_set_that_tfds_knows(tmp_path):
    import tensorflow_datasets as tfds

    builder = tfds.builder("mnist", data_dir=tmp_path, file_format="array_record")
    assert builder.info.file_format is tfds.core.FileFormat.ARRAY_RECORD


def test_versions_and_configurations_are_found(sets, tmp_path):
    assert find_prepared("tiny", sets).name == find_prepared("tiny:1.2.0", sets).name == "1.2.0"
    shutil.copytree(sets, tmp_path, dirs_exist_ok=True)
    for version in ("1.10.0", "1.9.0"):
        shutil.copytree(sets / "tiny" / "1.2.0", tmp_path / "tiny" / version)
    assert (
        find_prepared("tiny", tmp_path).name == "1.10.0"
        and find_prepared("tiny:1.2.0", tmp_path).name == "1.2.0"
    )
    assert find_prepared("grey/large:1.0.0", sets) == find_prepared("grey/large", sets)
    with pytest.raises(UserError, match="grey/large, grey/small"):
        find_prepared("grey", sets)
    with pytest.raises(UserError, match="3.0.0.*1.2.0"):
        find_prepared("tiny:3.0.0", sets)
    with pytest.raises(UserError, match="empty"):
        find_prepared("", sets)
    with pytest.raises(UserError, match="paths that begin with nowhere:// are not known"):
        find_prepared("tiny", "nowhere://bucket/sets")
    shutil.rmtree(tmp_path / "grey" / "small")
    assert find_prepared("grey", tmp_path).parent.name == "large"


def test_a_set_prepared_as_tfrecord_is_to_be_prepared_again(sets, tmp_path):
    shutil.copytree(sets, tmp_path, dirs_exist_ok=True)
    info = tmp_path / "tiny" / "1.2.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="as tfrecord.*file_format='array_record'"):
        tiny(tmp_path)


def test_a_half_copied_set_is_refused(sets, tmp_path):
    shutil.copytree(sets, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tiny" / "1.2.0" / "features.json").unlink()
    with pytest.raises(UserError, match="cannot be opened"):
        tiny(tmp_path)


def test_a_damaged_image_is_an_error_that_names_the_set(sets):
    source = tiny(sets, "broken")
    with pytest.raises(UserError, match="tiny/1.2.0"):
        source.read([0])


def test_tensorflow_is_never_imported(sets):
    code = (
        "import sys; from ldm_jax.data.tfds import TfdsConfig, TfdsSource; import json;"
        "early = [m for m in ('tensorflow_datasets', 'jax') if m in sys.modules];"
        f"TfdsSource(TfdsConfig(name='tiny', dir={str(sets)!r}, size=8)).read([0, 1]);"
        "print(json.dumps([early, 'tensorflow' in sys.modules, 'jax' in sys.modules]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == [[], False, False]


def as_png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def placed(tmp_path_factory) -> str:
    """A set with boxes and maps: images whose red is 10 * class, green a white rectangle.

    'one' has one feature of boxes, 'two' has another, 'bare' has boxes without labels.
    """
    import tensorflow_datasets as tfds

    of = tfds.features

    class Placed(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("one", "two", "bare")]

        def _info(self):
            things = {"bbox": of.BBoxFeature(), "label": of.ClassLabel(names=["cat", "wall"])}
            things["is_crowd"] = np.bool_
            image = of.Image(shape=(None, None, 3))
            if self.builder_config.name == "bare":
                features = {"image": image, "faces": of.Sequence(of.BBoxFeature())}
                return tfds.core.DatasetInfo(builder=self, features=of.FeaturesDict(features))
            features = {
                "image": image,
                "objects": of.Sequence(things),
                "segmentation_mask": of.Image(shape=(None, None, 1)),
                "named": of.LabeledImage(labels=[f"kind {i}" for i in range(20)]),
                "small": of.Image(shape=(None, None, 1)),
            }
            if self.builder_config.name == "two":
                features["whole"] = of.BBoxFeature()
                features["label"] = of.ClassLabel(names=["x", "y", "z"])
            return tfds.core.DatasetInfo(builder=self, features=of.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {
                "train": self._generate_examples(0, 6, 19),
                "test": self._generate_examples(6, 7, 12),
            }

        def _generate_examples(self, start, stop, highest):
            for i in range(start, stop):
                semantic = np.random.default_rng(i).integers(0, highest, (40, 60), np.uint8)
                semantic[0, 0] = highest
                image = np.zeros((40, 60, 3), np.uint8)
                image[..., 0] = semantic * 10
                image[10:30, 15 + i : 45, 1] = 255
                box = tfds.features.BBox(ymin=0.25, xmin=(15 + i) / 60, ymax=0.75, xmax=0.75)
                all_of_it = tfds.features.BBox(ymin=0.0, xmin=0.0, ymax=1.0, xmax=1.0)
                if self.builder_config.name == "bare":
                    yield i, {"image": as_png(image), "faces": [box, all_of_it][: i % 3]}
                    continue
                objects = [
                    {"bbox": all_of_it, "label": 0, "is_crowd": True},
                    {"bbox": box, "label": 1, "is_crowd": False},
                    {"bbox": all_of_it, "label": -1, "is_crowd": False},
                ]
                example = {
                    "image": as_png(image),
                    "objects": objects,
                    "small": as_png(semantic[:9]),
                }
                example |= dict.fromkeys(("segmentation_mask", "named"), as_png(semantic))
                if self.builder_config.name == "two":
                    example |= {"whole": all_of_it, "label": 2}
                yield i, example

    root = tmp_path_factory.mktemp("placed")
    offline = tfds.download.DownloadConfig(try_download_gcs=False)
    for config in ("one", "two", "bare"):
        builder = Placed(config=config, data_dir=root, file_format="array_record")
        builder.download_and_prepare(download_config=offline)
    return str(root)


def test_boxes_and_maps_agree_with_the_image_under_random_crops_and_flips(placed):
    # Crops of 24 pixels, which is 0.6 of the short side, are not resized: all is exact.
    options = {"crop": "random", "min_crop": 0.6, "max_crop": 0.6, "map_key": "segmentation_mask"}
    source = opened("placed/one", "train", placed, 24, **options)
    assert source.box_names == ("cat", "wall") and source.semantic_names == tuple(
        map(str, range(20))
    )
    batch = Loader(source, 36, 0, transform=flip).batch(0)
    np.testing.assert_array_equal(batch["image"][..., 0], batch["semantic"] * 10)
    assert batch["semantic"].dtype == np.uint8 and len(np.unique(batch["crop"][:, 0])) > 20
    for image, labels, boxes, crop in zip(
        *(batch[key] for key in ("image", "box_labels", "boxes", "crop")), strict=True
    ):
        assert labels.tolist() == [1] + [-1] * 29
        rows, columns = np.nonzero(image[..., 1])
        shown = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        side = np.array([60, 40, 60, 40])
        whole = np.clip(boxes[0] * side, (crop * side)[[0, 1, 0, 1]], (crop * side)[[2, 3, 2, 3]])
        np.testing.assert_allclose(whole - (crop * side)[[0, 1, 0, 1]], shown, atol=1e-4)


def test_boxes_that_are_left_out_are_counted_and_the_first_is_named(placed, caplog):
    opened("placed/one", "train", placed, 8)
    (said,) = [text for text in caplog.messages if "left out" in text]
    assert "12 of 18 boxes are left out: 12 x no class, or a crowd" in said
    assert said.endswith("the first is box 0 of example 0: no class, or a crowd")


def test_a_box_is_left_out_for_a_reason():
    feature = BoxFeature("box", "label", "", ("object",))
    rows = [[0, 0, 1, 1], [0.5, 0.5, 0.5, 0.9], [2, 2, 3, 3], [0, 0, np.nan, 1], [0, 0, 1, 1]]
    example = {"box": rows, "label": [0, 0, 0, 0, -1]}
    empty = "no area in the image"
    assert feature.faults(example) == ["", empty, empty, "not finite", "no class, or a crowd"]
    assert len(feature.read(example).labels) == 1
    assert feature.faults({"box": [], "label": []}) == []


def test_the_only_feature_of_boxes_is_found_and_another_can_be_named(placed):
    keys = {"image", "boxes", "box_labels", "crop"}
    assert opened("placed/one", "train", placed, 8).read([0]).keys() == keys
    none = opened("placed/one", "train", placed, 8, boxes_key="")
    assert none.read([0]).keys() == {"image"} and none.box_names is None
    two = opened("placed/two", "train", placed, 8)
    assert two.read([0]).keys() == {"image", "class_label"}
    two = opened("placed/two", "train", placed, 8, boxes_key="whole")
    assert two.box_names == ("x", "y", "z") and two.read([0])["box_labels"][0, 0] == 2
    np.testing.assert_array_equal(two.read([0])["boxes"][0, 0], [0, 0, 1, 1])
    bare = opened("placed/bare", "train", placed, 8)
    labels = bare.read(range(6))["box_labels"]
    assert bare.box_names == ("object",) and labels.max() == 0
    assert sorted((labels == 0).sum(axis=1)) == [0, 0, 1, 1, 2, 2]


def test_maps_have_the_names_of_their_feature_or_the_numbers_of_all_splits(placed):
    named = opened("placed/one", "train", placed, 8, map_key="named")
    assert named.semantic_names == tuple(f"kind {i}" for i in range(20))
    test = opened("placed/one", "test", placed, 40, map_key="segmentation_mask")
    assert len(test.semantic_names) == 20 and test.read([0])["semantic"].max() <= 12
    kept = read_all(test)
    assert kept.semantic_names == test.semantic_names and kept.box_names == test.box_names
    np.testing.assert_array_equal(kept.read([0])["semantic"], test.read([0])["semantic"])


@pytest.mark.parametrize(
    ("options", "there"),
    [
        ({"boxes_key": "box"}, "no boxes feature 'box'; it has: objects/bbox"),
        ({"map_key": "mask"}, "no map feature 'mask'; it has: named, segmentation_mask, small"),
        ({"map_key": "image"}, "no map feature"),
    ],
)
def test_missing_boxes_and_maps_are_named_with_what_there_is(placed, options, there):
    with pytest.raises(UserError, match=there):
        opened("placed/one", "train", placed, 8, **options)


def test_a_map_of_another_size_is_refused(placed):
    source = opened("placed/one", "train", placed, 8, map_key="small")
    with pytest.raises(UserError, match="placed/one/1.0.0: a map has 60x9 pixels, .* 60x40"):
        source.read([0])


DATA = Path(os.environ.get("LDM_JAX_TEST_DATA", Path(__file__).parents[3] / "shared/data")) / "tfds"


@pytest.mark.skipif(not (DATA / "mnist").is_dir(), reason="MNIST is not here")
def test_mnist():
    source = opened("mnist", "test", DATA, 32, fit="pad")
    batch = source.read(range(256))
    assert (len(source), source.channels) == (10_000, 1)
    assert source.class_names == tuple("0123456789") and len(set(batch["class_label"])) == 10
    assert batch["image"].shape == (256, 32, 32, 1) and batch["image"][:, :2].max() == 0


@pytest.mark.skipif(not (DATA / "tiny_imagenet").is_dir(), reason="Tiny ImageNet is not here")
def test_a_set_whose_code_tfds_does_not_have():
    source = opened("tiny_imagenet", "validation", DATA, 64)
    batch = source.read([0, 1])
    assert len(source) == 1200 and len(source.class_names) == 24
    assert batch["image"].shape == (2, 64, 64, 3) and all(batch["caption"])


@pytest.mark.skipif(not (DATA / "bccd").is_dir(), reason="the blood cells are not here")
def test_blood_cells():
    source = opened("bccd", "validation", DATA, 240)
    assert source.box_names == ("RBC", "WBC", "Platelets")
    batch = source.read(range(len(source)))
    np.testing.assert_allclose(batch["crop"], [[0.125, 0, 0.875, 1]] * len(source))
    # A white cell's nucleus is the dark violet in the image: far more red than green, and dark.
    inside, outside = [], []
    places = (np.arange(240) + 0.5) / 240
    for boxes, labels, image in zip(
        *(batch[key] for key in ("boxes", "box_labels", "image")), strict=True
    ):
        boxed = np.zeros((240, 240), bool)
        for left, top, right, bottom in boxes[labels == 1]:
            x, y = 0.125 + 0.75 * places[None, :], places[:, None]
            boxed |= (x >= left) & (x < right) & (y >= top) & (y < bottom)
        red, green, blue = np.moveaxis(image.astype(int), -1, 0)
        violet = (blue - green > 40) & (green < 130)
        inside.append(violet[boxed])
        outside.append(violet[~boxed])
    assert np.concatenate(inside).mean() > 0.25 and np.concatenate(outside).mean() < 0.02
