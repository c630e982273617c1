"""Coverage of the world: true scenes pass, wrong sets are found; the statistic is Pearson's."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from ldm_jax.data.scenes import COLOURS, SHAPES, SKIES, ScenesConfig, ScenesSource, captions
from ldm_jax.errors import UserError
from ldm_jax.evaluation.held_out_words import (
    has_combination,
    held_out_report,
    parse_combination,
)
from ldm_jax.evaluation.scene_coverage import counted_objects, coverage


def scenes_of(level, count, seed=0):
    source = ScenesSource(ScenesConfig(32, level, count), seed=seed)
    return [source.scene(i) for i in range(count)]


@pytest.fixture(scope="module")
def single():
    return scenes_of("single", 1024)


def test_true_scenes_are_covered(single):
    found = coverage(single, "single")
    assert list(found)[:2] == ["shape", "colour"] and list(found)[-1] == "floor x sky"
    for table in found.values():
        assert table.p_value > 1e-3 and not table.missing and table.unread == 0
        assert table.observed.sum() == 1024
        assert table.expected.sum() == pytest.approx(1024)
        assert table.total_variation < 2 * table.total_variation_of_true + 0.02


def test_p_values_of_true_scenes_are_uniform():
    rng = np.random.default_rng(0)
    words = [
        [
            SimpleNamespace(objects=(SimpleNamespace(colour=COLOURS[k]),), floor=None, sky=None)
            for k in rng.integers(len(COLOURS), size=200)
        ]
        for _ in range(150)
    ]
    values = [coverage(own, "single", [("colour",)])["colour"].p_value for own in words]
    assert stats.kstest(values, "uniform").pvalue > 1e-3


def test_chi_square_is_pearsons(single):
    """Against the formula, counted anew."""
    table = coverage(single, "single")["shape x colour"]
    counts = np.zeros((4, 8))
    for scene in single:
        (solid,) = scene.objects
        counts[SHAPES.index(solid.shape), COLOURS.index(solid.colour)] += 1
    assert (table.observed == counts).all() and table.degrees == 31
    e = len(single) / 32
    assert table.statistic == pytest.approx(((counts - e) ** 2 / e).sum())
    assert table.p_value == pytest.approx(stats.chi2.sf(table.statistic, 31))
    assert table.p_value == pytest.approx(stats.chisquare(counts.ravel()).pvalue)
    assert table.total_variation == pytest.approx(np.abs(counts / 1024 - 1 / 32).sum() / 2)


def test_total_variation_of_true_scenes_is_what_they_have():
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        own = [
            SimpleNamespace(objects=(), floor="plain", sky=SKIES[k])
            for k in rng.integers(4, size=400)
        ]
        found.append(coverage(own, "single", [("sky",)])["sky"])
    mean = np.mean([table.total_variation for table in found])
    assert mean == pytest.approx(found[0].total_variation_of_true, rel=0.25)


def test_wrong_sets_are_found(single):
    collapsed = (single[:10] * 103)[:1024]
    found = coverage(collapsed, "single")
    assert found["shape x colour"].p_value < 1e-12 and len(found["shape x colour"].missing) >= 22
    assert found["shape x colour"].total_variation > 0.6

    # Each factor is as it should be, their combination is not.
    def moved(scene):
        shape = scene.objects[0].shape
        if (shape, scene.objects[0].colour) == ("cone", "cyan"):
            return replace(scene, objects=(replace(scene.objects[0], shape="ball"),))
        return scene

    found = coverage([moved(scene) for scene in single], "single")
    assert found["shape x colour"].missing == (("cone", "cyan"),)
    assert found["shape x colour"].p_value < 1e-4 < found["sky"].p_value


def test_counts_of_the_world_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_JAX_CACHE", str(tmp_path))
    counts = counted_objects("full", 100)
    assert counts.shape == (4, 4, 2)
    scenes = counts.sum(axis=(1, 2)) / np.arange(1, 5)  # k objects each
    assert scenes.sum() == 100 and (scenes % 1 == 0).all()
    (file,) = (tmp_path / "scenes").iterdir()
    changed = counts + 1
    file.write_text(str(changed.tolist()))
    counted_objects.cache_clear()
    assert (counted_objects("full", 100) == changed).all()
    file.write_text("[1, 2")  # damaged: counted again
    counted_objects.cache_clear()
    assert (counted_objects("full", 100) == counts).all()


@pytest.mark.slow
def test_true_scenes_of_several_objects_are_covered():
    scenes = scenes_of("pair", 1500, seed=5)
    tables = [("number",), ("size", "number", "colour"), ("floor",)]
    joint = coverage(scenes, "pair", tables)
    for table in (*coverage(scenes, "pair").values(), *joint.values()):
        assert table.p_value > 1e-3 and not table.missing, table.names
        assert table.expected.sum() == pytest.approx(table.observed.sum())
    size = joint["size x number x colour"].expected.sum(axis=(1, 2))
    assert size[0] > 1.3 * size[1]  # a large one fits less often


def test_what_is_not_read_is_left_out_and_counted():
    scene = scenes_of("single", 1)[0]
    solid = scene.objects[0]
    unsure = replace(scene, sky=None, objects=(replace(solid, colour=None),))
    empty = replace(scene, objects=())
    two = replace(scene, objects=(solid, solid))
    found = coverage([scene, unsure, empty, two], "single")
    assert found["sky"].unread == 1 and found["sky"].observed.sum() == 3
    assert found["colour"].unread == 1 and found["colour"].observed.sum() == 3
    number = coverage([scene, unsure, empty, two], "single", [("number",)])["number"]
    assert number.unread == 2 and number.observed.tolist() == [2]


def test_few_images_have_no_p_value(single):
    found = coverage(single[:100], "single")
    assert found["sky"].p_value is not None
    assert found["shape x colour"].p_value is None and not found["shape x colour"].missing


def test_bad_input_is_one_line(single):
    with pytest.raises(UserError, match="at least one image"):
        coverage([], "single")
    with pytest.raises(UserError, match="single, full, pair"):
        coverage(single, "many")
    with pytest.raises(UserError, match="unknown factor 'tone'"):
        coverage(single, "single", [("tone",)])
    with pytest.raises(UserError, match="unknown sky 'dawn'"):
        coverage([replace(single[0], sky="dawn")], "single")


def test_what_was_read_of_no_image_is_left_out(single):
    """Samples of a model that is hardly trained may show no object."""
    found = coverage([replace(single[0], sky=None, objects=())], "single")
    assert set(found) == {"floor"}


def test_combinations_are_parsed():
    parsed = parse_combination("a cyan cone at night")
    assert parsed == {"colour": "cyan", "shape": "cone", "sky": "night"}
    assert parse_combination("plain floor under an overcast sky") == {
        "floor": "plain",
        "sky": "overcast",
    }
    for bad, words in (
        ("cyan torus", "unknown word 'torus'"),
        ("cone", "two words"),
        ("cyan cone red ball", "one object"),
    ):
        with pytest.raises(UserError, match=words):
            parse_combination(bad)


def test_a_combination_is_of_one_object():
    words = parse_combination("red cube")
    for scene in scenes_of("pair", 60):
        expected = "red cube" in captions.caption(scene)
        assert has_combination(scene, words) == expected
        said = SimpleNamespace(
            objects=[SimpleNamespace(colour=o.colour, shape=o.shape) for o in scene.objects],
            floor=None,
            sky=None,
        )
        assert has_combination(said, words) == expected


def test_held_out_combinations_are_compared_with_seen_ones(single):
    cyan = np.array([s.objects[0].colour == "cyan" for s in single])
    cone = np.array([s.objects[0].shape == "cone" for s in single])
    rng = np.random.default_rng(0)
    correct = rng.random(len(single)) < np.where(cyan & cone, 0.5, 0.95)
    report = held_out_report(single, correct, ["cyan cone", "white ball at night"])
    other = np.array([has_combination(s, parse_combination("white ball at night")) for s in single])
    chosen = (cyan & cone) | other
    p, n = correct[chosen].mean(), chosen.sum()
    assert report.held_out == pytest.approx((p, np.sqrt(p * (1 - p) / n), n))
    assert report.seen.n == len(single) - n and report.seen.share > 0.9
    assert report.combinations["cyan cone"].n == (cyan & cone).sum()
    less, error = report.difference
    assert less > 3 * error > 0


@pytest.mark.parametrize(
    ("correct", "combinations", "words"),
    [
        ([True], ["cyan cone"], "as many readings"),
        ([1.0, 0.0], ["cyan cone"], "bool"),
        ([True, False], [], "cyan cone at night"),
        ([True, False], ["large small"], "two of one kind"),
    ],
)
def test_bad_reports_are_one_line(single, correct, combinations, words):
    with pytest.raises(UserError, match=words):
        held_out_report(single[:2], np.array(correct), combinations)


def test_a_report_needs_samples_of_both_kinds(single):
    one = single[:1]
    own = f"{one[0].objects[0].colour} {one[0].objects[0].shape}"
    with pytest.raises(UserError, match="seen"):
        held_out_report(one, np.array([True]), [own])
    other = next(c for c in COLOURS if c != one[0].objects[0].colour)
    with pytest.raises(UserError, match="held-out"):
        held_out_report(one, np.array([True]), [f"{other} {one[0].objects[0].shape}"])
