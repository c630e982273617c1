"""The steps a sampler visits, for every number of them."""

from typing import get_args

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.schedule import ScheduleConfig, make_schedule
from ldm_jax.errors import UserError
from ldm_jax.sampling.timesteps import (
    FRACTIONAL,
    Spacing,
    check_steps,
    custom_grid,
    timestep_grid,
)

SCHEDULE = make_schedule(ScheduleConfig())


@pytest.mark.parametrize("T", [1, 7, 1000])
@pytest.mark.parametrize("spacing", ["uniform", "quadratic", "log-snr", "karras"])
def test_every_number_of_steps_gives_exactly_as_many_from_pure_noise_to_clean_data(spacing, T):
    for kind in ("sqrt-linear", "cosine"):
        schedule = make_schedule(ScheduleConfig(kind, T))
        for S in range(1, T + 1):
            grid = timestep_grid(spacing, S, schedule)
            assert grid.shape == (S + 1,)
            assert grid.dtype == (np.float32 if spacing in FRACTIONAL else np.int32)
            assert grid[0] == T - 1 and grid[-2] >= 0 and grid[-1] == -1
            assert (np.diff(grid) < 0).all()


@pytest.mark.parametrize("spacing", ["uniform", "quadratic"])
def test_all_steps_are_all_steps(spacing):
    np.testing.assert_array_equal(timestep_grid(spacing, 1000, SCHEDULE), np.arange(-1, 1000)[::-1])


def test_uniform_steps_differ_by_one_at_most():
    for S in (3, 30, 300):
        gaps = -np.diff(timestep_grid("uniform", S, SCHEDULE))
        assert set(gaps) <= {1000 // S, 1000 // S + 1}


def test_quadratic_steps_grow_with_t_where_there_is_room():
    tau = timestep_grid("quadratic", 20, SCHEDULE)[::-1] + 1
    np.testing.assert_allclose(tau, 1000 * (np.arange(21) / 20) ** 2, atol=0.5)
    tight = timestep_grid("quadratic", 500, SCHEDULE)[::-1]
    np.testing.assert_array_equal(tight[:250], np.arange(-1, 249))  # i^2 would rise too slowly


@pytest.mark.parametrize("kind", ["sqrt-linear", "cosine"])
def test_log_snr_steps_are_even_in_it(kind):
    schedule = make_schedule(ScheduleConfig(kind))
    grid = timestep_grid("log-snr", 30, schedule)
    gaps = np.diff(schedule.half_log_snr(jnp.asarray(grid[:-1])))
    np.testing.assert_allclose(gaps, gaps.mean(), rtol=2e-3)
    assert grid[-2] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", ["sqrt-linear", "cosine"])
def test_karras_steps_are_equation_5_of_its_paper(kind):
    """sigma_i = (max^(1/7) + i/(S-1) (min^(1/7) - max^(1/7)))^7 in sigma/alpha."""
    schedule, S = make_schedule(ScheduleConfig(kind)), 12
    u = np.sqrt(1 / schedule.alpha_bar - 1)
    ramp = np.linspace(0, 1, S)
    expected = (u[-1] ** (1 / 7) + ramp * (u[0] ** (1 / 7) - u[-1] ** (1 / 7))) ** 7
    grid = timestep_grid("karras", S, schedule)
    found = np.exp(-schedule.half_log_snr(jnp.asarray(grid[:-1])))
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_timesteps_may_be_given():
    np.testing.assert_array_equal(custom_grid([999, 850, 0], 1000), [999, 850, 0, -1])
    np.testing.assert_array_equal(custom_grid([7], 1000), [7, -1])
    for wrong in ([1000, 5], [5, 5], [1, 2], [5, -1]):
        with pytest.raises(
            UserError, match="they decrease, from 999 at most to 0 .* 999 561 249 61"
        ):
            custom_grid(wrong, 1000)


@pytest.mark.parametrize("S", [10, 20, 50, 100, 200, 250, 400])
def test_compvis_equals_the_reference(S, golden):
    """At S = 400 it makes 500 steps."""
    expected = [*golden[f"ddim_timesteps/uniform_{S}"][::-1], 0]
    np.testing.assert_array_equal(timestep_grid("compvis", S, SCHEDULE), expected)


@pytest.mark.parametrize("S", [10, 50])
def test_compvis_quadratic_equals_the_reference(S, golden):
    expected = [*golden[f"ddim_timesteps/quad_{S}"][::-1], 0]
    np.testing.assert_array_equal(timestep_grid("compvis-quadratic", S, SCHEDULE), expected)


def test_compvis_takes_the_number_of_steps_for_a_hint():
    made = {S: len(timestep_grid("compvis", S, SCHEDULE)) - 1 for S in (1, 7, 30, 60, 120, 180)}
    assert made == {1: 1, 7: 8, 30: 31, 60: 63, 120: 125, 180: 200}


@pytest.mark.slow
def test_compvis_refuses_the_599_numbers_of_steps_at_which_the_original_fails():
    refused = []
    for S in range(1, 1001):
        try:
            grid = timestep_grid("compvis", S, SCHEDULE)
            assert grid[0] <= 999 and (np.diff(grid) < 0).all() and grid[-1] == 0
        except UserError:
            refused.append(S)
    fails = [3, 9, 27, 36, 37, *range(101, 112), *range(251, 334), *range(501, 1001)]
    assert refused == fails and len(fails) == 599


@pytest.mark.parametrize(
    "spacing, S, T, nearest",
    [
        ("compvis", 300, 1000, "250 or 334"),
        ("compvis", 1000, 1000, "500"),
        ("compvis-quadratic", 3, 5, "1"),
        ("compvis", 1, 1, "none"),
        ("compvis-dpm", 1, 1, "none"),
    ],
)
def test_a_grid_that_would_leave_the_timesteps_is_refused_with_what_would_not(
    spacing, S, T, nearest
):
    said = f"steps is {S}, but spacing {spacing} .* {T} timesteps .* work: {nearest}$"
    with pytest.raises(UserError, match=said):
        timestep_grid(spacing, S, make_schedule(ScheduleConfig(timesteps=T)))


def test_compvis_dpm_is_even_and_fractional_and_ends_at_0():
    grid = timestep_grid("compvis-dpm", 8, SCHEDULE)
    assert grid.dtype == np.float32 and grid.shape == (9,)
    np.testing.assert_allclose(grid, 999 * np.arange(8, -1, -1) / 8)


@pytest.mark.parametrize("spacing", get_args(Spacing))
@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_an_impossible_number_of_steps_is_refused(steps, spacing):
    with pytest.raises(UserError, match=f"steps is {steps}; this model takes 1 to 1000"):
        timestep_grid(spacing, steps, SCHEDULE)


def test_an_unknown_spacing_is_refused_with_those_there_are():
    with pytest.raises(UserError, match="unknown spacing 'cubic'; there are: uniform, quadratic,"):
        check_steps("cubic", 10, 1000)
