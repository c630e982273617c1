"""Which folders are splits and which are classes."""

import pytest

from ldm_jax.data.splits import layout_of
from ldm_jax.errors import UserError


def images(*folders):
    return [f"{folder}/{i}.png".lstrip("/") for folder in folders for i in range(2)]


def tops(*folders):
    return tuple(layout_of(images(*folders), "DATA").tops.values())


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("train", "val"),
        ("train", "valid"),
        ("Train", "Val"),
        ("TRAIN", "TEST"),
        ("training", "validation"),
        ("train", "dev"),
        ("train2017", "val2017"),
        ("training_set", "test_set"),
        ("train-images", "test-images"),
        ("seg_train", "seg_test"),
        ("asl_alphabet_train", "asl_alphabet_test"),
        ("train", "evaluation"),
        ("train", "held_out"),
        ("train_hq", "val_hq"),
        ("DIV2K_train_HR", "DIV2K_valid_HR"),
        ("ISIC_2019_Training_Input", "ISIC_2019_Test_Input"),
    ],
)
def test_folders_called_like_splits_are_splits_in_any_case(train, held_out):
    layout = layout_of(images(f"{train}/cat", f"{train}/dog", f"{held_out}/cat"), "DATA")
    assert layout.has_splits and not layout.remarks
    assert layout.tops == {"train": f"{train}/", "validation": f"{held_out}/"}
    assert set(layout.class_of.values()) == {"cat", "dog"}


def test_validation_comes_before_test_and_what_is_in_neither_is_said():
    layout = layout_of(images("train", "test", "valid", "masks"), "DATA")
    assert layout.tops == {"train": "train/", "validation": "valid/"}
    assert layout.remarks == ("4 images in neither split are not used, in masks, test",)


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["images/train", "images/val"], ("images/train/", "images/val/")),
        (["train/images", "valid/images"], ("train/", "valid/")),
        (["a/training_set/training_set/cat", "a/training_set/training_set/dog", "a/test_set/cat"],
         ("a/training_set/training_set/", "a/test_set/")),
    ],
)  # fmt: skip
def test_folders_between_are_passed_through(folders, expected):
    assert tops(*folders) == expected
    assert set(layout_of(images(*folders), "DATA").class_of.values()) <= {"", "cat", "dog"}


@pytest.mark.parametrize("folder", ["train", "data/Training"])
def test_a_split_for_training_alone_is_no_class(folder):
    layout = layout_of(images(folder), "DATA")
    assert layout.tops == dict.fromkeys(["train", "validation"], f"{folder}/")
    assert set(layout.class_of.values()) == {""} and f"in {folder}: a part" in layout.remarks[0]
    layout = layout_of(images(f"{folder}/cat", f"{folder}/dog"), "DATA")
    assert set(layout.class_of.values()) == {"cat", "dog"}


@pytest.mark.parametrize("folder", ["val", "Test", "images/test"])
def test_a_held_out_split_alone_is_refused_with_the_way_out(folder):
    with pytest.raises(UserError, match=f"--data.path DATA/{folder}$"):
        layout_of(images(folder), "DATA")


@pytest.mark.parametrize(
    "folders", [["val", "test"], ["train", "Training"], ["dev", "valid"], ["val_hq", "test_hq"]]
)
def test_folders_that_are_all_called_like_splits_are_no_classes(folders):
    with pytest.raises(UserError, match="called like splits"):
        layout_of(images(*folders), "DATA")


@pytest.mark.parametrize(
    "folders",
    [
        *(["train", "Train", "val"], ["train", "val", "valid"]),
        *(["trainA", "trainB", "testA", "testB"], ["a_train", "a_test", "b_train", "b_test"]),
        ["train_HR", "valid_HR", "train_LR", "valid_LR"],
    ],
)
def test_two_folders_for_one_split_are_refused(folders):
    with pytest.raises(UserError, match="could both be the same split"):
        layout_of(images(*folders), "DATA")


@pytest.mark.parametrize("folder", ["train", "test"])
def test_a_class_called_like_a_split_is_said(folder):
    layout = layout_of(images("bus", "car", folder), "DATA")
    assert set(layout.class_of.values()) == {"bus", "car", folder} and not layout.has_splits
    assert layout.remarks == (f"{folder}: a class, as there is no split without another",)


def test_classes_that_only_end_like_a_split_are_classes():
    layout = layout_of(images("steam_train", "express train", "crash test site"), "DATA")
    assert len(set(layout.class_of.values())) == 3 and not layout.remarks


def test_of_two_pairs_the_plain_one_is_the_split():
    layout = layout_of(images("train", "train_masks", "test", "test_masks"), "DATA")
    assert layout.tops == {"train": "train/", "validation": "test/"}
    assert layout.remarks == ("4 images in neither split are not used, in test_masks, train_masks",)


def test_classes_that_only_held_out_images_have_are_said():
    layout = layout_of(images("train/cat", "train/dog", "val/cat", "val/cow"), "DATA")
    assert layout.remarks == ("classes without an image to train on: cow",)


def test_splits_within_classes_are_said():
    layout = layout_of(images("cat/train", "cat/test", "dog/train"), "DATA")
    assert set(layout.class_of.values()) == {"cat", "dog"}
    assert layout.remarks == ("splits within classes are not read as splits: test, train",)


def test_held_out_images_without_classes_do_not_judge_a_model_of_classes():
    layout = layout_of(images("train/cat", "train/dog", "test"), "DATA")
    assert layout.tops == dict.fromkeys(["train", "validation"], "train/")
    assert "test/ are in no class folders and not used" in layout.remarks[0]


def test_a_flat_folder_and_folders_of_classes():
    assert set(layout_of(images(""), "DATA").class_of.values()) == {""}
    assert set(layout_of(images("b", "a/deep"), "DATA").class_of.values()) == {"a", "b"}
    assert set(layout_of(images("a"), "DATA").class_of.values()) == {""}  # one folder: no class
