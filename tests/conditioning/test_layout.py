"""Layout tokens: every token by hand, what is kept and in which order, the user's JSON."""

import json

import numpy as np
import pytest

from ldm_jax.conditioning.layout import LayoutTokens
from ldm_jax.errors import UserError

NAMES = ("cat", "dog", "red ball")
THREE = LayoutTokens(NAMES, objects=3)
SMALL = LayoutTokens(NAMES, objects=4, sections=32)
NONE = 8191


def corner(x, y, sections=90):
    """The token of a corner, restated: Python's round, like the original's, is to the even."""
    return round(y * (sections - 1)) * sections + round(x * (sections - 1))


def drawn_boxes(n, m, seed=0):
    """Random boxes [n, m, 4], none of them empty, and labels [n, m] with some -1."""
    rng = np.random.default_rng(seed)
    corners = rng.random((n, m, 2, 2))
    boxes = np.concatenate([corners.min(2) * 0.9, corners.max(2) * 0.9 + 0.1], -1)
    return boxes.astype(np.float32), rng.integers(-1, len(NAMES), (n, m)).astype(np.int32)


def triples_of(tokens):
    """The triples of the objects that are there."""
    return [triple for triple in tokens[:-2].reshape(-1, 3).tolist() if triple[0] != NONE]


def test_the_sizes_are_those_of_table_17():
    published = LayoutTokens(NAMES)
    assert (published.vocabulary, published.length, published.none) == (8192, 92, 8191)
    assert (SMALL.vocabulary, SMALL.length, SMALL.none) == (32 * 32 + 1, 3 * 4 + 2, 1024)


def test_every_token_by_hand():
    boxes = [[[0.1, 0.2, 0.5, 0.9], [0.0, 0.0, 1.0, 1.0], [0.3, 0.3, 0.4, 0.4]]]
    tokens = THREE.encode(boxes, [[1, 2, -1]], crop=[[0.25, 0.0, 0.75, 1.0]])
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [
        [
            # dog; x = 0.1 * 89 = 8.9 -> 9, y = 0.2 * 89 = 17.8 -> 18: 18 * 90 + 9 = 1629;
            # x = 0.5 * 89 = 44.5 -> 44 (the even one), y = 0.9 * 89 = 80.1 -> 80: 7200 + 44 = 7244
            *(1, 1629, 7244),
            # red ball; the first place 0, the last 89 * 90 + 89 = 8099
            *(2, 0, 8099),
            # nothing
            *(8191, 8191, 8191),
            # crop; x = 0.25 * 89 = 22.25 -> 22, y = 0: 22; x = 0.75 * 89 = 66.75 -> 67,
            # y = 89: 89 * 90 + 67 = 8077
            *(22, 8077),
        ]
    ]


def test_without_a_crop_the_whole_image_is_seen():
    tokens = THREE.encode([[[0.1, 0.2, 0.5, 0.9]]], [[1]])
    assert tokens[0, -2:].tolist() == [0, 8099]
    whole = THREE.encode([[[0.1, 0.2, 0.5, 0.9]]], [[1]], crop=[[0, 0, 1, 1]])
    np.testing.assert_array_equal(tokens, whole)


def test_halves_are_rounded_to_even():
    tokens = LayoutTokens(NAMES, objects=1, sections=5)  # places at 0, 0.25, 0.5, 0.75, 1
    for share, place in [(0.125, 0), (0.375, 2), (0.625, 2), (0.875, 4)]:
        encoded = tokens.encode([[[share, 0, 1, 1]]], [[0]])
        assert encoded[0, 1] == place, share
        encoded = tokens.encode([[[0, share, 1, 1]]], [[0]])
        assert encoded[0, 1] == 5 * place, share


@pytest.mark.parametrize("sections", [2, 3, 32, 90])
def test_corners_lie_on_the_grid_in_rows(sections):
    tokens = LayoutTokens(("thing",), objects=30, sections=sections)
    boxes, _ = drawn_boxes(2, 30)
    encoded = tokens.encode(boxes, np.zeros((2, 30), int))
    for row, of_row in zip(encoded, boxes.astype(float), strict=True):
        want = [
            (0, corner(left, top, sections), corner(right, bottom, sections))
            for left, top, right, bottom in of_row
        ]
        assert row[:-2].reshape(-1, 3).tolist() == [list(triple) for triple in want]


def test_objects_come_first_in_their_order_then_none_then_the_crop():
    boxes, _ = drawn_boxes(1, 6)
    labels = [[-1, 2, -1, 0, 1, -1]]
    row = SMALL.encode(boxes, labels)[0]
    assert row[0:9:3].tolist() == [2, 0, 1]  # the classes
    assert row[9:12].tolist() == [SMALL.none] * 3
    assert row[12:].tolist() == [0, 32 * 32 - 1]


def test_an_image_without_objects_still_has_a_crop():
    for boxes, labels in [
        (np.zeros((2, 0, 4)), np.zeros((2, 0))),
        (np.ones((2, 1, 4)), [[-1]] * 2),
    ]:
        tokens = THREE.encode(boxes, labels)
        assert tokens.tolist() == [[NONE] * 9 + [0, 8099]] * 2
    assert THREE.encode(np.zeros((0, 4, 4)), np.zeros((0, 4))).shape == (0, 11)


def test_null_has_no_objects_and_no_crop():
    assert THREE.null.dtype == np.int32 and THREE.null.tolist() == [NONE] * 11
    ((boxes, labels, crop),) = THREE.decode(THREE.null[None])
    assert boxes.shape == (0, 4) and labels.shape == (0,) and crop.tolist() == [0, 0, 1, 1]
    assert THREE.describe(THREE.null[None]) == ["(any layout)"]


def test_with_a_crop_boxes_stay_relative_to_the_whole_image():
    boxes, labels = drawn_boxes(1, 3)
    middle = THREE.encode(boxes, labels, crop=[[0.02, 0.02, 0.98, 0.98]])
    np.testing.assert_array_equal(middle[:, :-2], THREE.encode(boxes, labels)[:, :-2])


def test_objects_outside_the_crop_are_dropped():
    boxes = [
        [[0.0, 0.0, 0.2, 0.2], [0.4, 0.4, 0.7, 0.7], [0.0, 0.0, 0.5, 1.0], [0.1, 0.6, 0.5, 0.9]]
    ]
    row = SMALL.encode(boxes, [[0, 1, 2, 0]], crop=[[0.5, 0.5, 1.0, 1.0]])[0]
    assert row[0] == 1 and (row[3:-2] == SMALL.none).all()  # the last two only touch it


def test_of_too_many_boxes_the_largest_are_kept_in_their_order():
    sides = np.array([0.5, 0.1, 0.3, 0.3, 0.9, 0.3, 0.2])
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], -1)[None]
    tokens = THREE.encode(boxes, [[0, 1, 2, 0, 1, 2, 0]])
    kept = triples_of(tokens[0])
    assert [(label, last) for label, _, last in kept] == [
        (0, corner(0.5, 0.5)), (2, corner(0.3, 0.3)), (1, corner(0.9, 0.9)),
    ]  # fmt: skip
    # Absent objects take no place, however large their boxes are.
    tokens = THREE.encode(boxes, [[0, 1, 2, 0, -1, 2, 0]])
    assert [label for label, *_ in triples_of(tokens[0])] == [0, 2, 0]


def test_thirty_boxes_fit_and_more_are_cut():
    boxes, _ = drawn_boxes(1, 40)
    published = LayoutTokens(NAMES)
    tokens = published.encode(boxes, np.ones((1, 40), int))
    assert tokens.shape == (1, 92) and len(triples_of(tokens[0])) == 30
    sizes = np.prod(boxes[0, :, 2:].astype(float) - boxes[0, :, :2], -1)
    inside = np.sort(sizes)[10:]
    expected = [
        [1, corner(left, top), corner(right, bottom)]
        for (left, top, right, bottom), size in zip(boxes[0].astype(float), sizes, strict=True)
        if size in inside
    ]
    assert triples_of(tokens[0]) == expected


def test_shuffling_moves_whole_objects_and_is_seeded():
    boxes, labels = drawn_boxes(3, 30)
    crop = np.tile([0.1, 0.1, 0.8, 0.9], (3, 1))
    published = LayoutTokens(NAMES)

    def shuffled(seed):
        return published.encode(
            boxes, labels, crop, [np.random.default_rng([seed, i]) for i in range(3)]
        )

    still, moved = published.encode(boxes, labels, crop), shuffled(5)
    np.testing.assert_array_equal(moved, shuffled(5))
    assert (moved != shuffled(6)).any(1).all() and (moved != still).any(1).all()
    for a, b in zip(still, moved, strict=True):
        assert sorted(triples_of(a)) == sorted(triples_of(b))
        count = len(triples_of(a))
        np.testing.assert_array_equal(a[3 * count :], b[3 * count :])  # "none" and the crop stay


def test_a_row_depends_on_its_own_generator_alone():
    boxes, labels = drawn_boxes(4, 10)
    all_four = LayoutTokens(NAMES).encode(
        boxes, labels, None, [np.random.default_rng(i) for i in range(4)]
    )
    alone = LayoutTokens(NAMES).encode(boxes[2:3], labels[2:3], None, [np.random.default_rng(2)])
    np.testing.assert_array_equal(all_four[2:3], alone)


@pytest.mark.parametrize("tokens", [SMALL, LayoutTokens(NAMES)])
def test_decoding_finds_the_boxes_within_half_a_section(tokens):
    boxes, labels = drawn_boxes(5, 4, seed=1)
    crop = np.array([[0.0, 0.05, 0.97, 1.0]] * 5)
    half = 0.5 / (tokens.sections - 1) + 1e-6
    decoded = tokens.decode(tokens.encode(boxes, labels, crop))
    for (found, numbers, seen), box, label in zip(decoded, boxes, labels, strict=True):
        there = label >= 0
        assert found.dtype == np.float32 and numbers.dtype == np.int32
        np.testing.assert_array_equal(numbers, label[there])
        np.testing.assert_allclose(found, box[there], atol=half, rtol=0)
        np.testing.assert_allclose(seen, crop[0], atol=half, rtol=0)


def test_what_lies_on_the_grid_comes_back_exactly():
    boxes, labels = drawn_boxes(5, 4, seed=2)
    once = SMALL.encode(boxes, labels)
    for row, (found, numbers, seen) in zip(once, SMALL.decode(once), strict=True):
        again = SMALL.encode(found[None], numbers[None], seen[None])
        np.testing.assert_array_equal(again[0], row)


@pytest.mark.parametrize("sections, names", [(2, 4), (3, 9), (32, 40), (90, 8191)])
def test_tokens_are_always_in_the_vocabulary(sections, names):
    tokens = LayoutTokens(tuple(map(str, range(names))), objects=6, sections=sections)
    rng = np.random.default_rng(0)
    boxes = rng.normal(0.5, 1.0, (200, 8, 4))  # also outside the image, also upside down
    labels = rng.integers(-1, names, (200, 8))
    crop = np.concatenate([rng.random((200, 2)) * 0.5, 0.5 + rng.random((200, 2))], -1)
    rngs = [np.random.default_rng(i) for i in range(200)]
    encoded = tokens.encode(boxes, labels, crop, rngs)
    assert encoded.min() >= 0 and encoded.max() < tokens.vocabulary
    assert (encoded[:, -2:] < sections**2).all()
    classes, corners = encoded[:, :-2:3], encoded[:, :-2].reshape(200, 6, 3)[..., 1:]
    there = classes != tokens.none
    assert (classes[there] < names).all() and (corners[there] < sections**2).all()
    assert there.any() and (corners[~there] == tokens.none).all()


def test_describing_names_what_is_there():
    boxes = np.tile([0.0, 0.0, 1.0, 1.0], (2, 4, 1))
    tokens = SMALL.encode(boxes, [[2, 1, 2, 2], [-1, 0, -1, 1]])
    assert SMALL.describe(tokens) == ["red ball (3), dog", "cat, dog"]


@pytest.mark.parametrize("sections, most", [(2, 4), (32, 1024), (90, 8191)])
def test_names_must_fit_the_vocabulary(sections, most):
    LayoutTokens(("thing",) * most, sections=sections)
    for count in (0, most + 1):
        with pytest.raises(
            UserError, match=f"^{count} class names do not fit.*tokens for 1 to {most}$"
        ):
            LayoutTokens(("thing",) * count, sections=sections)


@pytest.mark.parametrize("sizes", [{"objects": 0}, {"sections": 1}])
def test_sizes_that_hold_nothing_are_refused(sizes):
    with pytest.raises(UserError, match="objects >= 1 and sections >= 2, not objects"):
        LayoutTokens(NAMES, **sizes)


def test_a_label_without_a_name_is_refused():
    with pytest.raises(UserError, match="label 3 has no name; the labels are 0 to 2"):
        THREE.encode(np.zeros((1, 2, 4)), [[1, 3]])


DOG = {"label": "dog", "box": [0.1, 0.2, 0.5, 0.9]}
BALL = {"label": "red ball", "box": [0, 0, 1, 1]}


def test_json_becomes_what_encode_takes():
    layout = {"objects": [DOG, BALL], "crop": [0.25, 0, 0.75, 1]}
    boxes, labels, crop = THREE.parse(json.dumps(layout))
    assert boxes.shape == (1, 3, 4) and labels.tolist() == [[1, 2, -1]]
    assert labels.dtype == np.int32 and crop.tolist() == [[0.25, 0, 0.75, 1]]
    # The tokens of `test_every_token_by_hand`.
    tokens = THREE.encode(boxes, labels, crop)
    assert tokens.tolist() == [[1, 1629, 7244, 2, 0, 8099, *[NONE] * 3, 22, 8077]]


def test_a_list_of_layouts_is_several_conditions():
    layouts = [{"objects": [DOG]}, {"objects": [BALL, DOG], "crop": [0, 0, 0.5, 1]}]
    boxes, labels, crop = THREE.parse(json.dumps(layouts))
    assert boxes[1, :2].tolist() == [BALL["box"], DOG["box"]]
    assert labels.tolist() == [[1, -1, -1], [2, 1, -1]]
    assert crop.tolist() == [[0, 0, 1, 1], [0, 0, 0.5, 1]]


def boxed(box):
    return {"objects": [BALL, {"label": "dog", "box": box}]}


@pytest.mark.parametrize(
    "content, message",
    [
        ("red ball at the left", "the layout is not JSON (Expecting value: line 1"),
        ("[" * 100_000, "the layout is not JSON ("),
        ("", "the layout is not JSON ("),
        ("7", 'the layout is 7; write {"objects": [{"label"'),
        ("[]", "the list of layouts is empty"),
        ('[{"objects": []}]', "layout 1 has no objects"),
        ({}, "the layout has no 'objects'; write {"),
        ({"objects": []}, "the layout has no objects; write {"),
        ({"objects": "dog"}, "the layout has no objects"),
        (
            {"objects": [DOG], "croq": [0, 0, 1, 1]},
            "unknown field 'croq'; the fields are crop, obj",
        ),
        ({"objects": ["dog"]}, "object 1 of the layout is 'dog'; write {"),
        ({"objects": [DOG, {"label": "dog"}]}, "object 2 of the layout has no 'box'"),
        ({"objects": [{"box": [0, 0, 1, 1]}]}, "object 1 of the layout has no 'label'"),
        ({"objects": [{**DOG, "colour": "red"}]}, "'colour'; the fields are box, label"),
        ({"objects": [DOG] * 4}, "the layout has 4 objects; this model takes 3 at most"),
        ([{"objects": [DOG]}, boxed(0)], "the box of object 2 of layout 2 is 0; it must be four"),
        (
            boxed([0, 0, 1]),
            "the box of object 2 of the layout is [0, 0, 1]; it must be four numbers",
        ),
        (boxed([0, 0, 1, "1"]), "must be four numbers"),
        (boxed([0, 0, 1, True]), "must be four numbers"),
        (boxed([0, 0, 1, None]), "must be four numbers"),
        (boxed([-0.1, 0, 1, 1]), "is [-0.1, 0, 1, 1]; its edges must be in [0, 1]"),
        (boxed([0, 0, 64, 64]), "its edges must be in [0, 1]"),
        (boxed([0, 0, float("nan"), 1]), "its edges must be in [0, 1]"),
        (boxed([0, 0, float("inf"), 1]), "its edges must be in [0, 1]"),
        (boxed([0.5, 0, 0.5, 1]), "right must be greater than left, and bottom greater than top"),
        (boxed([0, 0.9, 1, 0.1]), "right must be greater than left, and bottom greater than top"),
        ({"objects": [DOG], "crop": [0, 0, 2, 1]}, "the crop of the layout is [0, 0, 2, 1]; its"),
        ({"objects": [DOG], "crop": None}, "the crop of the layout is None; it must be four"),
        (
            {"objects": [DOG], "crop": [0.5, 0, 1, 1]},
            "the box of object 1 of the layout lies outside the crop [0.5, 0.0, 1.0, 1.0]; both",
        ),
        (
            {"objects": [{**DOG, "label": "red bal"}]},
            "object 1 of the layout has the unknown label 'red bal'; perhaps you meant 'red ball'; "
            "this model knows: cat, dog, red ball",
        ),
        (
            {"objects": [{**DOG, "label": "xyz"}]},
            "has the unknown label 'xyz'; this model knows: cat, dog, red ball",
        ),
        ({"objects": [{**DOG, "label": 1}]}, "the unknown label 1; this model knows: cat"),
        ({"objects": [{**DOG, "label": ["dog"]}]}, "the unknown label ['dog']"),
    ],
)
def test_each_mistake_in_the_json_is_one_clear_line(content, message):
    with pytest.raises(UserError) as error:
        THREE.parse(content if isinstance(content, str) else json.dumps(content))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_long_list_of_names_is_cut():
    tokens = LayoutTokens(tuple(f"thing {i}" for i in range(100)))
    with pytest.raises(UserError, match=r"this model knows: thing 0, .*, thing 39, \.\.\.$"):
        tokens.parse(json.dumps({"objects": [{**DOG, "label": "?"}]}))
