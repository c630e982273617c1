"""Degradations that make the low-resolution images of super-resolution.

`bicubic` is that of the paper's main experiments (App. E.3.4). `bsrgan` applies blur, reductions,
noise and JPEG in random order (Zhang et al. 2021, "Designing a Practical Degradation Model for Deep
Blind Image Super-Resolution"); its light form has the softer parameters of LDM-BSR (App. D.6.1).
`plan` samples the steps for one image with all their parameters; then they are applied.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image

from ldm_jax.data.decode import to_array, to_image
from ldm_jax.data.resize import Method, resize, to_uint8
from ldm_jax.errors import UserError

Degradation = Literal["bicubic", "bsrgan", "bsrgan-light"]
Size = tuple[int, int]  # (height, width)

OPENCV: tuple[Method, ...] = ("linear", "cubic", "area")


def _check_image(image: np.ndarray, factor: int) -> Size:
    """The height and width; UserError for an invalid image or factor."""
    if factor < 2:
        raise UserError(f"the factor of super-resolution must be at least 2, got {factor}")
    if image.dtype != np.uint8 or image.ndim < 3:
        raise UserError(
            "an image must be uint8 [height, width, channels], "
            f"got {image.dtype} of the shape {image.shape}"
        )
    return image.shape[-3:-1]


def _reduced_size(image: np.ndarray, factor: int) -> Size:
    """The size after reduction; UserError where a side is not a multiple of the factor."""
    height, width = _check_image(image, factor)
    if height % factor or width % factor or not (height and width):
        raise UserError(
            f"the sides of an image must be multiples of the factor {factor}, "
            f"got {height} x {width} pixels"
        )
    return height // factor, width // factor


def bicubic(image: np.ndarray, factor: int) -> np.ndarray:
    """Antialiased bicubic reduction as MATLAB's imresize does it (App. E.3.4).

    uint8 [..., H, W, C] -> uint8 [..., H / factor, W / factor, C]. `resize.resize` gives the same
    in floating point. UserError where a side is not a multiple of `factor`.
    """
    return to_uint8(resize(image, _reduced_size(image, factor)))


def upscale(image: np.ndarray, factor: int) -> np.ndarray:
    """Bicubic enlargement: the baseline of super-resolution (Fig. 10).

    uint8 [..., H, W, C] -> uint8 [..., factor * H, factor * W, C].
    """
    height, width = _check_image(image, factor)
    return to_uint8(resize(image, (factor * height, factor * width)))


def gaussian(size: int, covariance) -> np.ndarray:
    """A Gaussian blur kernel [size, size] of sum 1, centred between pixels where `size` is even.

    covariance: 2x2, in square pixels.
    """
    at = np.arange(size) - (size - 1) / 2
    position = np.stack(np.meshgrid(at, at), axis=-1)
    distance = np.einsum("yxi,ij,yxj->yx", position, np.linalg.inv(covariance), position)
    kernel = np.exp((distance.min() - distance) / 2)  # the narrowest would be 0 everywhere
    return (kernel / kernel.sum()).astype(np.float32)


def convolve(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """x [H, W, C] convolved with a square kernel, the image mirrored about its border pixels.

    An even kernel has its origin right of the middle, at size // 2.
    """
    n = len(kernel)
    around = (n - 1 - n // 2, n // 2)
    x = np.pad(x.transpose(2, 0, 1), ((0, 0), around, around), "reflect")
    size = x.shape[1:]
    # By the convolution theorem: kernels reach 25 x 25 taps. What wraps around is cut off.
    spectrum = np.fft.rfft2(x) * np.fft.rfft2(kernel, size)
    return np.fft.irfft2(spectrum, size)[:, n - 1 :, n - 1 :].transpose(1, 2, 0)


@dataclass(frozen=True)
class Blur:
    """A Gaussian blur. variances: in square pixels, along its axes; theta: of the first axis."""

    size: int
    variances: tuple[float, float]
    theta: float = 0.0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        cosine, sine = np.cos(self.theta), np.sin(self.theta)
        axes = np.array([[cosine, -sine], [sine, cosine]])
        variances = np.maximum(self.variances, 1e-6)  # a width of 0 still has an inverse
        return convolve(x, gaussian(self.size, axes * variances @ axes.T))


@dataclass(frozen=True)
class Resize:
    """An interpolation to `size`."""

    size: Size
    method: Method

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return resize(x, self.size, self.method)


@dataclass(frozen=True)
class Decimate:
    """A 25-tap Gaussian blur, then one pixel of each factor x factor.

    The kernel is shifted (linearly interpolated) to the centre of each block of factor x factor.
    """

    factor: int
    sigma: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        taps, at = gaussian(25, self.sigma**2 * np.eye(2)).sum(axis=0), np.arange(25)
        taps = np.interp(at + (self.factor - 1) / 2, at, taps)
        taps = (taps / taps.sum()).astype(np.float32)
        return convolve(x, np.outer(taps, taps))[:: self.factor, :: self.factor]


@dataclass(frozen=True)
class Noise:
    """Gaussian noise, independent between pixels. covariance: 3x3, between channels, of 0..255.

    A grey image gets the noise of the first channel.
    """

    kind: Literal["colour", "grey", "correlated"]
    covariance: tuple[tuple[float, ...], ...]
    seed: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(self.covariance)
        root = (vectors * np.sqrt(np.maximum(values, 0))).astype(np.float32)
        rng = np.random.default_rng(self.seed)
        white = rng.standard_normal((*x.shape[:2], 3), np.float32)
        return x + (white @ root.T)[..., : x.shape[-1]]


@dataclass(frozen=True)
class Jpeg:
    """JPEG compression with halved chroma, as libjpeg does by default. quality: 1 to 95."""

    quality: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        to_image(to_uint8(x)).save(file, "JPEG", quality=self.quality)
        return to_array(Image.open(file)).astype(np.float32)


Step = Blur | Resize | Decimate | Noise | Jpeg


@dataclass(frozen=True)
class Strength:
    """The parameters of bsrgan that its light form changes; ranges are sampled uniformly."""

    blurs: int
    """How many times the image is blurred."""
    width: float
    """Factor on the widths of the blurs."""
    anisotropic_sizes: Sequence[int]
    """The kernel sizes of an anisotropic blur, in pixels."""
    isotropic_sizes: Sequence[int]
    """The kernel sizes of an isotropic blur, in pixels."""
    random_size: float
    """The probability that the first reduction is an interpolation to a random size."""
    noise: Sequence[int]
    """Standard deviations, of 0..255."""
    quality: Sequence[int]
    """Qualities of JPEG."""


FULL = Strength(2, 1.0, range(7, 26, 2), range(7, 26, 2), 0.75, range(2, 26), range(30, 96))
LIGHT = Strength(1, 0.25, range(5, 15), range(5, 8), 0.8, range(1, 3), range(80, 96))


def _choice(rng, options):
    return options[int(rng.integers(len(options)))]


def _blur(rng, factor, strength) -> Blur:
    if rng.random() < 0.5:
        size, theta = _choice(rng, strength.anisotropic_sizes), np.pi * rng.random()
        one, two = strength.width * (4 + factor) * rng.random(2)
        return Blur(size, (float(one), float(two)), float(theta))
    sigma = strength.width * (2 + 0.2 * factor) * float(rng.random())
    return Blur(_choice(rng, strength.isotropic_sizes), (sigma**2, sigma**2))


def _first_reduction(rng, size, factor, strength) -> Resize | Decimate:
    if rng.random() < strength.random_size:
        scale = rng.uniform(1, 2 * factor)
        return Resize(tuple(max(1, int(side / scale)) for side in size), _choice(rng, OPENCV))
    return Decimate(factor, float(rng.uniform(0.1, 0.6 * factor)))


def _noise(rng, strength) -> Noise:
    variance, kind = _choice(rng, strength.noise) ** 2, rng.random()
    if kind > 0.6:
        name, covariance = "colour", variance * np.eye(3)
    elif kind < 0.4:
        name, covariance = "grey", variance * np.ones((3, 3))
    else:  # always of the highest level; the absolute value makes channels positively correlated
        turn = np.linalg.svd(rng.random((3, 3)))[0]
        share = np.abs(turn.T @ np.diag(rng.random(3)) @ turn)
        name, covariance = "correlated", strength.noise[-1] ** 2 * share
    return Noise(name, tuple(map(tuple, covariance.tolist())), int(rng.integers(2**63)))


def plan(size: Size, factor: int, rng: np.random.Generator, light: bool = False) -> list[Step]:
    """Samples the steps that degrade an image of `size` to size / factor, in order.

    light: the softened parameters of the paper: less blur, hardly any noise, better JPEG.

    Blur (twice; light: once), two reductions, noise and JPEG come in random order. The first
    reduction is to a random size or by decimation, the second one to the target size, so it may
    enlarge. With factor 4, a quarter of the images is halved first, then treated as with 2.
    JPEG is left out with probability 0.1, and one more JPEG always ends it.

    Probabilities and ranges are those of the original code of latent diffusion. The rest follows
    Zhang et al.: mirrored borders, clipping after each step, random
    sizes rounded down, kernels of even size (light) half a pixel off, the reductions' OpenCV
    interpolations, the covariance of correlated noise taken as its absolute value.
    """
    strength = LIGHT if light else FULL
    target = (size[0] // factor, size[1] // factor)
    steps: list[Step] = []
    if factor == 4 and rng.random() < 0.25:
        size, factor = (size[0] // 2, size[1] // 2), 2
        steps.append(Resize(size, _choice(rng, OPENCV) if rng.random() < 0.5 else "bicubic"))
    names = ["blur"] * strength.blurs + ["reduce", "reduce", "noise", "jpeg"]
    reduced = False
    for name in rng.permutation(names):
        if name == "blur":
            steps.append(_blur(rng, factor, strength))
        elif name == "noise":
            steps.append(_noise(rng, strength))
        elif name == "reduce":
            if reduced:
                steps.append(Resize(target, _choice(rng, OPENCV)))
            else:
                steps.append(_first_reduction(rng, size, factor, strength))
            reduced = True
        elif rng.random() < 0.9:
            steps.append(Jpeg(_choice(rng, strength.quality)))
    return [*steps, Jpeg(_choice(rng, strength.quality))]


def bsrgan(
    image: np.ndarray, factor: int, rng: np.random.Generator, light: bool = False
) -> np.ndarray:
    """A random degradation (Zhang et al. 2021; light: App. D.6.1), with the steps of `plan`.

    uint8 [H, W, C] -> uint8 [H / factor, W / factor, C] with C 1 or 3. Values are clipped to 0..255
    after each step. UserError where a side is not a multiple of `factor`.
    """
    _reduced_size(image, factor)
    if image.ndim != 3 or image.shape[-1] not in (1, 3):
        raise UserError(
            f"bsrgan degrades one image [height, width, 1 or 3], got the shape {image.shape}"
        )
    x = image.astype(np.float32)
    for step in plan(image.shape[:2], factor, rng, light):
        x = np.clip(step(x), 0, 255)
    return to_uint8(x)


def degrade(
    kind: Degradation, image: np.ndarray, factor: int, rng: np.random.Generator
) -> np.ndarray:
    """Degrades an image: uint8 [H, W, C] -> uint8 [H / factor, W / factor, C].

    'bicubic' is deterministic and takes batches [..., H, W, C] too; the others depend on `rng`.
    UserError for an unknown kind and as `bicubic` and `bsrgan` raise it.
    """
    if kind not in get_args(Degradation):
        raise UserError(
            f"the degradation must be one of {', '.join(get_args(Degradation))}, got {kind!r}"
        )
    if kind == "bicubic":
        return bicubic(image, factor)
    return bsrgan(image, factor, rng, light=kind == "bsrgan-light")
