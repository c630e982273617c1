"""What is recorded of the zoo: which number and which array belongs to which autoencoder."""

import json

import numpy as np
import pytest

from ldm_jax.shipped.recorded import recorded_zoo

NAMES = ("images", "noise", "counts", "edges")


@pytest.fixture
def folder(tmp_path):
    """Two autoencoders; of the first also a moment, of the second an adversary's logits."""
    places = {"f4": 1, "f4/100": 2, "adversary": 3}
    arrays = {f"{place}/{name}": np.full(2, n) for place, n in places.items() for name in NAMES}
    arrays |= {"adversary/logits_real": np.full(2, 4), "adversary/logits_fake": np.full(2, 5)}
    np.savez(tmp_path / "zoo.npz", scenes=np.zeros(2), **arrays)
    members = {
        "f4": {"psnr": 30.0, "moments": {"100": {"psnr": 20.0}}},
        "adversary": {"psnr": 25.0, "moments": {}},
    }
    recorded = {"judged": 512, "captions": ["a red ball"], "members": members}
    (tmp_path / "zoo.json").write_text(json.dumps(recorded))
    return tmp_path


def test_each_autoencoder_has_its_own_numbers_and_arrays(folder):
    zoo = recorded_zoo(folder)
    assert zoo.facts == {"judged": 512} and zoo.captions == ["a red ball"]
    np.testing.assert_array_equal(zoo.scenes, np.zeros(2))
    one, other = zoo.members["f4"], zoo.members["adversary"]
    assert (one.numbers, other.numbers) == ({"psnr": 30.0}, {"psnr": 25.0})
    assert [getattr(one, name)[0] for name in NAMES] == [1] * 4
    assert [getattr(other, name)[0] for name in NAMES] == [3] * 4
    assert one.logits_real is None and (other.logits_real[0], other.logits_fake[0]) == (4, 5)


def test_a_moment_is_the_same_after_fewer_steps(folder):
    zoo = recorded_zoo(folder)
    assert zoo.members["adversary"].moments == {}
    (moment,) = zoo.members["f4"].moments.items()
    assert moment[0] == 100 and moment[1].numbers == {"psnr": 20.0}
    assert [getattr(moment[1], name)[0] for name in NAMES] == [2] * 4
