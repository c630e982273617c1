"""Which options of `sample.py` go together: nothing is read, nothing is computed."""

from dataclasses import replace

import pytest

from ldm_jax.commands.sample.command import (
    ConditionOptions,
    EditOptions,
    SampleCommand,
    check_options,
)
from ldm_jax.errors import UserError
from ldm_jax.sampling.settings import SamplingSettings


@pytest.mark.parametrize("other", [{"steps": 10}, {"spacing": "karras"}])
def test_timesteps_take_the_place_of_steps_and_spacing(other):
    settings = SamplingSettings(timesteps=(999, 500))
    check_options(SampleCommand("RUN", sampling=settings))
    both = SampleCommand("RUN", sampling=replace(settings, **other))
    with pytest.raises(UserError, match=f"--timesteps and --{[*other][0]} do not go together"):
        check_options(both)
    check_options(both, own=SamplingSettings(**other))  # the model's own: no one has asked for it


def test_an_inversion_takes_no_negative_prompt():
    condition = ConditionOptions(negative_prompt="blue")
    check_options(SampleCommand("RUN", condition=condition))
    with pytest.raises(UserError, match="--invert takes no --negative-prompt"):
        check_options(
            SampleCommand("RUN", condition=condition, edit=EditOptions(invert="image.png"))
        )
