"""The reference's numbers about schedules and samplers."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def golden():
    """What CompVis/latent-diffusion and the DPM-Solver of stable-diffusion computed, betas
    sqrt-linear from .0015 to .0195.

    sampler/*: images `[B, C, H, W]` of a toy network, see test_golden.py. ddim_*: its DDIM
    sampler's tables by S. ddpm/*, ddpm_v*/*: its DDPM's, by v; lvlb_weights also by what the
    network predicts.
    """
    with np.load(Path(__file__).with_name("golden.npz")) as file:
        return dict(file)
