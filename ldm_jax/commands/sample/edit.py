"""`--image`: image to image, in-painting and out-painting with any model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ldm_jax import plots
from ldm_jax.bounds import LARGEST_SIDE
from ldm_jax.commands.sample.command import EditOptions, SampleCommand
from ldm_jax.commands.sample.draw import with_estimates
from ldm_jax.commands.sample.images import fitted, open_image, open_mask
from ldm_jax.commands.sample.outputs import output_kind
from ldm_jax.commands.sample.plan import Plan, Request, Result
from ldm_jax.errors import UserError
from ldm_jax.sampling.editing import (
    add_noise,
    composite,
    first_step,
    known_cells,
    with_border,
)
from ldm_jax.sampling.inputs import SamplingInputs
from ldm_jax.sampling.noise import image_keys

UNKNOWN_GREY = 200  # shown where there is no image yet


def edit_strength(options: EditOptions) -> float:
    """--strength, or its default."""
    if options.strength is not None:
        return options.strength
    return 1.0 if options.mask or options.outpaint else 0.6


def plan_edit(command: SampleCommand, request: Request) -> Plan:
    """Samples from the noisy latent of an image, or around its known part."""
    options, model, settings = command.edit, request.model, request.settings
    geometry, n, f = model.geometry(settings), len(request.all_labels), model.first.f
    opened = open_image("--image", options.image, model)
    image, fill = fitted(opened, geometry.height, geometry.width), None
    if options.mask:
        fill = open_mask(options, opened, lambda m: fitted(m, geometry.height, geometry.width))
    if options.outpaint:
        image, fill = _canvas(image, options.outpaint, f * model.config.diffusion.unet.factor)
    grid = settings.grid(model.schedule)
    first = first_step(edit_strength(options), len(grid) - 1)

    def inputs() -> SamplingInputs:
        z_0 = model.encode(image[None])
        z_0 = np.broadcast_to(z_0, (n, *z_0.shape[1:]))
        init_latents, known = None, None
        if first:  # else from noise alone
            keys = image_keys(settings.seed, np.arange(n))
            init_latents = np.asarray(add_noise(model.schedule, z_0, grid[first], keys))
        if fill is not None:
            cells = known_cells(fill, f)
            known = (np.broadcast_to(cells, (n, *cells.shape)), z_0)
        plain = request.inputs()
        return replace(plain, n=n, first_step=first, init_latents=init_latents, known=known)

    animated = output_kind(command.out) == "animation"

    def figure(images: np.ndarray) -> np.ndarray:
        shown = image if fill is None else np.where(fill[..., None], np.uint8(UNKNOWN_GREY), image)
        rows = images.reshape(-1, request.images_per_prompt, *image.shape)
        rows = [one for row in rows for one in (shown, *row)]
        # Without labels: every pixel is shown as it is.
        return plots.grid(np.stack(rows), request.images_per_prompt + 1)

    def result(images: np.ndarray) -> Result:
        images = images if fill is None else composite(fill, images, image)
        text = f"{n} images from {options.image}"
        if animated:
            frames = np.stack([figure(step) for step in images.swapaxes(0, 1)])
            return Result(images[:, -1], frames, f"{text}, step by step,")
        if command.trajectory:
            return with_estimates(images, request.all_labels, command.trajectory)
        return Result(images, figure(images), text)

    return Plan(inputs, result, trajectory=animated or bool(command.trajectory))


def _canvas(
    image: np.ndarray, outpaint: tuple[int, ...], multiple: int
) -> tuple[np.ndarray, np.ndarray]:
    """The image with its new border, and where that is; sides are to be multiples."""
    option = f"--outpaint is {' '.join(map(str, outpaint))}"
    if len(outpaint) not in (1, 2, 4) or not any(outpaint):
        raise UserError(f"{option}; it is 1, 2 or 4 numbers of pixels, not all of them 0")
    top, right, bottom, left = border = (outpaint * 4)[:4]
    h, w = image.shape[0] + top + bottom, image.shape[1] + left + right
    if max(h, w) > LARGEST_SIDE:
        raise UserError(f"{option}; the image would have {w}x{h} pixels, above {LARGEST_SIDE}")
    if h % multiple or w % multiple:
        raise UserError(
            f"{option}, which would make the image {w} pixels wide and {h} high; this model needs "
            f"multiples of {multiple}"
        )
    return with_border(image, *border)
