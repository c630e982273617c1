"""Scores by hand; reports stand between ceiling and floor; scenes are told from other images."""

import numpy as np
import pytest

from ldm_jax.data.scenes import CLASS_NAMES, ScenesConfig, ScenesSource
from ldm_jax.errors import UserError
from ldm_jax.evaluation import scene_reports
from ldm_jax.evaluation.scene_captions import parse_caption
from ldm_jax.evaluation.scene_objects import DetectedObject
from ldm_jax.evaluation.scene_reports import (
    Seen,
    box_iou,
    box_report,
    caption_report,
    caption_scores,
    derangement,
    mean_iou,
    right_captions,
    scores_by_count,
    see,
    semantic_report,
    true_captions,
    validity,
)

COUNT = 64


@pytest.fixture(scope="module", params=[(32, "full"), (64, "full"), (32, "pair")])
def data(request):
    size, level = request.param
    extras = ("semantic", "boxes")
    config = ScenesConfig(size, level, validation_count=COUNT)
    source = ScenesSource(config, "validation", 77, extras)
    return source.read(range(COUNT))


def half_wrong(values):
    """Every second condition belongs to another image."""
    wrong = np.array(values)
    wrong[::2] = wrong[derangement(COUNT)][::2]
    return wrong


def test_mean_iou_by_hand():
    truth = np.array([[0, 0, 1], [1, 1, 2]])
    seen = np.array([[0, 1, 1], [1, 2, 2]])
    # 0: 1 of 2; 1: 2 of 4; 2: 1 of 2; 3 and 4 occur nowhere.
    assert mean_iou(seen, truth, 5) == pytest.approx((1 / 2 + 2 / 4 + 1 / 2) / 3)
    assert mean_iou(truth, truth, 3) == 1.0
    # A class that is seen but not there counts as 0; sums run over the set, not over images.
    assert mean_iou(np.array([3, 3]), np.array([0, 3]), 4) == pytest.approx((0 + 1 / 2) / 2)
    a, b = np.array([[0, 0], [0, 1]]), np.array([[0, 0], [1, 1]])
    assert mean_iou(a, b, 2) == pytest.approx((2 / 3 + 1 / 2) / 2)


@pytest.mark.parametrize(
    ("seen", "truth", "match"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), "one shape"),
        (np.zeros((0, 3), int), np.zeros((0, 3), int), "at least one pixel"),
        (np.array([0]), np.array([6]), "from 0 to 5"),
        (np.array([-1]), np.array([0]), "from 0 to 5"),
    ],
)
def test_maps_that_cannot_be_compared_are_refused(seen, truth, match):
    with pytest.raises(UserError, match=match):
        mean_iou(seen, truth, 6)


def test_box_iou_by_hand():
    assert box_iou((0, 0, 1, 1), (0, 0, 1, 1)) == 1.0
    assert box_iou((0, 0, 0.5, 1), (0.25, 0, 0.75, 1)) == pytest.approx(1 / 3)
    assert box_iou((0, 0, 0.5, 1), (0.5, 0, 1, 1)) == 0.0
    assert box_iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0.0


def thing(name, box=(0.2, 0.2, 0.4, 0.4), *, x=0.0, material="matte", sound=5.0):
    colour, shape = name.split()
    return DetectedObject(shape, colour, "small", material, box, 100, 0.9, sound, x, 5.0, 0.5, 0.8)


def test_the_score_of_boxes_by_hand():
    ball, cone = CLASS_NAMES.index("red ball"), CLASS_NAMES.index("pink cone")
    found = [[thing("red ball"), thing("pink cone", (0.5, 0.5, 0.9, 0.9))], []]
    asked = [[(ball, (0.2, 0.2, 0.4, 0.35)), (ball, (0.7, 0.7, 0.9, 0.9))], [(cone, (0, 0, 1, 1))]]
    score = scene_reports._box_score(found, asked)
    assert score == {
        "iou": pytest.approx(0.75 / 3),
        "found": pytest.approx(1 / 3),
        "named": pytest.approx(1 / 3),
        "precision": pytest.approx(1 / 2),  # the ball; no cone was asked for
    }
    assert set(scene_reports._box_score([[]], [[]]).values()) == {0.0}
    # An object that barely touches its box is there, and in the wrong place.
    aside = scene_reports._box_score([found[0][:1]], [[(ball, (0.39, 0.2, 0.8, 0.9))]])
    assert aside["named"] == 1.0 and 0 < aside["iou"] < 0.05 and aside["found"] == 0.0


def test_an_object_that_is_not_sound_is_in_no_box():
    ball, box = CLASS_NAMES.index("red ball"), (0.2, 0.2, 0.4, 0.4)
    score = scene_reports._box_score([[thing("red ball", box, sound=-6.0)]], [[(ball, box)]])
    assert set(score.values()) == {0.0}


def test_the_score_of_captions_by_hand():
    asked = [
        parse_caption("a small shiny red ball left of a small red ball at night"),
        parse_caption("a large pink cone next to a small white cube"),
        parse_caption("a small green cylinder"),
        parse_caption("a blue ball on a wooden floor"),
        parse_caption("a green ball"),
    ]
    seen = [
        Seen([thing("red ball", x=-1.0), thing("red ball", x=1.0)], "plain", "night"),
        Seen([thing("pink cone")], "plain", "day"),
        Seen([thing("green cylinder"), thing("blue ball")], "plain", "day"),
        Seen([thing("blue ball")], "wooden", "day"),
        Seen([thing("green ball", sound=-6.0)], "plain", "day"),
    ]
    assert scene_reports._caption_score(seen, asked) == {
        # The first is not shiny, the second lacks a cube, the third has a ball too many, the last
        # does not look like a ball.
        "whole": pytest.approx(1 / 5),
        "objects": pytest.approx(5 / 7),
        "recognised": pytest.approx(6 / 7),
        "shape": pytest.approx(5 / 7),
        "colour": pytest.approx(6 / 7),
        "size": pytest.approx(3 / 5),
        "material": 0.0,
        "relation": pytest.approx(1 / 2),
        "floor": 1.0,
        "sky": 1.0,
    }
    nothing = scene_reports._caption_score([Seen([], "plain", "day")] * 5, asked)
    assert set(nothing.values()) == {0.0}


def test_semantic_reports_stand_between_ceiling_and_floor(data):
    image, maps = data["image"], data["semantic"]
    report = semantic_report(image, half_wrong(maps), image)
    assert semantic_report(image, maps, image)["samples"]["mean_iou"] >= 0.82
    assert 0.3 <= report["samples"]["mean_iou"] <= 0.75
    assert report["floor"]["mean_iou"] <= 0.45
    assert report["floor"]["pixels"] < report["samples"]["pixels"]
    assert semantic_report(image, maps, image)["ceiling"]["pixels"] >= 0.97


def test_box_reports_stand_between_ceiling_and_floor(data):
    image = data["image"]
    right = box_report(image, data["boxes"], data["box_labels"], image)
    assert right["samples"] == right["ceiling"]
    assert right["ceiling"]["iou"] >= 0.75
    assert right["ceiling"]["found"] >= 0.82
    assert right["ceiling"]["precision"] >= 0.78
    assert right["floor"]["iou"] <= 0.1 and right["floor"]["found"] <= 0.05
    mixed = box_report(half_wrong(image), data["boxes"], data["box_labels"], image)
    assert 0.3 <= mixed["samples"]["found"] <= 0.7
    assert mixed["ceiling"] == right["ceiling"]


def test_caption_reports_stand_between_ceiling_and_floor(data):
    image, captions = data["image"], data["caption"]
    report = caption_report(image, half_wrong(captions), image, captions)
    assert report["ceiling"] == caption_scores(image, captions)
    assert report["ceiling"]["objects"] >= 0.84
    assert report["ceiling"]["whole"] >= 0.6
    assert report["ceiling"]["relation"] >= 0.8
    assert 0.35 <= report["samples"]["objects"] <= 0.7
    assert report["floor"]["objects"] <= 0.15 and report["floor"]["whole"] <= 0.05
    assert caption_report(image, half_wrong(captions), image, captions) == report


def test_scores_stand_apart_by_the_number_of_objects(data):
    image, captions = data["image"], data["caption"]
    found, whole = scores_by_count(see(image), captions), caption_scores(image, captions)
    counts = [len(parse_caption(text).objects) for text in captions]
    assert {count: one["images"] for count, one in found.items()} == dict(
        zip(*np.unique(counts, return_counts=True), strict=True)
    )
    mean = sum(one["whole"] * one["images"] for one in found.values()) / len(image)
    np.testing.assert_allclose(mean, whole["whole"])
    assert "relation" not in found[1] and "relation" in found[2]


def test_a_true_caption_may_leave_things_out(data):
    """Which a right one may not, as to objects."""
    image = data["image"]
    names = [parse_caption(text).objects for text in data["caption"]]
    first = [f"a {one[0].colour} {one[0].shape}" for one in names]
    true, right = true_captions(image, first), right_captions(image, first)
    several = np.array([len(one) > 1 for one in names])
    assert true.mean() >= 0.8 and right[several].mean() <= 0.2
    np.testing.assert_array_equal(true[~several] >= right[~several], True)
    assert true_captions(image, first[1:] + first[:1]).mean() <= 0.3


@pytest.mark.slow
def test_renders_are_valid_and_other_images_are_not(data):
    image = data["image"]
    rng = np.random.default_rng(0)
    n, side = image.shape[:2]
    proper = validity(image)
    assert proper.shape == (n,) and set(np.unique(proper)) <= {0.0, 1.0}
    assert proper.mean() >= 0.8
    noise = rng.integers(0, 256, image.shape, dtype=np.uint8)
    blend = ((image.astype(int) + image[derangement(n)]) // 2).astype(np.uint8)
    k = side // 4
    patches = image.reshape(n, 4, k, 4, k, 3).transpose(0, 1, 3, 2, 4, 5).reshape(n, 16, k, k, 3)
    patches = patches[:, rng.permutation(16)].reshape(n, 4, 4, k, k, 3)
    shuffled = patches.transpose(0, 1, 3, 2, 4, 5).reshape(image.shape)
    upside_down = image[:, ::-1]
    for name, wrong in [
        ("noise", noise),
        ("one grey", np.full_like(image, 128)),
        ("shuffled", shuffled),
        ("upside down", upside_down),
    ]:
        assert validity(wrong).mean() <= 0.3, name
    assert validity(blend).mean() <= 0.55
    assert validity(image[:0]).shape == (0,)


def test_others_are_all_conditions_but_never_ones_own():
    for n in (2, 3, 50):
        assert sorted(derangement(n)) == list(range(n))
        assert (derangement(n) != np.arange(n)).all()
        assert np.array_equal(derangement(n), derangement(n))
    assert derangement(1).tolist() == [0]


def test_what_cannot_be_reported_is_said():
    image = np.zeros((2, 32, 32, 3), np.uint8)
    maps = np.zeros((2, 32, 32), np.uint8)
    boxes, labels = np.zeros((2, 4, 4)), np.full((2, 4), -1)
    captions = ["a red ball", "a red ball"]
    with pytest.raises(UserError, match="2 images"):
        semantic_report(image, maps[:1], image[:1])
    with pytest.raises(UserError, match="1 true renders"):
        box_report(image, boxes, labels, image[:1])
    with pytest.raises(UserError, match="layouts are"):
        box_report(image, boxes, labels[:, :3], image)
    with pytest.raises(UserError, match="at least one"):
        caption_report(image[:0], [], image[:0], [])
    with pytest.raises(UserError, match="says nothing of a scene"):
        caption_report(image, ["a red ball", "a horse"], image, captions)
    # No object at all is a score of nothing, not an error.
    report = caption_report(image, captions, image, captions)
    assert report["samples"]["objects"] == 0.0
    assert box_report(image, boxes, labels, image)["samples"]["iou"] == 0.0
