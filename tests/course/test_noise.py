"""The exercises of notebook 6 agree with the library."""

import jax
import numpy as np
import pytest

from ldm_jax.course import noise
from ldm_jax.diffusion.process import eps_and_z0, q_sample
from ldm_jax.diffusion.schedule import ScheduleConfig, bcast, make_schedule

SCHEDULE = make_schedule(ScheduleConfig())


def test_the_right_q_sample_is_the_librarys():
    def librarys(z_0, t, eps):
        return q_sample(SCHEDULE, z_0, t, eps)

    assert noise.q_sample(librarys).state == "right"


def test_the_right_tweedie_is_eq_14_of_the_library():
    def librarys(z_t, t, score):
        eps = -bcast(SCHEDULE.sigma(t), z_t) * score
        return eps_and_z0(SCHEDULE, "eps", eps, z_t, t)[1]

    assert noise.tweedie(librarys).state == "right"


def test_a_table_with_one_factor_for_all_examples_is_wrong():
    def of_first(z_0, t, eps):
        return q_sample(SCHEDULE, z_0, np.full_like(t, t[0]), eps)

    assert noise.q_sample(of_first).state == "wrong"


@pytest.mark.parametrize("t", [999])
def test_the_mean_at_the_end_is_that_of_the_two_points(t):
    alpha, sigma = SCHEDULE.alpha(np.int32(t)), SCHEDULE.sigma(np.int32(t))
    z_t = np.linspace(-3, 3, 7)
    log_odds = np.log(3) + 2 * alpha * z_t / sigma**2
    guesses = np.asarray(2 * jax.nn.sigmoid(log_odds) - 1)
    assert all(noise.mean_at_the_end(guess).state == "right" for guess in guesses[2:5])
