"""The oracle: a classifier of shape and colour for images of one object.

It measures whether a sample agrees with its condition, where the paper can only show images.

A small convolutional network, trained on true renders only (`python -m ldm_jax.evaluation.oracle`
trains it again, in five minutes on two cores). It is a measure and never a loss: no model of this
project is trained against it. `oracle_report` gives each score with its ceiling (the oracle on true
renders) and its floor (the same images with shuffled conditions).
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from tqdm import tqdm

from ldm_jax.data.scenes import CLASS_NAMES, COLOURS, SHAPES, ScenesSource, draw, read_caption
from ldm_jax.errors import UserError

WEIGHTS = Path(__file__).with_name("oracle.npz")
SIZE = 32  # input size of the network; larger images are averaged down to it

_CHANNELS = (16, 32, 48, 64)  # the first convolution keeps the size, each further one halves it
_HIDDEN = 48
_MICRO_BATCH = 256  # one compiled shape for any number of images
_SEED = 1_000_003  # unlikely to be chosen by users: these renders are in no other data set


def init(key) -> dict[str, jax.Array]:
    """Fresh parameters: a flat dictionary of arrays."""
    params, c_in = {}, 3
    keys = iter(jax.random.split(key, len(_CHANNELS) + 2))
    for i, c_out in enumerate(_CHANNELS):
        params[f"conv{i}"] = _he(next(keys), (3, 3, c_in, c_out), 9 * c_in)
        params[f"conv{i}_bias"] = jnp.zeros((1, 1, 1, c_out))
        c_in = c_out
    flat = (SIZE // 2 ** (len(_CHANNELS) - 1)) ** 2 * c_in
    outputs = len(SHAPES) + len(COLOURS)
    params |= {
        "hidden": _he(next(keys), (flat, _HIDDEN), flat),
        "hidden_bias": jnp.zeros((1, _HIDDEN)),
    }
    params |= {
        "out": _he(next(keys), (_HIDDEN, outputs), _HIDDEN),
        "out_bias": jnp.zeros((1, outputs)),
    }
    return params


def _he(key, shape, fan_in):
    return jax.random.normal(key, shape) * (2.0 / fan_in) ** 0.5


def apply(params, x) -> tuple[jax.Array, jax.Array]:
    """Logits of (shape [B, 4], colour [B, 8]) for images x [B, 32, 32, 3] in [-1, 1]."""
    for i in range(len(_CHANNELS)):
        stride = (1, 1) if i == 0 else (2, 2)
        x = lax.conv_general_dilated(
            x, params[f"conv{i}"], stride, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + params[f"conv{i}_bias"])
    x = x.reshape(x.shape[0], -1)
    x = jax.nn.relu(x @ params["hidden"] + params["hidden_bias"])
    return tuple(jnp.split(x @ params["out"] + params["out_bias"], [len(SHAPES)], axis=-1))


@functools.cache
def _weights() -> dict[str, jax.Array]:
    with np.load(WEIGHTS) as file:
        return {name: jnp.asarray(file[name], jnp.float32) for name in file.files}


@jax.jit
def _classify(params, x):
    return tuple(jnp.argmax(logits, axis=-1) for logits in apply(params, x))


def read_scenes(images) -> tuple[np.ndarray, np.ndarray]:
    """The oracle's predictions: (shape, colour), indices int32 [n] in `SHAPES` and `COLOURS`.

    Args:
      images: uint8 [n, H, H, 3] of the level `single`, H a multiple of 32.
    Raises:
      UserError: for any other dtype or size.
    """
    images = np.asarray(images)
    side = images.shape[1] if images.ndim == 4 else 0
    if images.dtype != np.uint8 or not side or side % SIZE or images.shape[2:] != (side, 3):
        raise UserError(
            f"the oracle reads uint8 images [n, H, H, 3] with H a multiple of {SIZE}, "
            f"not {images.dtype} {list(images.shape)}"
        )
    shapes, colours = [], []
    for start in range(0, len(images), _MICRO_BATCH):
        x = _to_input(images[start : start + _MICRO_BATCH])
        count = len(x)
        x = np.pad(x, ((0, _MICRO_BATCH - count), (0, 0), (0, 0), (0, 0)))
        shape, colour = _classify(_weights(), x)
        shapes.append(np.asarray(shape[:count], np.int32))
        colours.append(np.asarray(colour[:count], np.int32))
    nothing = [np.zeros(0, np.int32)]
    return np.concatenate(shapes or nothing), np.concatenate(colours or nothing)


def _to_input(images) -> np.ndarray:
    """uint8 [n, H, H, 3] to float32 [n, 32, 32, 3] in [-1, 1], averaging over boxes."""
    n, side = images.shape[:2]
    k = side // SIZE
    x = images.reshape(n, SIZE, k, SIZE, k, 3).mean(axis=(2, 4), dtype=np.float32)
    return x / 127.5 - 1.0


def agreement(images, asked) -> dict[str, float]:
    """Fraction of images whose predicted shape, colour, and both agree with the condition.

    Args:
      images: uint8 [n, H, H, 3].
      asked: n captions (their first object counts) or n class labels of the level `single`.
    Raises:
      UserError: the numbers differ, or a condition names no object.
    """
    shape, colour = read_scenes(images)
    asked_shape, asked_colour = _asked(asked)
    if len(asked_shape) != len(shape):
        raise UserError(
            f"{len(shape)} images cannot be compared with {len(asked_shape)} conditions"
        )
    if len(shape) == 0:
        raise UserError("agreement needs at least one image")
    same_shape, same_colour = shape == asked_shape, colour == asked_colour
    return {
        "shape": float(same_shape.mean()),
        "colour": float(same_colour.mean()),
        "both": float((same_shape & same_colour).mean()),
    }


def _asked(asked):
    asked = np.asarray(asked)
    if asked.dtype.kind in "iu":
        if asked.size and not 0 <= asked.min() <= asked.max() < len(CLASS_NAMES):
            raise UserError(f"class labels of scenes go from 0 to {len(CLASS_NAMES) - 1}")
        return np.divmod(asked, len(COLOURS))
    pairs = np.array([read_caption(str(text)) for text in asked], np.int32).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def oracle_report(images, asked, truth_images, truth_asked) -> dict[str, dict[str, float]]:
    """Agreement of samples with their conditions, with a ceiling and a floor to compare with.

    Args:
      images, asked: samples and their conditions, as in `agreement`.
      truth_images, truth_asked: held-out true renders and theirs.
    Returns:
      'samples'; 'ceiling', the oracle on true renders; 'floor', the samples with their conditions
      permuted (always in the same way): the score of a model that ignores its condition.
    """
    asked = np.asarray(asked)
    shuffled = asked[np.random.default_rng(0).permutation(len(asked))]
    return {
        "samples": agreement(images, asked),
        "ceiling": agreement(truth_images, truth_asked),
        "floor": agreement(images, shuffled),
    }


def augment(key, x):
    """Random shifts, blur, brightness, tint and noise for x [B, 32, 32, 3].

    These are the differences between a generated image and a render.
    """
    keys = jax.random.split(key, 6)
    b = x.shape[0]
    padded = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    corner = jax.random.randint(keys[0], (b, 2), 0, 5)
    x = jax.vmap(lambda a, c: lax.dynamic_slice(a, (c[0], c[1], 0), x.shape[1:]))(padded, corner)
    wide = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    soft = lax.reduce_window(wide, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "VALID") / 9.0
    x = x + (soft - x) * jax.random.uniform(keys[1], (b, 1, 1, 1))
    x = (x + 1) * jax.random.uniform(keys[2], (b, 1, 1, 1), minval=0.88, maxval=1.12) - 1
    x = x + 0.03 * jax.random.normal(keys[3], (b, 1, 1, 3))
    noise = jax.random.normal(keys[4], x.shape)
    return x + noise * jax.random.uniform(keys[5], (b, 1, 1, 1), maxval=0.12)


def train(renders: int = 24_000, steps: int = 1_500, batch: int = 192, progress: bool = True):
    """Trains the oracle on true renders; a pure function of its arguments.

    Returns:
      Its parameters, float32.
    """
    data = draw(ScenesSource(SIZE, "single", renders, seed=_SEED), progress=progress)
    images, labels = data["image"], data["class_label"]
    optimiser = optax.adamw(optax.cosine_onecycle_schedule(steps, 3e-3), weight_decay=1e-3)

    def loss(params, x, label):
        shape, colour = apply(params, x)
        error = optax.softmax_cross_entropy_with_integer_labels
        return jnp.mean(error(shape, label // len(COLOURS)) + error(colour, label % len(COLOURS)))

    @jax.jit
    def step(params, state, key, x, label):
        x = augment(key, x.astype(jnp.float32) / 127.5 - 1.0)
        value, gradient = jax.value_and_grad(loss)(params, x, label)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    key = jax.random.key(0)
    params = init(key)
    state = optimiser.init(params)
    rng = np.random.default_rng(0)
    bar = tqdm(range(steps), desc="training the oracle", disable=not progress)
    for k in bar:
        chosen = rng.integers(len(images), size=batch)
        args = jax.random.fold_in(key, k), images[chosen], labels[chosen]
        params, state, value = step(params, state, *args)
        if k % 50 == 0:
            bar.set_postfix(loss=f"{value:.3f}")
    return params


def main() -> None:
    """Trains, writes the weights as float16 and prints the accuracy on held-out renders."""
    half = {name: np.asarray(value, np.float16) for name, value in train().items()}
    np.savez(WEIGHTS, **half)
    _weights.cache_clear()
    print(f"{WEIGHTS.name}: {WEIGHTS.stat().st_size / 1024:.0f} KiB")
    for size in (SIZE, 2 * SIZE):
        held_out = ScenesSource(size, "single", 4_000, seed=_SEED, split="validation")
        data = draw(held_out)
        score = agreement(data["image"], data["class_label"])
        print(f"held-out renders at {size}:", ", ".join(f"{n} {v:.2%}" for n, v in score.items()))


if __name__ == "__main__":
    main()
