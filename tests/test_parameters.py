"""Parameters as nested dictionaries."""

import numpy as np

from ldm_jax.parameters import not_finite


def test_the_first_array_that_is_no_number_is_named():
    tree = {"unet": {"in": {"kernel": np.ones(3), "bias": np.zeros(2)}}, "scale": np.float32(1)}
    assert not_finite(tree) is None
    tree["unet"]["in"]["bias"][1] = np.inf
    assert not_finite(tree) == "unet.in.bias"
    assert not_finite({"scale_factor": np.float32("nan")}) == "scale_factor"
