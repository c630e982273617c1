"""What `sample` is given to start from an image, to keep parts of one, or to go between two."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.process import Prediction, eps_and_z0, q_sample
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.errors import UserError
from ldm_jax.sampling.noise import noise_like
from ldm_jax.sampling.single_step import exponential_step

Array = jax.Array


def first_step(strength: float, steps: int) -> int:
    """The number of the first step that is walked, from 0, of the S = `steps` steps of a grid.

    The last round(strength S) steps are walked, at least one. Strength 1 is all of them.

    Raises:
      UserError: strength outside of (0, 1].
    """
    if not 0 < strength <= 1:
        raise UserError(
            f"strength is {strength}; it lies above 0 (the same image) and up to 1 (a new one)"
        )
    return steps - max(1, round(strength * steps))


def add_noise(schedule: Schedule, z_0: Array, t: Array, keys: Array) -> Array:
    """A sample of q(z_t | z_0), Eq. (4): where a walk that is to end near z_0 starts.

    Each image's noise is that of its z_T, so a walk from further up differs by its start alone.

    Args:
      z_0: `[B, h, w, c]`. t: a scalar. keys: of the images, `[B]`.
    """
    return q_sample(schedule, z_0, t, noise_like(keys, z_0.shape[1:]))


def replace_known(
    schedule: Schedule, known: Array, z_0: Array, z_t: Array, t: Array, eps: Array
) -> Array:
    """z_t with its known parts replaced by q(z_t | z_0), Eq. (4), whose noise is `eps`.

    Args:
      known: bool `[B, h, w, 1]`. z_0, z_t, eps: `[B, h, w, c]`. t: a scalar.
    """
    return jnp.where(known, q_sample(schedule, z_0, t, eps), z_t)


def known_cells(fill: np.ndarray, f: int) -> np.ndarray:
    """Which latents are known: bool `[h, w, 1]`, from the pixels to be filled, bool `[H, W]`.

    A latent stands for f x f pixels and is known if all of them are. So no pixel that is to be
    filled shows what was there before; the known ones beside it come back with `composite`.
    """
    h, w = (side // f for side in fill.shape)
    return ~fill.reshape(h, f, w, f).any(axis=(1, 3))[..., None]


def composite(fill: np.ndarray, drawn: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Drawn images `[..., H, W, C]` where `fill`, bool `[H, W]`, and the known one elsewhere."""
    return np.where(fill[..., None], drawn, image)


def with_border(
    image: np.ndarray, top: int, right: int, bottom: int, left: int
) -> tuple[np.ndarray, np.ndarray]:
    """(the image `[H, W, C]` with so many pixels more on each side, which those are, bool).

    The border mirrors the image, so that the encoder sees nothing unusual at the known edge.
    """
    sides = ((top, bottom), (left, right))
    canvas = np.pad(image, (*sides, (0, 0)), mode="symmetric")
    fill = np.pad(np.zeros(image.shape[:2], bool), sides, constant_values=True)
    return canvas, fill


def slerp(a: Array, b: Array, u: Array) -> Array:
    """The part u of the way from a to b on the great circle through both (Shoemake, 1985).

    Standard normal latents all have about the same norm, and what lies between two of them on a
    straight line has less of it: no network was trained on such z_T. (DDIM, arXiv:2010.02502,
    Sec. 5.3, goes this way.) Where the directions are the same, or opposite, it is `lerp`.

    Args:
      a, b: `[B, ...]`, each row one vector. u: a scalar, 0 to 1.
    """
    axes = tuple(range(1, a.ndim))

    def norm(x: Array) -> Array:
        return jnp.sqrt(jnp.sum(x**2, axes, keepdims=True))

    p, q = a / norm(a), b / norm(b)
    angle = 2 * jnp.arctan2(norm(p - q), norm(p + q))  # arccos(p.q), without its loss of digits
    sine = jnp.sin(angle)
    safe = jnp.where(sine > 1e-4, sine, 1.0)
    arc = (jnp.sin((1 - u) * angle) * a + jnp.sin(u * angle) * b) / safe
    return jnp.where(sine > 1e-4, arc, lerp(a, b, u))


def lerp(a: Array, b: Array, u: Array) -> Array:
    """The part u of the way from a to b on a straight line."""
    return (1 - u) * a + u * b


def invert(
    predict: Callable[[Array, Array], Array],
    schedule: Schedule,
    prediction: Prediction,
    grid: Array,
    z_0: Array,
) -> Array:
    """The z_T that DDIM leads to z_0: its steps, with eta 0, taken upwards.

    A step from s up to t holds the eps of s, where one down from t would hold that of t: the same
    ODE by the same method (DDIM, arXiv:2010.02502, Sec. 4.3), so the error is of first order in the
    length of the steps. Clean data have no eps; the network is asked for them at timestep 0.

    Args:
      predict, schedule, prediction: as for `sample`.
      grid: decreasing `[S+1]`, as for `sample`; it is walked from its end to its beginning.
      z_0: `[B, h, w, c]`, at the timestep grid[-1].

    Returns:
      z_T `[B, h, w, c]`, at the timestep grid[0].
    """

    def up(z_s, now):
        s, t = now
        asked = jnp.broadcast_to(jnp.maximum(s, 0), z_s.shape[:1])
        eps, _ = eps_and_z0(schedule, prediction, predict(z_s, asked), z_s, asked)
        return exponential_step(schedule, "eps", eps, z_s, s, t)[0], None

    grid = jnp.asarray(grid)[::-1]
    return jax.lax.scan(up, z_0, (grid[:-1], grid[1:]))[0]
