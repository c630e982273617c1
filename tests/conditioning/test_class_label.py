"""Class labels: names and numbers, clear errors, one token a class."""

import numpy as np
import pytest
from flax import nnx

from ldm_jax.conditioning.class_label import ClassEmbedder, ClassLabels
from ldm_jax.errors import UserError

LABELS = ClassLabels(("cat", "dog", "7"))


def test_names_and_numbers_mean_the_same_class():
    encoded = LABELS.encode(["dog", "1", 1, "cat"])
    assert encoded.tolist() == [1, 1, 1, 0] and encoded.dtype == np.int32
    assert LABELS.encode(["7"]).tolist() == [2]  # a name that is a number is a name first
    assert LABELS.decode(encoded) == ["dog", "dog", "dog", "cat"]


def test_the_null_class_comes_after_all_others():
    assert LABELS.null == 3 and LABELS.null.dtype == np.int32
    assert LABELS.decode([LABELS.null]) == ["(any class)"]


@pytest.mark.parametrize("wanted", ["bird", "3", 3, -1, "", "²"])
def test_an_unknown_class_is_named_with_those_there_are(wanted):
    with pytest.raises(UserError, match=rf"'{wanted}'; this model knows 0 to 2: cat, dog, 7$"):
        LABELS.encode(["cat", wanted])


def test_a_long_list_of_classes_is_cut():
    with pytest.raises(UserError) as error:
        ClassLabels(tuple(f"class_{i}" for i in range(1000))).encode(["1000"])
    assert "0 to 999" in str(error.value) and str(error.value).endswith("class_39, ...")


def test_embedder_looks_one_token_up(drawn):
    graph, params = drawn(ClassEmbedder, 4, 5)
    tokens = nnx.merge(graph, params)(np.array([2, 0]))
    np.testing.assert_array_equal(tokens, params["embedding"]["embedding"][[2, 0]][:, None])
