"""Cross-attention maps: which words a position attends to while an image is sampled (Sec. 3.3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ldm_jax.diffusion.process import eps_and_z0
from ldm_jax.diffusion.step import DiffusionObjective
from ldm_jax.layers import Attention
from ldm_jax.sampling.guidance import guided
from ldm_jax.sampling.noise import image_keys, noise_like
from ldm_jax.sampling.settings import SamplingSettings
from ldm_jax.sampling.solvers import SOLVERS


def attention_maps(
    objective: DiffusionObjective,
    params: dict,
    y: np.ndarray,
    null: np.ndarray | None,
    settings: SamplingSettings,
    shape: tuple[int, int, int],
) -> dict[str, np.ndarray]:
    """The cross-attention of every layer while DDIM (eta 0) samples one image.

    Args:
      y: one condition `[1, ...]`. null: the null condition, for guidance, whose maps are those of
        the conditional half. shape: of the latent (h, w, c).

    Returns:
      {layer: float32 `[step, head, h', w', token]`}; over the tokens they sum to 1. h' and w' are h
      and w, halved as often as the layer's level is.
    """
    schedule, is_guided = objective.schedule, null is not None and settings.guidance != 1.0
    grid = jnp.asarray(settings.grid(schedule))
    null = None if null is None else jnp.broadcast_to(null[None], y.shape)
    both = jnp.concatenate([y, null]) if is_guided else jnp.asarray(y)
    z_T = noise_like(image_keys(settings.seed, jnp.arange(1)), shape)

    @jax.jit
    def run(params: dict, z_T: jax.Array) -> dict[str, jax.Array]:
        def body(z_t, now):
            t, s = now
            network = objective.model(params)
            network.set_attributes(Attention, record=True, raise_if_not_found=False)
            # What is recomputed in a backward pass cannot be recorded; there is none here.
            network.set_attributes(remat=False, raise_if_not_found=False)
            times = jnp.broadcast_to(t, len(both))
            out = network(jnp.repeat(z_t, len(both), axis=0), times, both)
            recorded = nnx.to_pure_dict(nnx.pop(network, nnx.Intermediate))
            if is_guided:
                scale, rescale = settings.guidance, settings.guidance_rescale
                out = guided(out[:1], out[1:], scale, rescale)
            estimate = eps_and_z0(schedule, objective.prediction, out, z_t, times[:1])
            z_s, _ = SOLVERS["ddim"].step(schedule, lambda *_: estimate, z_t, t, s, 0.0, 0.0)
            return z_s, _by_layer(recorded["unet"])

        return jax.lax.scan(body, z_T, (grid[:-1], grid[1:]))[1]

    maps = run(params, z_T)
    return {layer: _as_image(np.asarray(p), *shape[:2]) for layer, p in maps.items()}


def _by_layer(tree: dict, path: str = "") -> dict[str, jax.Array]:
    """{layer: probabilities `[head, position, token]` of the first row}, cross-attention alone."""
    found = {}
    for name, child in tree.items():
        if name == "probabilities":
            return {path: child[0][0]} if path.endswith("cross_attention") else {}
        found |= _by_layer(child, f"{path}.{name}".lstrip("."))
    return found


def _as_image(probabilities: np.ndarray, h: int, w: int) -> np.ndarray:
    """`[step, head, position, token]` -> `[step, head, h', w', token]`, of an h x w latent."""
    steps, heads, positions, tokens = probabilities.shape
    factor = round((h * w / positions) ** 0.5)
    return probabilities.reshape(steps, heads, h // factor, w // factor, tokens)
