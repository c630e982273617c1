"""The exercises of notebook 7 agree with the library."""

import jax.numpy as jnp

from ldm_jax.course import unet
from ldm_jax.diffusion.unet import timestep_embedding
from ldm_jax.training.step import TrainState, update_ema


def test_the_right_embedding_is_the_librarys():
    def librarys(t, dim):
        return timestep_embedding(jnp.asarray(t), int(dim))

    assert unet.timestep_embedding(librarys).state == "right"


def test_the_right_average_is_the_librarys_after_its_warm_up():
    def librarys(average, weights, decay):
        state = TrainState(jnp.int32(10_000), weights, average, (), {})
        return update_ema(state, weights, float(decay))

    assert unet.ema(librarys).state == "right"
