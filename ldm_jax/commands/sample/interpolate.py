"""`--interpolate`: rows of images from one condition, or one seed, to another."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import plots
from ldm_jax.commands.sample.command import SampleCommand
from ldm_jax.commands.sample.plan import Plan, Request, Result
from ldm_jax.errors import UserError
from ldm_jax.sampling.editing import lerp, slerp
from ldm_jax.sampling.inputs import SamplingInputs
from ldm_jax.sampling.noise import image_keys, noise_like


def plan_interpolation(command: SampleCommand, request: Request) -> Plan:
    """Images of one noise between two conditions, or of one condition between two noises."""
    options, model, seed = command.edit, request.model, request.settings.seed
    n, rows, seeds = options.interpolate, request.images_per_prompt, options.to_seed is not None
    ends = 1 if request.conditions is None else len(request.labels)
    if ends + seeds != 2:
        have = "this model is unconditional" if request.conditions is None else f"this names {ends}"
        raise UserError(
            "--interpolate has two ends: two prompts or classes, or one (none for a model that is "
            f"unconditional) with --seed and --to-seed; {have}{' with --to-seed' * seeds}"
        )
    if seed == options.to_seed:
        raise UserError(f"--interpolate has two ends, but --seed and --to-seed are both {seed}")
    along = options.along or ("sphere" if seeds else "line")
    between = {"sphere": slerp, "line": lerp}[along]
    ids = np.repeat(np.arange(rows), n)

    @jax.jit
    def path(a: jax.Array, b: jax.Array) -> jax.Array:
        """`[B, ...]` -> `[B, n, ...]`"""
        return jax.vmap(between, (None, None, 0), 1)(a, b, jnp.linspace(0.0, 1.0, n))

    def between_seeds() -> SamplingInputs:
        shape = model.geometry(request.settings).shape
        keys = [image_keys(s, np.arange(rows)) for s in (seed, options.to_seed)]
        z_T = np.asarray(path(*(noise_like(k, shape) for k in keys))).reshape(rows * n, *shape)
        inputs = model.inputs(request.conditions, rows * n, request.negative)
        return replace(inputs, image_ids=ids, init_latents=z_T)

    def between_conditions() -> SamplingInputs:
        c = model.embed(request.conditions)
        c = np.concatenate([path(c[:1], c[1:])[0]] * rows)
        negative = request.negative and np.repeat(model.embed(request.negative), len(c), axis=0)
        return SamplingInputs(len(c), c, negative, embedded=True, image_ids=ids)

    def result(images: np.ndarray) -> Result:
        first, last = (f"seed {seed}", f"seed {options.to_seed}") if seeds else request.labels[:2]
        labels = [first, *[""] * (n - 2), last]
        figure = plots.labelled_grid(images, labels * rows, n)
        return Result(images, figure, f"{rows} rows of {n} images")

    return Plan(between_seeds if seeds else between_conditions, result)
