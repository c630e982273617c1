"""What `zoo.py` records of an autoencoder: numbers as JSON, and images as arrays."""

from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from ldm_jax import LatentDiffusion
from ldm_jax.autoencoder import vq
from ldm_jax.autoencoder.kl import kl_to_standard_normal, split_moments
from ldm_jax.autoencoder.perceptual import lpips
from ldm_jax.autoencoder.step import to_model_range
from ldm_jax.commands.train.held_out import HeldOut
from ldm_jax.commands.train.judge import kernel_distances
from ldm_jax.data.scenes import SHAPES, ScenesConfig, ScenesSource
from ldm_jax.data.spread import turns
from ldm_jax.evaluation.distortion import psnr, ssim
from ldm_jax.evaluation.scene_reports import caption_scores
from ldm_jax.training.sharding import map_batches
from ldm_jax.training.step import count_parameters

SHOWN = 8  # scenes whose images are recorded
BINS = 60  # of the histogram of z
BATCH = 32  # pairs of images compared by LPIPS at a time
WIDTH = 4.0  # where it ends on either side, in standard deviations of z

Arrays = dict[str, np.ndarray]


class Scenes(NamedTuple):
    """Held-out scenes."""

    images: np.ndarray  # uint8 [n, H, W, 3]; shapes take turns
    captions: list[str]
    others: np.ndarray  # uint8 [m, H, W, 3]: further ones, which KID compares with


def held_out(data: ScenesConfig, seed: int) -> Scenes:
    """Half of the held-out scenes to judge by, and the other half."""
    source = ScenesSource(data, "validation", seed)
    n = len(source) // 2
    truth = HeldOut.read(source, None, n, SHOWN).truth
    captions = list(truth["caption"])
    first_shape = np.array([min(SHAPES, key=lambda s: (text + s).find(s)) for text in captions])
    order = np.argsort(turns(first_shape), kind="stable")  # so shapes take turns
    others = HeldOut.others(source, n, SHOWN)
    return Scenes(truth["image"][order], [captions[i] for i in order], others)


def judge(model: LatentDiffusion, scenes: Scenes, weights: dict) -> tuple[dict[str, Any], Arrays]:
    """(numbers, arrays) of an autoencoder.

    Numbers: those of `compared`; `z`, what is known of the latents; `parameters`.

    Arrays: `images` uint8 `[8, H, W, 3]`, reconstructions; `noise`, likewise, what is decoded from
    standard normal latents; `counts` int32 `[60]` and `edges` float32 `[61]`, the histogram of z.
    """
    x_hat = model.reconstruct(scenes.images)
    z, of_z = latents(model, scenes.images)
    edges = np.linspace(z.mean() - WIDTH * z.std(), z.mean() + WIDTH * z.std(), BINS + 1)
    noise = np.random.default_rng(0).standard_normal((SHOWN, *z.shape[1:]))
    arrays = {
        "images": x_hat[:SHOWN],
        "noise": model.decode(noise * model.scale_factor),
        "counts": np.histogram(z, edges)[0].astype(np.int32),
        "edges": edges.astype(np.float32),
    }
    parameters = count_parameters(model.parameters["autoencoder"])
    numbers = compared(x_hat, scenes, weights) | {"z": of_z, "parameters": parameters}
    return numbers, arrays


def compared(images: np.ndarray, scenes: Scenes, weights: dict) -> dict[str, Any]:
    """How far images are from the scenes that they are to show.

    `psnr` in dB, `ssim` and `lpips`, means over all; `of_shown`, PSNR and LPIPS of each of the
    first 8; and the numbers of `as_a_set`.
    """
    found = {
        "psnr": psnr(scenes.images, images),
        "ssim": ssim(scenes.images, images),
        "lpips": _lpips(weights, scenes.images, images),
    }
    numbers: dict[str, Any] = {name: round(float(np.mean(a)), 4) for name, a in found.items()}
    numbers["of_shown"] = {
        name: [round(float(one), 4) for one in found[name][:SHOWN]] for name in ("psnr", "lpips")
    }
    return numbers | as_a_set(images, scenes)


def as_a_set(images: np.ndarray, scenes: Scenes) -> dict[str, Any]:
    """`kid` of the images, `read`: the shares of captions and their words that are seen in them."""
    kid = kernel_distances({"images": images}, scenes.others)["images"]
    return {"kid": kid, "read": caption_scores(images, scenes.captions)}


def _lpips(weights: dict, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of each pair of images, uint8 `[n, H, W, 3]`, in SqueezeNet: float32 `[n]`."""
    parts = [
        _distance(weights, x.take(rows, 0, mode="clip"), y.take(rows, 0, mode="clip"))
        for rows in np.arange(-(-len(x) // BATCH) * BATCH).reshape(-1, BATCH)
    ]
    return np.concatenate(parts)[: len(x)]


@jax.jit
def _distance(weights: dict, x: jax.Array, y: jax.Array) -> jax.Array:
    return lpips(weights, "squeezenet", to_model_range(x), to_model_range(y))


def latents(model: LatentDiffusion, x: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """(z of images `[n, h, w, c]` as the diffusion model learns it, what is known of it).

    `std`; of a Gaussian posterior its mean `sigma`, and `kl`, in nats a value; of a codebook the
    share of the codes that are used and their `perplexity`.
    """
    first, (weights, sharding) = model.first, model.placed(len(x))
    params = weights.constants["autoencoder"]
    encoded = map_batches(jax.jit(first.encode), (params,), (x,), sharding.mesh)
    z = np.asarray(first.sample(encoded, jax.random.key(0)))
    found = {"shape": list(z.shape[1:]), "std": float(z.std())}
    if first.bottleneck == "kl":
        mean, logvar = split_moments(encoded)
        found["sigma"] = float(np.exp(0.5 * np.asarray(logvar)).mean())
        found["kl"] = float(kl_to_standard_normal(encoded).mean()) / mean[0].size
    else:
        counts = vq.nearest_counts(z, params["codebook"])
        found["codes_used"] = float(vq.usage(counts))
        found["perplexity"] = float(vq.perplexity(counts))
    return z, found


def logits(model: LatentDiffusion, discriminator: dict, *sets: np.ndarray) -> list[np.ndarray]:
    """What an adversary makes of each patch of images: uint8 `[n, H, W, 3]` -> `[n, h, w]`."""
    network = nnx.merge(model.first.objective.graphs["discriminator"], discriminator)
    return [np.asarray(network(to_model_range(x)))[..., 0] for x in sets]
