"""What can a model do that it was not trained for? Fill a hole, change or follow an image.

    python benchmarks/unconditional.py runs/scenes-unconditional [--perceptual-file FILE]

takes a run of scenes without a condition, and held-out scenes:

- in-painting by blending (Sec. 4.5): known latents are put in at every step. `tasks.py` compares it
  with scenes-inpainting, a model trained for it.
- image to image: from the noised latent, `--image FILE --strength S`. How near to the image it
  stays, and whether what comes out is a proper scene.
- guided by an image of a quarter of the side (App. C, Eq. (17)): `--guide-image FILE
  --guide-factor 4`. How near it comes to that, and to the image that nobody showed it.
"""

from dataclasses import replace
from functools import partial

import numpy as np
from trained_run import held_out, options_of

import ldm_jax
from ldm_jax import LatentDiffusion, plots
from ldm_jax.autoencoder.step import to_bytes, to_model_range
from ldm_jax.commands.train.judge import distances
from ldm_jax.data.degradations import degrade
from ldm_jax.data.masks import masked_image, mean_fill, random_mask
from ldm_jax.evaluation.distortion import psnr
from ldm_jax.evaluation.scene_reports import validity
from ldm_jax.pretrained.lpips import load_lpips
from ldm_jax.sampling.editing import add_noise, composite, first_step, known_cells
from ldm_jax.sampling.guides import Guide, downsample, image_log_p
from ldm_jax.sampling.inputs import SamplingInputs
from ldm_jax.sampling.noise import image_keys

FACTOR = 4
STRENGTHS = (0.2, 0.4, 0.6, 0.8)
SCALES = (0, 4, 16, 64)


def sampled(model: LatentDiffusion, inputs: SamplingInputs, progress: str, **changes) -> np.ndarray:
    """Images for these inputs."""
    settings = replace(model.settings, batch_size=32, **changes)
    return np.concatenate(list(model.batches(inputs, settings, progress=progress)))


def blended(model: LatentDiffusion, images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Images whose holes are filled, masks bool `[n, H, W]`: known latents are put in each time."""
    # Of the image with a black hole: what stands behind it must not leak into the known latents.
    z_0 = model.encode(masked_image(images, masks))
    known = np.stack([known_cells(mask, model.first.f) for mask in masks])
    samples = sampled(model, SamplingInputs(len(images), known=(known, z_0)), "blending")
    return np.stack(list(map(composite, masks, samples, images)))


def changed(model: LatentDiffusion, images: np.ndarray, strength: float) -> np.ndarray:
    """Images sampled again from their noised latents."""
    n, settings = len(images), model.settings
    grid = settings.grid(model.schedule)
    first, keys = first_step(strength, settings.steps), image_keys(0, np.arange(n))
    z_t = np.asarray(add_noise(model.schedule, model.encode(images), grid[first], keys))
    inputs = SamplingInputs(n, first_step=first, init_latents=z_t)
    return sampled(model, inputs, f"strength {strength:g}")


def guided(model: LatentDiffusion, guide: Guide) -> np.ndarray:
    """Images guided by small ones, which they should come to when they are reduced."""
    inputs = SamplingInputs(len(guide.y), guides=(guide,))
    return sampled(model, inputs, f"guided, scale {guide.scale:g}", eta=1.0)


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
    model = ldm_jax.load(options.run)
    images, shown = held_out(model, options.images)["image"], []

    n, side = images.shape[:2]
    masks = np.stack([random_mask("mixed", side, side, np.random.default_rng(i)) for i in range(n)])
    drawn = blended(model, images, masks)
    means = np.stack([mean_fill(x, mask) for x, mask in zip(images, masks, strict=True)])
    shown += [np.where(masks[..., None], np.uint8(128), images), drawn]
    for who, samples in (("blended", drawn), ("mean fill", means)):
        scores = distances(images, samples, weights)
        said = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        print(f"in-painting, {who}: {said}", flush=True)

    print("\n| strength | PSNR to the image | proper scenes |\n|---|---|---|", flush=True)
    for strength in STRENGTHS:
        samples = changed(model, images, strength)
        shown += [samples] if strength in (0.4, 0.8) else []
        near = f"{np.mean(psnr(images, samples)):.1f} dB"
        print(f"| {strength:g} | {near} | {validity(samples).mean():.1%} |", flush=True)

    low = degrade("bicubic", images, FACTOR, None)
    log_p = image_log_p(model.decode_float, transform=partial(downsample, n=FACTOR))
    target, weights = np.asarray(to_model_range(low)), (model.weights.constants, ())
    print("\n| scale of the guide | PSNR to the guide | to the image | proper scenes |")
    print("|---|---|---|---|")
    for scale in SCALES:
        samples = guided(model, Guide(log_p, weights, target, scale))
        shown += [samples] if scale == SCALES[-1] else []
        near = [np.mean(psnr(*pair)) for pair in ((low, reduced(samples)), (images, samples))]
        row = " | ".join(f"{decibels:.1f} dB" for decibels in near)
        print(f"| {scale:g} | {row} | {validity(samples).mean():.1%} |", flush=True)
    if options.figure:
        plots.save_png(options.figure, plots.stacked([x[:8] for x in [images, *shown]]))


if __name__ == "__main__":
    main()
