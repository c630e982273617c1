"""The embedded scenes: the same every time, and true in everything they say."""

import dataclasses
import json
import os
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest

import ldm_jax
from ldm_jax.data import scenes
from ldm_jax.data.scenes import cache, captions, geometry, render, world
from ldm_jax.data.scenes.combinations import has_combination, parse_combination
from ldm_jax.errors import UserError


def source_of(size=32, level="single", count=10, seed=0, split="train", extras=()):
    return scenes.ScenesSource(scenes.ScenesConfig(size, level, count, count), split, seed, extras)


@pytest.fixture(scope="module")
def full():
    source = source_of(64, "full", count=60)
    return [source.truth(i) for i in range(60)]


def equal(one, two):
    return one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("level", world.LEVELS)
def test_an_image_does_not_depend_on_what_it_is_read_with(level):
    extras = ("semantic", "boxes")
    source = source_of(32, level, count=40, seed=3, extras=extras)
    bulk = source.read(np.arange(40))
    order = np.random.default_rng(0).permutation(40)
    assert equal(source.read(order), {k: v[order] for k, v in bulk.items()})
    longer = source_of(32, level, count=90, seed=3, extras=extras)
    for i in (0, 17, 39):
        assert equal(longer.read([i]), {k: v[i : i + 1] for k, v in bulk.items()})
        assert np.array_equal(source.truth(i).image, bulk["image"][i])
    assert not np.array_equal(bulk["image"][0], bulk["image"][1])


def test_what_a_source_returns():
    single = source_of(32, "single", count=5)
    batch = single.read([4, 0])
    assert batch["image"].shape == (2, 32, 32, 3) and batch["image"].dtype == np.uint8
    assert batch["class_label"].dtype == np.int32 and batch["caption"].dtype == object
    assert single.channels == 3 and len(single) == 5
    assert len(single.class_names) == 32 and single.class_names[0] == "red ball"
    assert equal(single.read([-1]), single.read([4]))
    assert single.read([])["image"].shape == (0, 32, 32, 3)
    with pytest.raises(IndexError):
        single.read([5])
    everything = source_of(48, "full", count=3, extras=("semantic", "boxes"))
    batch = everything.read(range(3))
    assert everything.class_names is None and "class_label" not in batch
    assert batch["semantic"].shape == (3, 48, 48) and batch["semantic"].dtype == np.uint8
    assert batch["boxes"].shape == (3, 4, 4) and batch["box_labels"].shape == (3, 4)
    for i in range(3):
        truth = everything.truth(i)
        count = len(truth.objects)
        assert np.array_equal(batch["semantic"][i], truth.semantic)
        assert np.allclose(batch["boxes"][i, :count] * 48, [one.box for one in truth.objects])
        assert list(batch["box_labels"][i, count:]) == [-1] * (4 - count)


def test_splits_seeds_and_levels_share_no_image():
    kinds = [("train", 0), ("validation", 0), ("train", 1)]
    sets = [
        {image.tobytes() for image in source.read(range(100))["image"]}
        for source in (source_of(32, split=p, seed=s, count=100) for p, s in kinds)
    ]
    assert all(len(one) == 100 for one in sets)
    assert all(not one & two for one, two in combinations(sets, 2))


def test_the_world_is_the_same_at_every_size():
    small, large = (source_of(size, "full", count=9) for size in (32, 128))
    assert [small.scene(i) for i in range(9)] == [large.scene(i) for i in range(9)]
    averaged = large.truth(4).image.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
    assert np.abs(averaged - small.truth(4).image).mean() < 8  # of 255


def test_maps_boxes_and_attributes_agree(full):
    for truth in full:
        inside = np.zeros((64, 64), bool)
        for number, one in enumerate(truth.objects):
            mask = truth.instance == number
            left, top, right, bottom = one.box
            assert mask.sum() == one.pixels
            assert np.array_equal(np.nonzero(mask.any(axis=0))[0][[0, -1]], [left, right - 1])
            assert np.array_equal(np.nonzero(mask.any(axis=1))[0][[0, -1]], [top, bottom - 1])
            assert {scenes.SEMANTIC_NAMES[k] for k in truth.semantic[mask]} == {one.shape}
            assert scenes.CLASS_NAMES[one.class_label] == f"{one.colour} {one.shape}"
            inside |= mask
        assert np.array_equal(truth.semantic >= 2, inside)
        assert np.array_equal(truth.semantic == 0, np.isinf(truth.depth))
        assert np.array_equal(truth.semantic == 1, truth.instance == -1)


def test_an_object_has_its_colour():
    source = source_of(64, "single", count=120)
    for truth in (source.truth(i) for i in range(120)):
        seen = np.median(truth.image[truth.instance == 0], axis=0)
        paint = np.array(render.PALETTE[truth.objects[0].colour])
        # Cosine of the angle between the colours: light changes the length more than the direction.
        assert seen @ paint > 0.93 * np.linalg.norm(seen) * np.linalg.norm(paint), truth.caption


@pytest.mark.parametrize(("level", "most"), [("single", 1), ("pair", 2), ("full", 4)])
def test_every_object_can_be_seen(level, most):
    source = source_of(32, level, count=150)
    counts = set()
    for scene in (source.scene(i) for i in range(150)):
        counts.add(len(scene.objects))
        for size in (32, 64):
            least = world.MIN_VISIBLE * (size / 64) ** 2
            assert min(geometry.visible_pixels(scene, size)) >= least
    assert counts == set(range(1, most + 1))


def test_objects_stand_apart(full):
    for truth in full:
        for one, two in combinations(truth.scene.objects, 2):
            assert np.hypot(one.x - two.x, one.y - two.y) > one.footprint + two.footprint


def test_the_nearer_object_hides_the_farther(full):
    hidden = 0
    for truth in full:
        for number, one in enumerate(truth.scene.objects):
            alone = world.Scene(**{**vars(truth.scene), "objects": (one,)})
            depth, instance = geometry.pixel_truth(alone, 64)
            lost = (instance == 0) & (truth.instance != number)
            hidden += lost.sum()
            assert (truth.depth[lost] <= depth[lost] + 1e-4).mean() > 0.9 if lost.any() else True
    assert hidden > 100


@pytest.mark.parametrize("shape", world.SHAPES)
def test_rays_enter_a_solid_where_its_surface_is(shape):
    """Against the definition of each solid: outside just before the entry, inside just after."""
    solid = world.SceneObject(shape, "red", "large", "matte", 0.0, 0.0, 0.8, 0.5)
    rng = np.random.default_rng(0)
    start = np.stack([*rng.uniform(-3, 3, (2, 4000)), rng.uniform(2, 3, 4000)])
    d = np.stack([*rng.uniform(-0.7, 0.7, (2, 4000)), rng.uniform(0.05, 1.5, 4000)]) - start
    with np.errstate(all="ignore"):
        t = geometry.entry(solid, *start, *d)
    reached = np.isfinite(t)

    def inside(p):
        x, y, z = p
        if shape == "ball":
            return x**2 + y**2 + (z - 0.8) ** 2 < 0.8**2
        within = (z > 0) & (z < solid.height)
        if shape == "cube":
            u, v = np.cos(0.5) * x + np.sin(0.5) * y, np.cos(0.5) * y - np.sin(0.5) * x
            return within & (np.abs(u) < solid.base) & (np.abs(v) < solid.base)
        radius = solid.base * (1 - z / solid.height) if shape == "cone" else solid.base
        return within & (np.hypot(x, y) < radius)

    steep = np.abs(d[2]) > 1.5 * np.hypot(d[0], d[1])  # steeper than the cone: see `_quadric`
    use = reached & ~steep
    assert use.sum() > 500
    p, eps = start[:, use] + t[use] * d[:, use], 1e-4
    assert not inside(p - eps * d[:, use]).any()
    # A ray that only grazes an edge is out again after eps.
    assert inside(p + eps * d[:, use]).mean() > 0.995
    steps = np.linspace(0, 1.5, 200)[:, None, None]
    ever = inside((start + steps * d).transpose(1, 0, 2)).any(axis=0)
    assert not (ever & ~reached & ~steep).any()
    n = np.stack(geometry.normal(solid, *p))
    assert np.allclose(np.linalg.norm(n, axis=0), 1, atol=1e-3)
    assert not inside(p + 1e-3 * n).any()


def test_captions_use_the_vocabulary_and_name_what_is_there(full):
    single = source_of(32, "single", count=300)
    said = set()
    for truth in [*full, *(single.truth(i) for i in range(100))]:
        words = truth.caption.split()
        said |= set(words)
        for attribute in ("shape", "colour", "size"):
            names = getattr(
                world, {"shape": "SHAPES", "colour": "COLOURS", "size": "SIZES"}[attribute]
            )
            there = sorted(getattr(one, attribute) for one in truth.objects)
            assert sorted(word for word in words if word in names) == there
        materials = {one.material for one in truth.objects}
        assert {word for word in words if word in world.MATERIALS} <= materials
        assert truth.scene.floor in words
        sky = {"day": "day", "sunset": "sunset", "overcast": "overcast", "night": "night"}
        assert [s for s in sky if s in words] == [truth.scene.sky]
    assert said == set(scenes.VOCABULARY)
    assert len(set(single.read(range(300))["caption"])) > 250


def test_relations_hold(full):
    kinds = set()
    for truth in full:
        for one, two in combinations(truth.scene.objects, 2):
            relations = captions.true_relations(one, two)
            for relation, first, second in relations:
                kinds.add(relation)
                assert {id(first), id(second)} == {id(one), id(two)}
                if relation == "in front of":
                    assert second.y - first.y >= 1.2
                else:
                    assert abs(second.y - first.y) < 1.2
                if relation == "left of":
                    assert first.x < second.x
            assert all(relation != "and" for relation, *_ in relations) or len(relations) == 1
    assert kinds >= {"in front of", "left of", "next to"}


def test_a_caption_is_read_back():
    batch = source_of(32, "single", count=50).read(range(50))
    for text, label in zip(batch["caption"], batch["class_label"], strict=True):
        shape, colour = scenes.read_caption(text)
        assert shape * len(scenes.COLOURS) + colour == label
    first = scenes.read_caption("a large red cone in front of a small blue cube at night")
    assert first == (scenes.SHAPES.index("cone"), scenes.COLOURS.index("red"))
    with pytest.raises(UserError, match="names no object"):
        scenes.read_caption("a large red floor")


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"level": "double"}, "single, full"),
        ({"split": "test"}, "train, validation"),
        ({"size": 4}, "size"),
        ({"count": 0}, "count"),
        ({"seed": -1}, "seed"),
        ({"extras": ("depth",)}, "semantic, boxes"),
    ],
)
def test_a_wrong_argument_is_named(bad, word):
    with pytest.raises(UserError, match=word):
        source_of(**bad)


def test_rendering_all_is_reading_everything_once(tmp_path):
    source = source_of(32, "single", count=70, seed=1, extras=("boxes",))
    expected = source.read(range(70))
    rendered = scenes.render_all(source, tmp_path, progress=False)
    assert equal(rendered, expected) and rendered["caption"].dtype == object
    (file,) = tmp_path.iterdir()

    other = {**expected, "image": 255 - expected["image"]}
    cache.save(file, other)  # shows that the cache is used
    assert equal(scenes.render_all(source, tmp_path, progress=False), other)
    cache.save(file, expected)

    whole = file.read_bytes()
    middle = len(whole) // 2
    for damaged in (b"", whole[:middle], whole[:middle] + b"\0\1" + whole[middle + 2 :]):
        file.write_bytes(damaged)
        assert equal(scenes.render_all(source, tmp_path, progress=False), expected)
        assert file.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [file]

    keys = {cache.cache_file(source, tmp_path)}
    keys.add(cache.cache_file(source, tmp_path, version=scenes.RENDER_VERSION + 1))
    keys.add(cache.cache_file(source_of(32, count=70, seed=2), tmp_path))
    assert len(keys) == 3


def test_scenes_that_do_not_fit_into_memory_are_refused_with_the_way_out():
    source = source_of(256, "single", count=1000, extras=("semantic",))
    scenes.check_fits(source, memory=1e9)
    with pytest.raises(
        UserError, match="1,000 scenes of 256x256 pixels take 0.4 GB .* --data.count"
    ):
        scenes.check_fits(source, memory=0.3e9)
    with pytest.raises(UserError, match="not one scene fits"):
        scenes.check_fits(source_of(2**14, count=2), memory=16e9)


def test_processes_render_the_same_also_from_a_script_without_a_guard(tmp_path):
    source = source_of(32, "full", count=70, seed=1, extras=("boxes",))
    script = tmp_path / "script.py"
    script.write_text(
        "import json, sys\n"
        "from ldm_jax.data.scenes import ScenesConfig, ScenesSource, render_all\n"
        "source = ScenesSource(ScenesConfig(**json.loads(sys.argv[1])), 'train', 1, ('boxes',))\n"
        "render_all(source, sys.argv[2], progress=False, workers=2)\n"
        "print('once')\n"
    )
    root = os.path.dirname(os.path.dirname(ldm_jax.__file__))
    out = subprocess.run(
        [sys.executable, script, json.dumps(dataclasses.asdict(source.config)), tmp_path / "cache"],
        env={**os.environ, "PYTHONPATH": root, "PYTHONUNBUFFERED": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert out.stdout == "once\n"
    rendered = cache.load(cache.cache_file(source, tmp_path / "cache"), 70)
    assert equal(rendered, source.read(range(70)))


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_JAX_CACHE", str(tmp_path))
    source = source_of(32, count=2)
    assert cache.cache_file(source).parent == tmp_path / "scenes"
    monkeypatch.delenv("LDM_JAX_CACHE")
    assert cache.cache_file(source).parts[-4:-1] == (".cache", "ldm_jax", "scenes")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="LDM_JAX_CACHE"):
        scenes.render_all(source, tmp_path / "file", progress=False)


def test_data_imports_no_jax():
    code = "import sys, ldm_jax.data.scenes; sys.exit('jax' in sys.modules)"
    root = os.path.dirname(os.path.dirname(ldm_jax.__file__))
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root}, check=True)


def test_training_images_are_free_of_held_out_combinations_of_words():
    words = ("red ball", "cone at night")
    config = scenes.ScenesConfig(8, "pair", 120, 120, held_out_words=words)
    held_out = [parse_combination(text) for text in words]

    def has_one(scene):
        return any(has_combination(scene, one) for one in held_out)

    plain = source_of(8, "pair", 120, 1)
    without = scenes.ScenesSource(config, "train", 1)
    assert not any(has_one(without.scene(i)) for i in range(120))
    validation = scenes.ScenesSource(config, "validation", 1)
    assert any(has_one(validation.scene(i)) for i in range(120))
    kept = [i for i in range(120) if not has_one(plain.scene(i))]
    assert 60 < len(kept) < 120
    assert all(plain.scene(i) == without.scene(i) for i in kept)
    assert cache.cache_file(plain) != cache.cache_file(without)


EVERY = tuple(f"{colour} {shape}" for colour in world.COLOURS for shape in world.SHAPES)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("red",), "at least two words"),
        (("red dog",), "unknown word 'dog'"),
        (EVERY, "name fewer"),
    ],
)
def test_combinations_that_cannot_be_held_out_are_refused(words, match):
    with pytest.raises(UserError, match=match):
        config = scenes.ScenesConfig(8, "single", 4, held_out_words=words)
        scenes.ScenesSource(config, "train").scene(0)
