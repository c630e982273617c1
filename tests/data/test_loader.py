"""The loader: batches are a pure function of (seed, step, process)."""

import itertools
import threading
import time

import numpy as np
import pytest

from ldm_jax.data.loader import Loader, batch_positions, example_indices, flip, random_crops
from ldm_jax.data.source import ArraySource
from ldm_jax.errors import UserError


def numbered(n: int) -> ArraySource:
    """Images that differ between left and right, with their own number as label."""
    image = np.zeros((n, 2, 2, 1), np.uint8)
    image[:, :, 0, 0] = np.arange(n)[:, None] % 250 + 1
    return ArraySource({"image": image, "class_label": np.arange(n, dtype=np.int32)})


def batch_indices(step, n, batch_size, seed):
    return example_indices(batch_positions(step, batch_size), n, seed)


def noisy(batch, rngs):
    return {**batch, "noise": np.array([rng.random() for rng in rngs])}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


def labels(loader, steps):
    return [loader.batch(step)["class_label"] for step in steps]


@pytest.fixture
def no_thread_left():
    before = set(threading.enumerate())
    yield
    assert not [t for t in threading.enumerate() if t not in before and t.name.startswith("loader")]


@pytest.mark.parametrize(("n", "batch_size"), [(12, 4), (10, 4), (3, 8), (1, 5), (7, 7)])
def test_each_epoch_visits_each_example_once(n, batch_size):
    epochs = 4
    steps = -(-n * epochs // batch_size)
    order = np.concatenate([batch_indices(k, n, batch_size, seed=5) for k in range(steps)])
    for epoch in range(epochs):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_order_is_the_documented_one_and_new_in_each_epoch():
    n, seed = 30, 11
    order = np.concatenate([batch_indices(k, n, 6, seed) for k in range(10)])
    for epoch in range(2):
        want = np.random.default_rng([seed, epoch]).permutation(n)
        np.testing.assert_array_equal(order[epoch * n : (epoch + 1) * n], want)
    assert (order[:n] != order[n:]).any()
    assert (batch_indices(0, n, 6, seed) != batch_indices(0, n, 6, seed + 1)).any()
    np.testing.assert_array_equal(batch_positions(3, 6), range(18, 24))


def test_resuming_gives_the_batches_of_a_run_that_never_stopped(no_thread_left):
    def take(start, count):
        iterator = Loader(numbered(10), 4, 0, transform=noisy).iterate(start)
        batches = list(itertools.islice(iterator, count))
        iterator.close()
        return batches

    for a, b in zip(take(0, 9)[5:], take(5, 4), strict=True):
        assert_equal(a, b)


def test_two_processes_rows_are_the_global_batch():
    whole = Loader(numbered(10), 8, 3, transform=noisy)
    parts = [
        Loader(numbered(10), 8, 3, transform=noisy, rows=rows) for rows in np.split(np.arange(8), 2)
    ]
    for step in range(5):
        halves = [part.batch(step) for part in parts]
        joined = {key: np.concatenate([half[key] for half in halves]) for key in halves[0]}
        assert_equal(joined, whole.batch(step))


@pytest.mark.parametrize(("threads", "prefetch"), [(1, 1), (2, 4), (5, 3)])
def test_prefetched_batches_are_those_of_batch_in_order(threads, prefetch, no_thread_left):
    class Uneven(ArraySource):
        def read(self, indices, rngs=None):
            time.sleep(0.004 * (indices[0] % 3))  # so that later batches are ready sooner
            return super().read(indices, rngs)

    source = Uneven(numbered(20).arrays)
    loader = Loader(source, 4, 1, transform=noisy, threads=threads, prefetch=prefetch)
    iterator = loader.iterate(2)
    for step in range(2, 14):
        assert_equal(next(iterator), loader.batch(step))
    iterator.close()


def test_an_examples_generator_belongs_to_its_position():
    first = Loader(numbered(4), 4, 0, transform=noisy)
    noise = np.concatenate([first.batch(step)["noise"] for step in range(3)])
    assert len(set(noise)) == 12  # drawn anew in each epoch
    smaller = Loader(numbered(4), 2, 0, transform=noisy)
    np.testing.assert_array_equal(
        noise, np.concatenate([smaller.batch(step)["noise"] for step in range(6)])
    )


def test_an_exception_in_a_thread_reaches_the_consumer_at_its_batch(no_thread_left):
    class Broken(ArraySource):
        def read(self, indices, rngs=None):
            if 7 in indices:
                raise OSError("the disk is gone")
            return super().read(indices, rngs)

    loader = Loader(Broken(numbered(8).arrays), 2, 0)
    bad = next(k for k in range(4) if 7 in batch_indices(k, 8, 2, 0))
    iterator = loader.iterate(0)
    for _ in range(bad):
        next(iterator)
    with pytest.raises(OSError, match="disk is gone"):
        next(iterator)


def test_closing_ends_the_threads_without_making_the_batches_ahead(no_thread_left):
    class Slow(ArraySource):
        begun = 0

        def read(self, indices, rngs=None):
            self.begun += 1
            time.sleep(0.05)
            return super().read(indices, rngs)

    source = Slow(numbered(8).arrays)
    iterator = Loader(source, 2, 0, threads=1, prefetch=50).iterate(0)
    next(iterator)
    iterator.close()
    assert source.begun < 10


def test_wait_s_counts_the_time_spent_waiting():
    class Slow(ArraySource):
        def read(self, indices, rngs=None):
            time.sleep(0.02)
            return super().read(indices, rngs)

    loader = Loader(Slow(numbered(8).arrays), 2, 0, threads=1, prefetch=1)
    assert loader.wait_s == 0
    iterator = loader.iterate(0)
    for _ in range(3):
        next(iterator)
    iterator.close()
    assert loader.wait_s >= 0.02


def test_flip_mirrors_about_half_and_only_images():
    loader = Loader(numbered(200), 200, 0, transform=flip)
    plain, flipped = Loader(numbered(200), 200, 0).batch(0), loader.batch(0)
    mirrored = (flipped["image"] == plain["image"][:, :, ::-1]).all(axis=(1, 2, 3))
    same = (flipped["image"] == plain["image"]).all(axis=(1, 2, 3))
    assert (mirrored ^ same).all() and 70 < mirrored.sum() < 130
    np.testing.assert_array_equal(flipped["class_label"], plain["class_label"])
    assert_equal(flipped, loader.batch(0))


def test_flip_mirrors_boxes_crop_and_map_in_the_frame_of_the_whole_image():
    n = 40
    batch = {
        **numbered(n).arrays,
        "semantic": np.tile(np.arange(6, dtype=np.uint8).reshape(2, 3), (n, 1, 1)),
        "boxes": np.tile(np.float32([[0.1, 0.2, 0.3, 0.9], [0, 0, 0, 0]]), (n, 1, 1)),
        "box_labels": np.tile(np.int32([4, -1]), (n, 1)),
        "crop": np.tile(np.float32([0, -0.5, 0.25, 1.5]), (n, 1)),
    }
    out = flip(batch, [np.random.default_rng(i) for i in range(n)])
    alone = flip({"image": batch["image"]}, [np.random.default_rng(i) for i in range(n)])
    np.testing.assert_array_equal(out["image"], alone["image"])
    for i in range(n):
        turned = (out["image"][i] != batch["image"][i]).any()
        boxes = [[0.7, 0.2, 0.9, 0.9], [0] * 4] if turned else [[0.1, 0.2, 0.3, 0.9], [0] * 4]
        np.testing.assert_allclose(out["boxes"][i], boxes, atol=1e-6)
        crop = [0.75, -0.5, 1, 1.5] if turned else [0, -0.5, 0.25, 1.5]
        np.testing.assert_allclose(out["crop"][i], crop)
        want = [[2, 1, 0], [5, 4, 3]] if turned else [[0, 1, 2], [3, 4, 5]]
        assert out["semantic"][i].tolist() == want
    assert 10 < (out["crop"] != batch["crop"]).any(axis=1).sum() < 30
    assert out["semantic"].dtype == np.uint8 and out["boxes"].dtype == np.float32
    np.testing.assert_array_equal(out["box_labels"], batch["box_labels"])


def test_random_squares_are_cut_from_anywhere_and_nothing_else_changes():
    n, h, w, side = 400, 5, 7, 3
    image = np.arange(h * w, dtype=np.uint8).reshape(1, h, w, 1) + np.zeros((n, 1, 1, 2), np.uint8)
    batch = {"image": image, "class_label": np.arange(n)}

    def cut():
        return random_crops(batch, side, [np.random.default_rng(i) for i in range(n)])

    squares = cut()["image"]
    assert squares.shape == (n, side, side, 2) and squares.dtype == np.uint8
    corners = squares[:, 0, 0, 0]
    inside = np.arange(h * w).reshape(h, w)[: h - side + 1, : w - side + 1]
    assert set(corners) == set(inside.ravel())  # all places, and only such
    steps = np.arange(side)[:, None] * w + np.arange(side)
    np.testing.assert_array_equal(squares[..., 1], corners[:, None, None] + steps)
    assert_equal(cut(), {**batch, "image": squares})


@pytest.mark.parametrize(
    ("n", "batch_size", "seed", "options", "word"),
    [
        (0, 4, 0, {}, "empty"),
        (8, 0, 0, {}, "batch size"),
        (8, 4, -1, {}, "seed"),
        (8, 4, 0, {"threads": -1}, "threads"),
        (8, 4, 0, {"prefetch": -1}, "prefetch"),
    ],
)
def test_what_cannot_work_is_refused(n, batch_size, seed, options, word):
    with pytest.raises(UserError, match=word):
        Loader(numbered(n), batch_size, seed, **options)
