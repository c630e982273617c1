"""Each kind of condition: what is kept, what a step sees of it, what the model takes."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning.class_label import ClassLabels
from ldm_jax.conditioning.layout import LayoutTokens
from ldm_jax.conditioning.tokenizer import Tokenizer
from ldm_jax.data.loader import mirror
from ldm_jax.data.resize import resize, to_uint8
from ldm_jax.data.scenes import CLASS_NAMES, SEMANTIC_NAMES, ScenesSource
from ldm_jax.experiments.config import DiffusionStage
from ldm_jax.model.conditions import (
    Class,
    Layout,
    LowResolution,
    Masked,
    SemanticMap,
    Text,
    condition_of,
)
from ldm_jax.model.data_info import DataInfo

N, F = 4, 4


@pytest.fixture(scope="module")
def batch():
    """Four scenes of 32x32 with all that is known of them."""
    full = ScenesSource(32, "full", N, extras=("boxes", "semantic")).read(range(N))
    return full | {"class_label": np.arange(N)}


def rngs(seed=0):
    return [np.random.default_rng([seed, i]) for i in range(N)]


def encode(constants, image):
    """A first stage: the mean of each 4x4 pixels, in a range of its own."""
    x = jnp.reshape(jnp.float32(image), (len(image), 8, F, 8, F, 3)).mean((2, 4))
    return constants["scale"] * x


CONSTANTS = {"scale": jnp.float32(0.01)}


def test_a_class_is_its_number(batch):
    condition = Class(ClassLabels(("a", "b", "c", "d")))
    kept = condition.keep(batch)
    assert kept["condition"].dtype == np.int32 and condition.null == 4
    np.testing.assert_array_equal(condition.y({}, condition.view(kept, rngs())), range(N))
    assert condition.names(batch) == ["a", "b", "c", "d"] and condition.show(kept) is None


def test_a_caption_is_its_words(batch):
    tokenizer = Tokenizer.from_captions(list(batch["caption"]), 100)
    condition = Text(tokenizer)
    kept = condition.keep(batch)
    np.testing.assert_array_equal(kept["condition"], tokenizer.encode(list(batch["caption"])))
    assert condition.names(batch) == list(batch["caption"]) and condition.show(kept) is None


def test_boxes_are_tokens_in_an_order_that_is_drawn_anew(batch):
    tokens = LayoutTokens(CLASS_NAMES, objects=4, sections=32)
    condition = Layout(tokens)
    kept = condition.keep(batch)
    assert set(kept) == {"boxes", "box_labels"}
    fixed = condition.view(kept, None)["condition"]
    np.testing.assert_array_equal(fixed, tokens.encode(batch["boxes"], batch["box_labels"]))
    views = [condition.view(kept, rngs(seed))["condition"] for seed in range(6)]
    assert len({view.tobytes() for view in views}) > 1

    def triples(row):
        return sorted(map(tuple, row[:-2].reshape(-1, 3)))

    assert all(triples(a) == triples(b) for view in views for a, b in zip(view, fixed, strict=True))
    shown = condition.show({"condition": fixed})
    assert shown.dtype == np.uint8 and shown.shape[0] == N and shown.std() > 0
    crop = np.tile(np.float32([0, 0, 0.5, 1]), (N, 1))
    kept = condition.keep(batch | {"crop": crop})
    cropped = tokens.encode(batch["boxes"], batch["box_labels"], crop)
    np.testing.assert_array_equal(condition.view(kept, None)["condition"], cropped)


def test_a_map_has_a_channel_for_each_class(batch):
    condition = SemanticMap(len(SEMANTIC_NAMES))
    seen = condition.view(condition.keep(batch), rngs())
    y = np.asarray(condition.y({}, seen))
    assert y.shape == (N, 32, 32, 6) and y.dtype == np.float32
    np.testing.assert_array_equal(y.sum(-1), 1)
    np.testing.assert_array_equal(y.argmax(-1), batch["semantic"])
    colours = condition.show(seen)
    assert colours.shape == (N, 32, 32, 3)
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == len(np.unique(batch["semantic"]))


def test_the_low_resolution_is_matlabs_bicubic_and_made_once(batch):
    condition = LowResolution(F, "bicubic")
    kept = condition.keep(batch)
    expected = to_uint8(resize(batch["image"], (8, 8)))
    np.testing.assert_array_equal(kept["low_res"], expected)
    seen = condition.view(kept, rngs())
    np.testing.assert_allclose(condition.y({}, seen), expected / 127.5 - 1.0, atol=1e-6)
    np.testing.assert_array_equal(condition.show(seen), expected)


def test_unknown_degradations_are_drawn_anew_from_the_image(batch):
    condition = LowResolution(F, "bsrgan-light")
    kept = condition.keep(batch)
    np.testing.assert_array_equal(kept["image"], batch["image"])
    one, same, other = (condition.view(kept, rngs(s))["low_res"] for s in (0, 0, 1))
    assert one.shape == (N, 8, 8, 3) and one.dtype == np.uint8
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_hole_is_black_before_it_is_encoded_and_marked_by_1(batch):
    condition = Masked(F, "mixed", encode)
    kept = condition.keep(batch)
    seen = condition.view(kept, rngs())
    mask = seen["mask"]
    assert mask.shape == (N, 32, 32) and mask.dtype == bool
    black = np.where(mask[..., None], 0, batch["image"])
    y = np.asarray(condition.y(CONSTANTS, seen))
    np.testing.assert_allclose(y[..., :3], encode(CONSTANTS, black), rtol=1e-6)
    np.testing.assert_array_equal(y[..., 3], np.where(mask[:, ::F, ::F], 1.0, -1.0))
    assert not np.array_equal(mask, condition.view(kept, rngs(1))["mask"])
    np.testing.assert_array_equal(mask, condition.view(kept, rngs())["mask"])
    grey = condition.show(seen)
    assert (grey[mask] == 128).all()


def test_what_was_known_is_put_back(batch):
    condition = Masked(F, "mixed", encode)
    seen = condition.view(condition.keep(batch), rngs())
    samples = np.full_like(batch["image"], 77)
    finished, mask = condition.finish(seen, samples), seen["mask"]
    assert (finished[mask] == 77).all()
    np.testing.assert_array_equal(finished[~mask], batch["image"][~mask])
    other = LowResolution(F, "bicubic")
    np.testing.assert_array_equal(other.finish({}, samples), samples)


def test_what_is_kept_is_mirrored_with_the_image(batch):
    """The condition of a mirror image is the mirror image's condition."""
    turned = mirror(batch | {"crop": np.tile(np.float32([0, 0, 1, 1]), (N, 1))}, np.ones(N, bool))
    for condition in (
        SemanticMap(6),
        LowResolution(F, "bicubic"),
        Layout(LayoutTokens(CLASS_NAMES, 4, 32)),
        LowResolution(F, "bsrgan"),
    ):
        ours = condition.keep(turned)
        theirs = mirror(condition.keep(batch), np.ones(N, bool))
        for key in theirs:
            np.testing.assert_allclose(np.float32(ours[key]), np.float32(theirs[key]), atol=1)


@pytest.mark.parametrize(
    "kind, facts, made",
    [
        ("none", {}, type(None)),
        ("class", {"class_names": ("a",)}, Class),
        ("text", {"vocabulary": ("a",), "caption_length": 1}, Text),
        ("layout", {"box_names": ("a",)}, Layout),
        ("semantic", {"semantic_classes": 3}, SemanticMap),
        ("super-resolution", {}, LowResolution),
        ("inpainting", {}, Masked),
        ("image-embedding", {}, type(None)),
    ],
)
def test_each_kind_has_its_condition(kind, facts, made):
    facts = DataInfo(3, kind, **facts)
    assert type(condition_of(DiffusionStage(), facts, F, encode)) is made
