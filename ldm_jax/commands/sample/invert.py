"""`--invert`: z_0 of an image up to z_T and down again, and how much of the image is lost."""

from __future__ import annotations

import numpy as np

from ldm_jax import plots
from ldm_jax.commands.sample.command import SampleCommand
from ldm_jax.commands.sample.images import fitted, open_image
from ldm_jax.commands.sample.plan import Plan, Request, Result
from ldm_jax.errors import UserError
from ldm_jax.evaluation.distortion import psnr
from ldm_jax.sampling.inputs import SamplingInputs
from ldm_jax.sampling.solvers import SOLVERS


def plan_inversion(command: SampleCommand, request: Request) -> Plan:
    """Finds the noise from which DDIM draws an image, and draws it again."""
    model, settings, file = request.model, request.settings, command.edit.invert
    if SOLVERS[settings.sampler].stochastic or settings.eta:
        noisy = ", ".join(name for name, solver in SOLVERS.items() if solver.stochastic)
        raise UserError(
            f"--invert needs a deterministic solver: a sampler other than {noisy}, eta 0"
        )
    if len(request.labels) != 1:
        raise UserError(f"--invert takes one prompt or class; there are {len(request.labels)}")
    geometry = model.geometry(settings)
    image = open_image("--invert", file, model)
    image = fitted(image, geometry.height, geometry.width)[None]
    z_0 = []

    def inputs() -> SamplingInputs:
        z_0.append(model.encode(image))
        plain = model.inputs(request.conditions, 1)
        z_T = model.invert(z_0[0], plain.condition, settings)
        return SamplingInputs(1, plain.condition, init_latents=z_T)

    def result(x: np.ndarray) -> Result:
        x_tilde = model.decode(z_0[0])
        pairs = ((x_tilde, x), (image, x), (image, x_tilde))
        to_reconstruction, to_image, of_reconstruction = (float(psnr(*p)[0]) for p in pairs)
        labels = [
            "the image",
            f"its reconstruction, {of_reconstruction:.1f} dB",
            f"inverted and drawn again, {to_image:.1f} dB",
        ]
        text = (
            f"{file} inverted and drawn again: PSNR {to_reconstruction:.1f} dB to its "
            f"reconstruction, {to_image:.1f} dB to the image (the reconstruction itself: "
            f"{of_reconstruction:.1f} dB)"
        )
        three = np.concatenate([image, x_tilde, x])
        return Result(three, plots.labelled_grid(three, labels), text)

    return Plan(inputs, result)
