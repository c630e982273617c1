"""Which timesteps? How much contrast each spacing leaves, where the right answer is known.

    python benchmarks/spacing.py

For data that are normal with mean 0 and a standard deviation, the best possible network is known,
and a deterministic solver multiplies z_T by a number. Printed is the standard deviation of the
samples as a share of that of the data: 1 would be right. A latent has large structures, of standard
deviation 1 or more, and fine ones, of 0.1 and less.
"""

import jax.numpy as jnp

from ldm_jax.diffusion.schedule import ScheduleConfig, bcast, make_schedule
from ldm_jax.sampling.noise import image_keys
from ldm_jax.sampling.sample import ReverseProcess, denoiser, sample
from ldm_jax.sampling.solvers import SOLVERS
from ldm_jax.sampling.timesteps import timestep_grid

SCHEDULE = make_schedule(ScheduleConfig())
SPACINGS = ("uniform", "quadratic", "log-snr", "karras")
STDS = jnp.array([1.0, 0.4, 0.1])[:, None, None, None]  # an image each


def eps(z_t, t):
    """What the best network says."""
    alpha, sigma = bcast(SCHEDULE.alpha(t), z_t), bcast(SCHEDULE.sigma(t), z_t)
    return sigma * z_t / (alpha**2 * STDS**2 + sigma**2)


def main():
    print(f"| solver | steps | {' | '.join(SPACINGS)} |\n|---|---|{'---|' * len(SPACINGS)}")
    keys, denoise = image_keys(0, jnp.arange(len(STDS))), denoiser(eps, SCHEDULE, "eps")
    for sampler in ("ddim", "dpmpp-2m"):
        for steps in (10, 25, 50):
            cells = []
            for spacing in SPACINGS:
                grid = jnp.asarray(timestep_grid(spacing, steps, SCHEDULE))
                start = jnp.hypot(SCHEDULE.alpha(grid[0]) * STDS, SCHEDULE.sigma(grid[0]))
                process = ReverseProcess(SCHEDULE, SOLVERS[sampler], grid)
                left = sample(denoise, process, start, keys) / STDS
                cells.append(", ".join(f"{share:.3f}" for share in left.ravel().tolist()))
            print(f"| {sampler} | {steps} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
