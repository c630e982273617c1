"""Sources: arrays in memory, subsets, the split by a seed."""

import numpy as np
import pytest

from ldm_jax.data.source import (
    ArraySource,
    Subset,
    choose_caption,
    gathered,
    hash_positions,
    held_out_below,
    read_all,
    split,
)
from ldm_jax.errors import UserError


class Counted:
    """A costly source that counts how often each example is read."""

    class_names = ("even", "odd")
    channels = 1

    def __init__(self, n: int, size: int = 4) -> None:
        self.reads = np.zeros(n, int)
        self.size = size

    def __len__(self) -> int:
        return len(self.reads)

    def read(self, indices, rngs=None):
        indices = np.asarray(list(indices))
        np.add.at(self.reads, indices, 1)
        image = np.broadcast_to(
            indices[:, None, None, None], (len(indices), self.size, self.size, 1)
        )
        return {
            "image": image.astype(np.uint8),
            "class_label": (indices % 2).astype(np.int32),
            "caption": np.array([f"number {i}" for i in indices], object),
        }


def test_array_source_reads_any_keys_in_any_order():
    source = ArraySource({"z": np.arange(10.0).reshape(5, 2), "tokens": np.arange(5)})
    batch = source.read([4, 0, 4])
    assert len(source) == 5 and source.channels == 0 and source.class_names is None
    np.testing.assert_array_equal(batch["z"], [[8, 9], [0, 1], [8, 9]])
    np.testing.assert_array_equal(batch["tokens"], [4, 0, 4])


def test_array_source_hands_out_copies():
    source = ArraySource({"image": np.zeros((3, 2, 2, 1), np.uint8)})
    source.read([0])["image"][:] = 9
    assert source.read([0])["image"].max() == 0


@pytest.mark.parametrize("arrays", [{}, {"image": np.zeros((3, 2, 2, 1)), "z": np.zeros((2, 4))}])
def test_array_source_refuses_none_and_unequal_lengths(arrays):
    with pytest.raises(UserError, match="equally long"):
        ArraySource(arrays)


def test_read_all_reads_each_example_once_and_keeps_everything():
    source = Counted(1100)
    kept = read_all(source)
    source.reads[0] -= 1  # one look to learn shapes
    assert isinstance(kept, ArraySource) and (source.reads == 1).all()
    assert kept.class_names == source.class_names and kept.channels == 1
    got, want = kept.read([1099, 3]), source.read([1099, 3])
    assert got.keys() == want.keys()
    for key in want:
        np.testing.assert_array_equal(got[key], want[key])
        assert got[key].dtype == want[key].dtype


def test_parts_are_gathered_into_whole_arrays():
    x, captions = np.arange(10).reshape(5, 2), np.array(["a", "b", "cc", "d", ""], object)
    whole = gathered(5, ({"x": x[i : i + 2], "caption": captions[i : i + 2]} for i in (0, 2, 4)))
    assert whole["x"].dtype == x.dtype and (whole["x"] == x).all()
    assert whole["caption"].tolist() == captions.tolist()


def test_read_all_leaves_large_random_and_array_sources_alone():
    large = Counted(100, size=8)
    assert read_all(large, limit_bytes=100 * 64) is large
    random = Counted(10)
    random.is_random = True
    assert read_all(random) is random and random.reads.sum() == 0
    arrays = ArraySource({"z": np.zeros((3, 2))})
    assert read_all(arrays) is arrays


def test_split_is_disjoint_covers_all_and_depends_on_the_seed():
    source = Counted(40)
    train, validation = split(source, 0.25, seed=3)
    assert 2 < len(validation) < 20
    assert sorted([*train.indices, *validation.indices]) == list(range(40))
    again, other = split(source, 0.25, seed=3)[1], split(source, 0.25, seed=4)[1]
    np.testing.assert_array_equal(validation.indices, again.indices)
    assert set(validation.indices) != set(other.indices)
    np.testing.assert_array_equal(
        validation.read([2, 0])["image"][:, 0, 0, 0], validation.indices[[2, 0]]
    )


def test_subset_takes_over_what_its_source_says():
    source = Counted(6)
    source.is_random = True
    subset = Subset(source, [5, 1])
    assert (subset.class_names, subset.channels, subset.is_random) == (("even", "odd"), 1, True)


def test_a_name_and_the_seed_alone_decide_its_position():
    names = [f"{i}.png" for i in range(2000)]
    positions = hash_positions(names, 0)
    assert 0 <= positions.min() and positions.max() < 1 and abs(positions.mean() - 0.5) < 0.02
    np.testing.assert_array_equal(hash_positions(names[7:9], 0), positions[7:9])
    assert hash_positions(names, 1)[0] != positions[0]
    hash_positions(["\udcff.png"], 0)  # bytes that are no UTF-8


def test_a_further_example_moves_no_other_one_to_the_other_side():
    names = [f"{i}.png" for i in range(400)]
    positions = hash_positions(names, 0)
    assert held_out_below(positions, 0.05) == held_out_below(positions[:300], 0.05) == 0.05


@pytest.mark.parametrize(("n", "fraction"), [(2, 0.01), (2, 0.99), (100, 0.05)])
def test_each_side_of_a_split_has_at_least_one(n, fraction):
    for seed in range(20):
        positions = hash_positions(map(str, range(n)), seed)
        assert 1 <= sum(positions < held_out_below(positions, fraction)) < n


def test_nothing_is_held_out_for_a_fraction_of_0():
    assert held_out_below(np.array([0.0, 0.5]), 0) == held_out_below(np.array([]), 0) == 0


@pytest.mark.parametrize(("n", "fraction"), [(1, 0.05), (10, 1.0), (10, -0.1)])
def test_what_cannot_be_divided_is_refused(n, fraction):
    with pytest.raises(UserError):
        held_out_below(hash_positions(map(str, range(n)), 0), fraction)


def test_a_chosen_caption_is_the_first_without_a_generator_and_any_with_one():
    texts = ["a", "b", "c"]
    assert choose_caption(texts, None) == "a" and choose_caption([], None) == ""
    assert {choose_caption(texts, np.random.default_rng(i)) for i in range(40)} == set(texts)
