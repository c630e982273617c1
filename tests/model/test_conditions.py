"""Each kind of condition: what is cached, what a step sees of it, what the model takes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning.class_label import ClassLabels
from ldm_jax.conditioning.layout import LayoutTokens
from ldm_jax.conditioning.model import drop_condition
from ldm_jax.conditioning.tokenizer import Tokenizer
from ldm_jax.data.loader import mirror
from ldm_jax.data.resize import resize, to_uint8
from ldm_jax.data.scenes import CLASS_NAMES, SEMANTIC_NAMES, ScenesConfig, ScenesSource
from ldm_jax.errors import UserError
from ldm_jax.experiments.config import DiffusionStage
from ldm_jax.model.conditions import (
    ClassCondition,
    EmbeddingCondition,
    InpaintingCondition,
    LayoutCondition,
    LowResolutionCondition,
    SemanticCondition,
    TextCondition,
    make_condition,
)
from ldm_jax.model.data_info import DataInfo

N, F = 4, 4


@pytest.fixture(scope="module")
def batch():
    """Four scenes of 32x32 with all that is known of them."""
    full = ScenesSource(ScenesConfig(32, "full", N), extras=("boxes", "semantic")).read(range(N))
    return full | {"class_label": np.arange(N)}


def rngs(seed=0):
    return [np.random.default_rng([seed, i]) for i in range(N)]


def encode(constants, image):
    """A first stage: the mean of each 4x4 pixels, in a range of its own."""
    x = jnp.reshape(jnp.float32(image), (len(image), 8, F, 8, F, 3)).mean((2, 4))
    return constants["scale"] * x


CONSTANTS = {"scale": jnp.float32(0.01)}


def test_a_class_is_its_number(batch):
    condition = ClassCondition(ClassLabels(("a", "b", "c", "d")))
    cached = condition.to_cache(batch)
    assert cached["condition"].dtype == np.int32 and condition.null == 4
    np.testing.assert_array_equal(
        condition.encode({}, condition.to_batch(cached, rngs())), range(N)
    )
    assert condition.labels(batch) == ["a", "b", "c", "d"] and condition.as_image(cached) is None


def test_a_caption_is_its_words(batch):
    tokenizer = Tokenizer.from_captions(list(batch["caption"]), 100)
    condition = TextCondition(tokenizer)
    cached = condition.to_cache(batch)
    np.testing.assert_array_equal(cached["condition"], tokenizer.encode(list(batch["caption"])))
    assert condition.labels(batch) == list(batch["caption"]) and condition.as_image(cached) is None


def test_boxes_are_tokens_in_an_order_that_is_drawn_anew(batch):
    tokens = LayoutTokens(CLASS_NAMES, objects=4, sections=32)
    condition = LayoutCondition(tokens)
    cached = condition.to_cache(batch)
    assert set(cached) == {"boxes", "box_labels"}
    fixed = condition.to_batch(cached, None)["condition"]
    np.testing.assert_array_equal(fixed, tokens.encode(batch["boxes"], batch["box_labels"]))
    views = [condition.to_batch(cached, rngs(seed))["condition"] for seed in range(6)]
    assert len({view.tobytes() for view in views}) > 1

    def triples(row):
        return sorted(map(tuple, row[:-2].reshape(-1, 3)))

    assert all(triples(a) == triples(b) for view in views for a, b in zip(view, fixed, strict=True))
    shown = condition.as_image({"condition": fixed})
    assert shown.dtype == np.uint8 and shown.shape[0] == N and shown.std() > 0
    crop = np.tile(np.float32([0, 0, 0.5, 1]), (N, 1))
    cached = condition.to_cache(batch | {"crop": crop})
    cropped = tokens.encode(batch["boxes"], batch["box_labels"], crop)
    np.testing.assert_array_equal(condition.to_batch(cached, None)["condition"], cropped)


def test_a_map_has_a_channel_for_each_class(batch):
    condition = SemanticCondition(len(SEMANTIC_NAMES))
    conditions = condition.to_batch(condition.to_cache(batch), rngs())
    y = np.asarray(condition.encode({}, conditions))
    assert y.shape == (N, 32, 32, 6) and y.dtype == np.float32
    np.testing.assert_array_equal(y.sum(-1), 1)
    np.testing.assert_array_equal(y.argmax(-1), batch["semantic"])
    colours = condition.as_image(conditions)
    assert colours.shape == (N, 32, 32, 3)
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == len(np.unique(batch["semantic"]))


def test_the_low_resolution_is_matlabs_bicubic_and_made_once(batch):
    condition = LowResolutionCondition(F, "bicubic")
    cached = condition.to_cache(batch)
    expected = to_uint8(resize(batch["image"], (8, 8)))
    np.testing.assert_array_equal(cached["low_res"], expected)
    conditions = condition.to_batch(cached, rngs())
    np.testing.assert_allclose(condition.encode({}, conditions), expected / 127.5 - 1.0, atol=1e-6)
    np.testing.assert_array_equal(condition.as_image(conditions), expected)


def test_unknown_degradations_are_drawn_anew_from_the_image(batch):
    condition = LowResolutionCondition(F, "bsrgan-light")
    cached = condition.to_cache(batch)
    np.testing.assert_array_equal(cached["image"], batch["image"])
    one, same, other = (condition.to_batch(cached, rngs(s))["low_res"] for s in (0, 0, 1))
    assert one.shape == (N, 8, 8, 3) and one.dtype == np.uint8
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_hole_is_black_before_it_is_encoded_and_marked_by_1(batch):
    condition = InpaintingCondition(F, "mixed", encode)
    cached = condition.to_cache(batch)
    conditions = condition.to_batch(cached, rngs())
    mask = conditions["mask"]
    assert mask.shape == (N, 32, 32) and mask.dtype == bool
    black = np.where(mask[..., None], 0, batch["image"])
    y = np.asarray(condition.encode(CONSTANTS, conditions))
    np.testing.assert_allclose(y[..., :3], encode(CONSTANTS, black), rtol=1e-6)
    np.testing.assert_array_equal(y[..., 3], np.where(mask[:, ::F, ::F], 1.0, -1.0))
    assert not np.array_equal(mask, condition.to_batch(cached, rngs(1))["mask"])
    np.testing.assert_array_equal(mask, condition.to_batch(cached, rngs())["mask"])
    grey = condition.as_image(conditions)
    assert (grey[mask] == 128).all()


def test_what_was_known_is_put_back(batch):
    condition = InpaintingCondition(F, "mixed", encode)
    conditions = condition.to_batch(condition.to_cache(batch), rngs())
    samples = np.full_like(batch["image"], 77)
    finished, mask = condition.composite(conditions, samples), conditions["mask"]
    assert (finished[mask] == 77).all()
    np.testing.assert_array_equal(finished[~mask], batch["image"][~mask])
    other = LowResolutionCondition(F, "bicubic")
    np.testing.assert_array_equal(other.composite({}, samples), samples)


def test_what_is_kept_is_mirrored_with_the_image(batch):
    """The condition of a mirror image is the mirror image's condition."""
    turned = mirror(batch | {"crop": np.tile(np.float32([0, 0, 1, 1]), (N, 1))}, np.ones(N, bool))
    for condition in (
        SemanticCondition(6),
        LowResolutionCondition(F, "bicubic"),
        LayoutCondition(LayoutTokens(CLASS_NAMES, 4, 32)),
        LowResolutionCondition(F, "bsrgan"),
    ):
        ours = condition.to_cache(turned)
        theirs = mirror(condition.to_cache(batch), np.ones(N, bool))
        for key in theirs:
            np.testing.assert_allclose(np.float32(ours[key]), np.float32(theirs[key]), atol=1)


@pytest.mark.parametrize(
    "kind, info, made",
    [
        ("none", {}, type(None)),
        ("class", {"class_names": ("a",)}, ClassCondition),
        ("text", {"vocabulary": ("a",), "caption_length": 1}, TextCondition),
        ("layout", {"box_names": ("a",)}, LayoutCondition),
        ("semantic", {"semantic_classes": 3}, SemanticCondition),
        ("super-resolution", {}, LowResolutionCondition),
        ("inpainting", {}, InpaintingCondition),
        ("image-embedding", {}, EmbeddingCondition),
    ],
)
def test_each_kind_has_its_condition(kind, info, made):
    info = DataInfo(3, kind, **info)
    assert type(make_condition(DiffusionStage(), info, F, encode)) is made


def test_what_a_person_gives_becomes_rows():
    classes = ClassCondition(ClassLabels(("a", "b", "c")))
    for value in ("b", 1, np.int64(1)):
        np.testing.assert_array_equal(classes.parse(value)["condition"], [1])
    for value in (["b", 2], np.array([1, 2])):
        np.testing.assert_array_equal(classes.parse(value)["condition"], [1, 2])
    tokenizer = Tokenizer.from_captions(["a red ball"], 10)
    text = TextCondition(tokenizer)
    expected = tokenizer.encode(["red ball"])
    np.testing.assert_array_equal(text.parse("red ball")["condition"], expected)
    both = text.parse(("red ball", "a ball"))["condition"]
    np.testing.assert_array_equal(both, tokenizer.encode(["red ball", "a ball"]))
    tokens = LayoutTokens(CLASS_NAMES, objects=4, sections=32)
    layout, thing = LayoutCondition(tokens), {"label": CLASS_NAMES[3], "box": [0.25, 0, 0.5, 1]}
    one = layout.parse({"objects": [thing]})["condition"]
    boxes = np.float32([[thing["box"]]])
    np.testing.assert_array_equal(one, tokens.encode(boxes, np.array([[3]])))
    of_arrays = {"label": thing["label"], "box": boxes[0, 0]}
    np.testing.assert_array_equal(layout.parse({"objects": [of_arrays]})["condition"], one)
    text_of_two = json.dumps([{"objects": [thing]}] * 2)
    np.testing.assert_array_equal(layout.parse(text_of_two)["condition"], [*one, *one])
    small = np.zeros((2, 3, 3), np.uint8)
    low = LowResolutionCondition(F, "bicubic")
    assert low.parse(small)["low_res"].shape == (1, 2, 3, 3)
    assert low.parse([small, small])["low_res"].shape == (2, 2, 3, 3)
    semantic = SemanticCondition(3)
    assert semantic.parse(np.ones((2, 3), int))["semantic"].shape == (1, 2, 3)
    assert semantic.parse(np.ones((5, 2, 3), np.uint8))["semantic"].shape == (5, 2, 3)
    embedding = EmbeddingCondition(4)
    assert embedding.parse(np.ones((2, 4)))["condition"].shape == (1, 2, 4)
    assert embedding.parse(np.ones((3, 2, 4)))["condition"].dtype == np.float32


def test_the_image_under_a_mask_is_not_read():
    condition = InpaintingCondition(F, "mixed", encode)
    image = np.random.default_rng(0).integers(1, 256, (8, 8, 3), dtype=np.uint8)
    mask = np.zeros((8, 8), bool)
    mask[2:5, 3:] = True
    parsed = condition.parse({"image": image, "mask": mask})
    assert parsed["mask"].shape == (1, 8, 8) and (parsed["masked"][0][mask] == 0).all()
    np.testing.assert_array_equal(parsed["masked"][0][~mask], image[~mask])


SMALL = np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    "condition, value, said",
    [
        (ClassCondition(ClassLabels(("a", "b"))), "c", "unknown class 'c'"),
        (ClassCondition(ClassLabels(("a", "b"))), [0, 2], "2"),
        (TextCondition(Tokenizer.from_captions(["a b"], 9)), "a z", "unknown words: z"),
        (TextCondition(Tokenizer.from_captions(["a b"], 9)), [1], "a prompt is a text"),
        (LayoutCondition(LayoutTokens(("a",), 2, 8)), "{", "the layout is not JSON"),
        (LayoutCondition(LayoutTokens(("a",), 2, 8)), {"boxes": []}, "objects"),
        (LayoutCondition(LayoutTokens(("a",), 2, 8)), {"objects": {1, 2}}, "texts and numbers"),
        (SemanticCondition(3), np.zeros((2, 2)), "is class numbers .H, W.; this is float64"),
        (SemanticCondition(3), np.zeros((1, 1, 2, 2), int), "is class numbers"),
        (SemanticCondition(3), np.full((2, 2), 3), "has class 3; this model knows 0 to 2"),
        (SemanticCondition(3), np.full((2, 2), -1), "has class -1"),
        (LowResolutionCondition(F, "bicubic"), SMALL / 255, "images are uint8 .* not float64"),
        (LowResolutionCondition(F, "bicubic"), SMALL[0], "images are uint8 .n, H, W, C."),
        (InpaintingCondition(F, "mixed", encode), {"image": SMALL}, "in-painting takes"),
        (InpaintingCondition(F, "mixed", encode), SMALL, "in-painting takes"),
        (
            InpaintingCondition(F, "mixed", encode),
            {"image": SMALL, "mask": np.ones((4, 3), bool)},
            "a mask is bool and as large as its image",
        ),
        (
            InpaintingCondition(F, "mixed", encode),
            {"image": SMALL, "mask": np.ones((4, 4), int)},
            "a mask is bool",
        ),
        (EmbeddingCondition(4), np.ones((2, 5)), "embeddings are .n, M, 4., not .1, 2, 5."),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_such_condition_is_said(condition, value, said):
    with pytest.raises(UserError, match=said):
        condition.parse(value)


def test_embeddings_are_taken_as_they_are_and_zeros_are_none():
    condition, embedding = EmbeddingCondition(4), np.ones((3, 2, 4), np.float32)
    kept = condition.to_cache({"image": np.zeros((3, 8, 8, 3), np.uint8), "embedding": embedding})
    batch = condition.to_batch(kept, None)
    np.testing.assert_array_equal(condition.encode({}, batch), embedding)
    images = np.zeros((3, 8, 8, 3), np.uint8)
    np.testing.assert_array_equal(condition.illustrate(images, batch), [images])
    dropped = drop_condition(jax.random.key(0), embedding, condition.null, 1.0)
    np.testing.assert_array_equal(dropped, np.zeros((3, 2, 4)))
