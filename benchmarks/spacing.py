"""Which timesteps? How much contrast each spacing leaves, where the right answer is known.

    python benchmarks/spacing.py
    python benchmarks/spacing.py runs/scenes

The second line judges samples of a trained run of scenes instead: KID to held-out renders on the
scene reader's features, and what is read back of the captions. In the first the network is known:
for data that are normal with mean 0 and a standard deviation, the best possible network is known,
and a deterministic solver multiplies z_T by a number. Printed is the standard deviation of the
samples as a share of that of the data: 1 would be right. A latent has large structures, of standard
deviation 1 or more, and fine ones, of 0.1 and less.
"""

import argparse

import jax.numpy as jnp
from trained_run import held_out

import ldm_jax
from ldm_jax.diffusion.schedule import ScheduleConfig, bcast, make_schedule
from ldm_jax.evaluation.features import NETWORKS, extract
from ldm_jax.evaluation.kid import kid
from ldm_jax.evaluation.scene_reports import caption_scores
from ldm_jax.pretrained.feature_networks import load_network
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
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("run", nargs="?", help="a run of scenes")
    arguments.add_argument("--images", type=int, default=256)
    arguments.add_argument("--steps", type=int, nargs="+", default=(10, 25))
    arguments.add_argument("--spacings", nargs="+", default=SPACINGS, choices=SPACINGS)
    options = arguments.parse_args()
    if options.run:
        judge_run(options)
    else:
        known_network()


def judge_run(options):
    """A table of samples of a trained run, guidance 3."""
    model, n = ldm_jax.load(options.run), options.images
    scenes = held_out(model, 2 * n)
    captions, params = list(scenes["caption"][:n]), load_network("scene-reader")

    def features(images):
        return extract(NETWORKS["scene-reader"], params, images, 64)

    real, columns = features(scenes["image"][n:]), ("KID", "recognised", "whole caption")
    print(f"| solver | steps | spacing | {' | '.join(columns)} |\n|---{'|---' * 5}|")
    for sampler in ("ddim", "dpmpp-2m"):
        for steps in options.steps:
            for spacing in options.spacings:
                how = {"sampler": sampler, "steps": steps, "spacing": spacing, "guidance": 3.0}
                images = model.sample(captions, batch_size=64, progress=spacing, **how)
                distance = kid(real=real, generated=features(images))
                read = caption_scores(images, captions)
                cells = f"{distance.mean:.4f} ± {distance.standard_error:.4f}"
                cells += f" | {read['recognised']:.1%} | {read['whole']:.1%}"
                print(f"| {sampler} | {steps} | {spacing} | {cells} |", flush=True)


def known_network():
    """A table of what is left of the contrast of normal data."""
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
