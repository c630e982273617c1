"""What can a model do that it was not trained for? Fill a hole, change or follow an image.

    python benchmarks/unconditional.py runs/scenes-unconditional [--perceptual-file FILE]

takes a run of scenes without a condition, and held-out scenes:

- in-painting by blending (Sec. 4.5): known latents are put in at every step. The masks are those
  that scenes-inpainting, a model trained for it, is judged by, and so are the numbers.
- image to image: from the noised latent, `--image FILE --strength S`. How near to the image it
  stays, and whether what comes out is a proper scene.
- guided by an image of a quarter of the side (App. C, Eq. (17)): `--guide-image FILE
  --guide-factor 4`. How near it comes to that, and to the image that nobody showed it.
"""

from functools import partial

import jax
import numpy as np
from trained_run import TrainedRun, options_of

from ldm_jax import plots
from ldm_jax.autoencoder.step import to_bytes, to_model_range
from ldm_jax.commands.train.judge import distances
from ldm_jax.data.degradations import degrade
from ldm_jax.data.masks import masked_image, mean_fill, random_mask
from ldm_jax.evaluation.distortion import psnr
from ldm_jax.evaluation.scene_reports import validity
from ldm_jax.pretrained.lpips import load_lpips
from ldm_jax.sampling.editing import add_noise, composite, first_step, known_cells
from ldm_jax.sampling.guides import Guide, downsample, image_log_p
from ldm_jax.sampling.sample import image_keys
from ldm_jax.sampling.timesteps import timestep_grid

FACTOR = 4
STRENGTHS = (0.2, 0.4, 0.6, 0.8)
SCALES = (0, 4, 16, 64)


class Model(TrainedRun):
    """A trained run, and held-out scenes, also as latents."""

    def __init__(self, path: str, n: int):
        super().__init__(path, n)
        self.draw = partial(self.draw, None, steps=self.experiment.sampling.steps)
        self.images = self.held_out()["image"]
        self.grid = timestep_grid(
            "uniform", self.experiment.sampling.steps, self.second.problem.schedule
        )

    def encoded(self, images: np.ndarray) -> np.ndarray:
        """z_0 of images."""
        encode = jax.jit(self.second.encode)
        parts = np.array_split(images, -(-len(images) // 16))
        return np.concatenate([encode(self.weights[1], part) for part in parts])


def blended(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """(images with a hole that is filled, the holes)."""
    n, side = len(model.images), model.images.shape[1]
    masks = np.stack([random_mask("mixed", side, side, np.random.default_rng(i)) for i in range(n)])
    f = model.experiment.autoencoder.network.f
    # Of the image with a black hole: what stands behind it must not leak into the known latents.
    z_0 = model.encoded(masked_image(model.images, masks))
    known = np.stack([known_cells(mask, f) for mask in masks])
    drawn = model.draw(keep=(known, z_0), progress="in-painting")
    filled = [composite(*row) for row in zip(masks, drawn, model.images, strict=True)]
    return np.stack(filled), masks


def changed(model: Model, strength: float) -> np.ndarray:
    """Images drawn again from their noised latents."""
    first = first_step(strength, len(model.grid) - 1)
    keys = image_keys(0, np.arange(len(model.images)))
    z_0 = model.encoded(model.images)
    start = add_noise(model.second.problem.schedule, z_0, model.grid[first], keys)
    return model.draw(first_step=first, start=np.asarray(start), progress=f"strength {strength:g}")


def followed(model: Model, low: np.ndarray, scale: float) -> np.ndarray:
    """Images guided by small ones, which they should come to when they are reduced."""
    log_p = image_log_p(model.second.image, transform=partial(downsample, n=FACTOR))
    guide = Guide(log_p, (model.weights[1], ()), np.asarray(to_model_range(low)), scale)
    return model.draw(guides=[guide], eta=1.0, progress=f"guided, scale {scale:g}")


def reduced(images: np.ndarray) -> np.ndarray:
    """As the guide sees images."""
    return np.asarray(to_bytes(downsample(to_model_range(images), FACTOR)))


def main():
    arguments = options_of(__doc__, images=128)
    arguments.add_argument("--perceptual-file", default="", help="weights of LPIPS on SqueezeNet")
    arguments.add_argument("--figure", default="", help="a .png to show some of them in")
    options = arguments.parse_args()
    weights = None
    if options.perceptual_file:
        weights = load_lpips("squeezenet", options.perceptual_file)
    model = Model(options.run, options.images)
    images, shown = model.images, []

    filled, masks = blended(model)
    means = np.stack([mean_fill(x, mask) for x, mask in zip(images, masks, strict=True)])
    shown += [np.where(masks[..., None], np.uint8(128), images), filled]
    for who, samples in (("blended", filled), ("mean fill", means)):
        scores = distances(images, samples, weights)
        said = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        print(f"in-painting, {who}: {said}", flush=True)

    print("\n| strength | PSNR to the image | proper scenes |\n|---|---|---|", flush=True)
    for strength in STRENGTHS:
        samples = changed(model, strength)
        shown += [samples] if strength in (0.4, 0.8) else []
        near = f"{np.mean(psnr(images, samples)):.1f} dB"
        print(f"| {strength:g} | {near} | {validity(samples).mean():.1%} |", flush=True)

    low = degrade("bicubic", images, FACTOR, None)
    print("\n| scale of the guide | PSNR to the guide | to the image | proper scenes |")
    print("|---|---|---|---|")
    for scale in SCALES:
        samples = followed(model, low, scale)
        shown += [samples] if scale == SCALES[-1] else []
        near = [np.mean(psnr(*pair)) for pair in ((low, reduced(samples)), (images, samples))]
        row = " | ".join(f"{decibels:.1f} dB" for decibels in near)
        print(f"| {scale:g} | {row} | {validity(samples).mean():.1%} |", flush=True)
    if options.figure:
        plots.save_png(options.figure, plots.stacked([x[:8] for x in [images, *shown]]))


if __name__ == "__main__":
    main()
