"""The steps a sampler visits, for every number of them."""

import numpy as np
import pytest

from ldm_jax.errors import UserError
from ldm_jax.sampling.timesteps import uniform_timesteps


@pytest.mark.parametrize("T", [1, 7, 1000])
def test_every_number_of_steps_gives_exactly_as_many_in_range_and_decreasing(T):
    """The original fails for 599 of the 1000 and gives another number for most of the others."""
    for S in range(1, T + 1):
        tau = uniform_timesteps(S, T)
        assert tau.shape == (S,) and tau.dtype == np.int32
        assert tau[0] == T - 1 and tau[-1] >= 0
        assert (np.diff(tau) < 0).all()


def test_all_steps_are_all_steps():
    np.testing.assert_array_equal(uniform_timesteps(1000, 1000), np.arange(1000)[::-1])


def test_steps_are_spread_evenly_down_to_clean_data():
    for S in (3, 30, 300):
        gaps = -np.diff([*uniform_timesteps(S, 1000), -1])  # the last move goes to step -1
        assert set(gaps) <= {1000 // S, 1000 // S + 1}


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_an_impossible_number_of_steps_is_refused(steps):
    with pytest.raises(UserError, match=f"steps is {steps}; this model takes 1 to 1000"):
        uniform_timesteps(steps, 1000)
