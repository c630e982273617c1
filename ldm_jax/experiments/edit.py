"""Edits images with a trained run: `sample.py RUN` with --image, --interpolate or --invert."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from ldm_jax import plots
from ldm_jax.data.loader import Batch
from ldm_jax.errors import UserError
from ldm_jax.evaluation.distortion import psnr
from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.images import fitted, open_image, open_mask
from ldm_jax.experiments.models import SecondStage
from ldm_jax.experiments.sizes import Size
from ldm_jax.sampling.editing import (
    add_noise,
    composite,
    first_step,
    invert,
    known_cells,
    lerp,
    slerp,
    with_border,
)
from ldm_jax.sampling.sample import image_keys, noise_like
from ldm_jax.sampling.timesteps import timestep_grid
from ldm_jax.training.sharding import fetch

File = Annotated[str, tyro.conf.arg(metavar="FILE")]
Weights = tuple[dict, dict]
GREY = 200  # stands for what is not known


class Drawn(NamedTuple):
    """What comes out of an edit."""

    images: np.ndarray
    """uint8 `[n, H, W, C]`"""
    grid: np.ndarray
    """All of them in one image, with what they are."""
    said: str
    """What there is to say of them."""


Edit = Callable[[Weights, Callable[..., np.ndarray]], Drawn]  # (weights, the generator) -> Drawn


@dataclass(frozen=True)
class EditOptions:
    """Editing: --image changes an image, --interpolate goes between two, --invert looks for the
    noise of one."""

    image: File = ""
    """An image to start from, cut to the proportions of --height and --width and resized."""
    strength: float | None = None
    """How much of --image is drawn anew, above 0 up to 1: the last round(strength S) of the S
    steps. Left out: 0.6, or all of it within --mask or --outpaint."""
    mask: File = ""
    """An image as large as --image, white where it is to be filled; the rest stays as it is."""
    outpaint: tuple[int, ...] = ()
    """Pixels to add to --image: on each side; above and below, left and right; or top, right,
    bottom, left."""
    interpolate: int | None = None
    """So many images from one of two captions or classes to the other, from the same noise; or
    from --seed to --to-seed. --num-images is the number of rows."""
    to_seed: int | None = None
    """Where --interpolate ends if it goes from one seed to another."""
    along: Literal["sphere", "line"] | None = None
    """The way of --interpolate. Left out: the sphere between seeds, the line between conditions."""
    invert: File = ""
    """An image: looks for the noise that DDIM draws it from, draws it again, and measures."""

    def given(self) -> dict[str, Any]:
        """The options that are not left out, by name."""
        return {name: value for name, value in asdict(self).items() if value not in ("", (), None)}

    def filled(self) -> EditOptions:
        """With the defaults of what was left out and has a meaning here."""
        strength, along = self.strength, self.along
        if self.image and strength is None:
            strength = 1.0 if self.mask or self.outpaint else 0.6
        if self.interpolate and along is None:
            along = "line" if self.to_seed is None else "sphere"
        return replace(self, strength=strength, along=along)

    def check(self) -> None:
        """Raises UserError for options that do not go together; reads no file."""
        given = self.given()
        kinds = [f"--{kind}" for kind in ("image", "interpolate", "invert") if kind in given]
        if len(kinds) > 1:
            raise UserError(f"{' and '.join(kinds)} do not go together: one at a time")
        for needed, names in (
            ("image", ("strength", "mask", "outpaint")),
            ("interpolate", ("to_seed", "along")),
        ):
            lonely = [name for name in names if name in given and needed not in given]
            if lonely:
                raise UserError(f"--{lonely[0].replace('_', '-')} needs --{needed}")
        if self.mask and self.outpaint:
            raise UserError("--mask and --outpaint do not go together: one at a time")
        if self.outpaint and self.strength is not None:
            raise UserError("--outpaint takes no --strength: there is nothing yet to start from")
        if self.interpolate is not None and self.interpolate < 2:
            raise UserError(f"--interpolate is {self.interpolate}; it is 2 at least, both ends")
        if self.to_seed is not None and not 0 <= self.to_seed < 2**32:
            raise UserError(f"--to-seed is {self.to_seed}; it lies between 0 and 4294967295")


@dataclass(frozen=True)
class Request:
    """What is asked of a run: the part that drawing and editing have in common."""

    experiment: Experiment
    second: SecondStage
    seen: Batch | None
    """The conditions as the model sees them, a row each. None for an unconditional model."""
    labels: list[str]
    """The same as words; blanks where it has none."""
    copies: int
    """Images for each."""
    settings: dict[str, Any]
    """Of the generator."""
    size: Size
    """Of the images."""

    def asked(self, weights: Weights) -> np.ndarray | None:
        """What the model takes: a row for each condition."""
        return self.second.ys(weights[1], self.seen)

    def conditions(self, weights: Weights) -> np.ndarray | None:
        """The same, a row for each image."""
        asked = self.asked(weights)
        return None if asked is None else np.repeat(asked, self.copies, axis=0)

    def finish(self, images: np.ndarray, numbers: Sequence[int] | None = None) -> np.ndarray:
        """Images `[n, H, W, C]`, all or those of these numbers, with what is known of them."""
        if self.seen is None:
            return images
        rows = np.arange(len(images)) if numbers is None else np.asarray(numbers)
        seen = {key: array[rows // self.copies] for key, array in self.seen.items()}
        return self.second.condition.finish(seen, images)

    @property
    def shown(self) -> np.ndarray | None:
        """The conditions as images, where they are such."""
        return None if self.seen is None else self.second.condition.show(self.seen)

    @property
    def all_labels(self) -> list[str]:
        """A label for each image."""
        return [label for label in self.labels for _ in range(self.copies)]

    def grid(self) -> np.ndarray:
        """The timesteps."""
        settings, schedule = self.settings, self.second.problem.schedule
        return timestep_grid(settings["spacing"], settings["steps"], schedule)


def prepare(options: EditOptions, request: Request) -> Edit | None:
    """The edit that is asked for, or None; nothing is computed before it is called.

    Raises:
      UserError: options that do not go together, or not with this run; files that cannot be read.
    """
    options.check()
    options = options.filled()
    if options.image:
        return _change(options, request)
    if options.interpolate:
        return _interpolation(options, request)
    return _inversion(options, request) if options.invert else None


def _change(options: EditOptions, request: Request) -> Edit:
    """--image: drawn from its noised latent, or around what is known of it."""
    second, n = request.second, len(request.labels) * request.copies
    size, f = request.size[:2], request.experiment.autoencoder.network.f
    opened = open_image("--image", options.image, second.first.channels)
    image, fill = fitted(opened, *size), None
    if options.mask:
        fill = open_mask("--mask", options.mask, opened.size, *size)
    if options.outpaint:
        image, fill = _canvas(image, options.outpaint, f * request.experiment.diffusion.unet.factor)
    grid = request.grid()
    first = first_step(options.strength, len(grid) - 1)

    def edit(weights, draw):
        z_0 = fetch(jax.jit(second.encode)(weights[1], image[None]))
        z_0 = np.broadcast_to(z_0, (n, *z_0.shape[1:]))
        start, keep = None, None
        if first:  # else from nothing but noise, as images are drawn
            keys = image_keys(request.settings["seed"], np.arange(n))
            start = np.asarray(add_noise(second.problem.schedule, z_0, grid[first], keys))
        if fill is not None:
            known = known_cells(fill, f)
            keep = (np.broadcast_to(known, (n, *known.shape)), z_0)
        images = draw(
            request.conditions(weights), num_images=n, first_step=first, start=start, keep=keep
        )
        shown = image
        if fill is not None:
            images = composite(fill, images, image)
            shown = np.where(fill[..., None], np.uint8(GREY), image)
        rows = images.reshape(-1, request.copies, *image.shape)
        rows = [one for row in rows for one in (shown, *row)]
        # Not one with labels: here every pixel is to be seen as it is.
        shown = plots.grid(np.stack(rows), request.copies + 1)
        return Drawn(images, shown, f"{n} images from {options.image}")

    return edit


def _interpolation(options: EditOptions, request: Request) -> Edit:
    """--interpolate: rows of images from one end to the other."""
    n, rows, seeds = options.interpolate, request.copies, options.to_seed is not None
    ends = 1 if request.seen is None else len(request.labels)
    if ends + seeds != 2:
        have = "this run is unconditional" if request.seen is None else f"this names {ends}"
        raise UserError(
            "--interpolate has two ends: two captions or classes, or one (none for a run that is "
            f"unconditional) with --seed and --to-seed; {have}{' with --to-seed' * seeds}"
        )
    second, seed = request.second, request.settings["seed"]
    if seed == options.to_seed:
        raise UserError(f"--interpolate has two ends, but --seed and --to-seed are both {seed}")
    between = {"sphere": slerp, "line": lerp}[options.along]
    numbers = np.repeat(np.arange(rows), n)

    @jax.jit
    def path(a, b):
        """`[B, ...]` -> `[B, n, ...]`"""
        return jax.vmap(between, (None, None, 0), 1)(a, b, jnp.linspace(0.0, 1.0, n))

    def edit(weights, draw):
        if seeds:
            shape = request.size.shape
            keys = [image_keys(s, np.arange(rows)) for s in (seed, options.to_seed)]
            z_T = path(*(noise_like(k, shape) for k in keys))
            start = np.asarray(z_T).reshape(rows * n, *shape)
            asked = request.asked(weights)
            y = None if asked is None else np.repeat(asked, rows * n, axis=0)
            images = draw(y, num_images=rows * n, numbers=numbers, start=start)
            labels = [f"seed {seed}", *[""] * (n - 2), f"seed {options.to_seed}"]
        else:
            embed = jax.jit(lambda params, y: second.problem.model(params).embed(y))
            c = fetch(embed(weights[0], request.asked(weights)))
            c = np.concatenate([path(c[:1], c[1:])[0]] * rows)
            images = draw(c, numbers=numbers, embedded=True)
            labels = [request.labels[0], *[""] * (n - 2), request.labels[1]]
        grid = plots.labelled_grid(images, labels * rows, n)
        return Drawn(images, grid, f"{rows} rows of {n} images")

    return edit


def _inversion(options: EditOptions, request: Request) -> Edit:
    """--invert: z_0 up to z_T and down again, and how much of the image is lost."""
    second, settings = request.second, request.settings
    if settings["sampler"] == "ddpm" or settings["eta"]:
        raise UserError("--invert goes a way without chance: a sampler other than ddpm, eta 0")
    if len(request.labels) != 1:
        raise UserError(f"--invert takes one caption or class; there are {len(request.labels)}")
    image = open_image("--invert", options.invert, second.first.channels)
    image = fitted(image, *request.size[:2])[None]

    @partial(jax.jit, static_argnames="is_guided")
    def up(weights, y, z_0, grid, guidance, is_guided):
        predict = second.generator.predictor(
            weights[0], y, guidance, is_guided=is_guided, windows=request.size.windows
        )
        return invert(predict, second.problem.schedule, second.problem.prediction, grid, z_0)

    def edit(weights, draw):
        z_0 = fetch(jax.jit(second.encode)(weights[1], image))
        s, asked = settings["guidance"], request.asked(weights)
        z_T = up(weights, asked, z_0, request.grid(), jnp.float32(s), is_guided=s != 1.0)
        x_tilde = fetch(jax.jit(second.decode)(weights[1], z_0))
        x = draw(asked, num_images=1, start=fetch(z_T))
        against = [float(psnr(*pair)[0]) for pair in ((x_tilde, x), (image, x), (image, x_tilde))]
        labels = [
            "the image",
            f"its reconstruction, {against[2]:.1f} dB",
            f"inverted and drawn again, {against[1]:.1f} dB",
        ]
        said = (
            f"{options.invert} inverted and drawn again: PSNR {against[0]:.1f} dB against its "
            f"reconstruction, {against[1]:.1f} dB against the image (the reconstruction itself: "
            f"{against[2]:.1f} dB)"
        )
        three = np.concatenate([image, x_tilde, x])
        return Drawn(three, plots.labelled_grid(three, labels), said)

    return edit


def _canvas(
    image: np.ndarray, outpaint: tuple[int, ...], multiple: int
) -> tuple[np.ndarray, np.ndarray]:
    """The image with its new border, and where that is; sides are to be multiples."""
    said = f"--outpaint is {' '.join(map(str, outpaint))}"
    if len(outpaint) not in (1, 2, 4) or min(outpaint) < 0 or not any(outpaint):
        raise UserError(
            f"{said}; it is 1, 2 or 4 numbers of pixels, none below 0 and not all of them 0"
        )
    canvas, fill = with_border(image, *(outpaint * 4)[:4])
    h, w = fill.shape
    if h % multiple or w % multiple:
        raise UserError(
            f"{said}, which would make the image {w} pixels wide and {h} high; this run draws "
            f"multiples of {multiple}"
        )
    return canvas, fill
