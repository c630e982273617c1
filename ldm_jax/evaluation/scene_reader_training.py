"""Trains the scene reader: `python -m ldm_jax.evaluation.scene_reader_training`.

It learns from true renders of the levels `single` and `full`, at 32x32 and 64x64, augmented to
resemble generated images. Half an hour on two cores. The shipped weights were trained for less: the
second cycle had 1,791 steps, and then 400 in which the learning rate fell to 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from tqdm import tqdm

from ldm_jax.data.scenes import COLOURS, MATERIALS, SIZES, ScenesSource
from ldm_jax.data.scenes.captions import class_label
from ldm_jax.data.scenes.geometry import pixel_truth
from ldm_jax.data.scenes.render import render
from ldm_jax.data.scenes.world import MAX_OBJECTS
from ldm_jax.evaluation.scene_reader import (
    OBJECT_WEIGHT,
    OUTPUTS,
    SIZE,
    SMALL,
    WEIGHTS,
    init,
    predict,
    semantic,
    weights,
)
from ldm_jax.layers import upsample2x

SEED = 1_000_033  # unlikely to be chosen by users: these renders are in no other data set


def draw_truth(sources, progress: bool = True) -> dict[str, np.ndarray]:
    """All scenes of `sources` at both sizes, with the ground truth.

    Returns:
      'image64' and 'image32' uint8 [n, S, S, 3]; 'instance64', 'instance32' int32 [n, S, S]: 0 sky,
      1 floor, then the objects; and, for each object [n, 6] (the first two stand for sky and
      floor): 'semantic', 'colour', 'size', 'material' int32, 'middle' float32 [n, 6, 2].
    """
    scenes = [(source, i) for source in sources for i in range(len(source))]
    n, things = len(scenes), 2 + MAX_OBJECTS
    data = {name: np.zeros((n, things), np.int32) for name in OUTPUTS if name != "offset"}
    data["middle"] = np.zeros((n, things, 2), np.float32)
    for size in (SIZE, SMALL):
        data[f"image{size}"] = np.empty((n, size, size, 3), np.uint8)
        data[f"instance{size}"] = np.empty((n, size, size), np.int32)
    bar = tqdm(scenes, desc="drawing scenes", disable=not progress)
    for k, (source, i) in enumerate(bar):
        scene = source.scene(i)
        for size in (SMALL, SIZE):
            data[f"image{size}"][k] = render(scene, size)
            data[f"instance{size}"][k] = pixel_truth(scene, size)[1] + 2
        data["semantic"][k, 1] = 1
        for j, thing in enumerate(scene.objects, start=2):
            shape, data["colour"][k, j] = divmod(class_label(thing), len(COLOURS))
            data["semantic"][k, j] = 2 + shape
            data["size"][k, j] = SIZES.index(thing.size)
            data["material"][k, j] = MATERIALS.index(thing.material)
            rows, columns = np.nonzero(data[f"instance{SIZE}"][k] == j)
            if len(rows):
                middle = columns.min() + columns.max() + 1, rows.min() + rows.max() + 1
                data["middle"][k, j] = np.array(middle) / (2 * SIZE)
    return data


def targets(data, instance) -> dict[str, jax.Array]:
    """The target at each pixel, by the names of `OUTPUTS`, from the ground truth of objects."""
    b, side = instance.shape[:2]
    pick = jax.vmap(lambda table, which: table[which])
    target = {name: pick(data[name], instance) for name in OUTPUTS if name != "offset"}
    ticks = (jnp.arange(side) + 0.5) / side
    place = jnp.stack(jnp.meshgrid(ticks, ticks), axis=-1)[None]
    return target | {"offset": pick(data["middle"], instance) - place}


def augment(key, x, target, noisiness=1.0):
    """Random mirroring, shifts, blur, brightness, tint and noise for images x [B, S, S, 3].

    These are the differences between a generated image and a render. The targets move with the
    image. `noisiness` scales the noise only.
    """
    keys = iter(jax.random.split(key, 10))
    b, side = x.shape[:2]
    each = (b, 1, 1, 1)
    mirrored = jax.random.bernoulli(next(keys), shape=(b,))
    reach = side // 16
    corner = jax.random.randint(next(keys), (b, 2), 0, 2 * reach + 1)

    def move(a):
        whole = (0,) * (a.ndim - 3)  # further axes do not move
        a = jnp.where(mirrored.reshape(b, 1, 1, *(1 for _ in whole)), a[:, :, ::-1], a)
        margins = ((0, 0), (reach, reach), (reach, reach), *((0, 0) for _ in whole))
        cut = jax.vmap(lambda wide, at: lax.dynamic_slice(wide, (*at, *whole), a.shape[1:]))
        return cut(jnp.pad(a, margins, "edge"), corner)

    x, target = move(x), {name: move(a) for name, a in target.items()}
    turned = jnp.stack([jnp.where(mirrored, -1.0, 1.0), jnp.ones(b)], axis=-1)
    target["offset"] = target["offset"] * turned[:, None, None]

    def soften(x):
        wide = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
        return lax.reduce_window(wide, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "VALID") / 9.0

    softness = jax.random.uniform(next(keys), each)
    x = x + (soften(x) - x) * softness
    grey = x.mean(axis=-1, keepdims=True)
    x = grey + (x - grey) * jax.random.uniform(next(keys), each, minval=0.85, maxval=1.15)
    x = (x + 1) * jax.random.uniform(next(keys), each, minval=0.85, maxval=1.15) - 1
    x = x + 0.03 * jax.random.normal(next(keys), (b, 1, 1, 3))
    noise = jax.random.normal(next(keys), x.shape)
    x = x + noise * jax.random.uniform(next(keys), each, maxval=0.12 * noisiness)
    blotches = upsample2x(jax.random.normal(next(keys), (b, side // 2, side // 2, 3)))
    return x + blotches * jax.random.uniform(next(keys), each, maxval=0.08 * noisiness), target


def pixel_loss(params, x, target):
    """Mean loss per pixel: the semantic class everywhere, the other outputs on objects."""
    seen = predict(params, x)
    error = optax.softmax_cross_entropy_with_integer_labels
    on_object = (target["semantic"] >= 2).astype(jnp.float32)

    def on_objects(values):
        return (values * on_object).sum() / (on_object.sum() + 1.0)

    what = error(seen["semantic"], target["semantic"])
    total = (what * jnp.where(on_object > 0, OBJECT_WEIGHT, 1.0)).mean()
    offset = jnp.abs(seen["offset"] - target["offset"]).sum(axis=-1)
    total += 0.3 * on_objects(error(seen["colour"], target["colour"])) + on_objects(offset)
    for name in ("size", "material"):
        total += 0.1 * on_objects(error(seen[name], target[name]))
    return total


class Cycle(NamedTuple):
    """One rise and fall of the learning rate."""

    steps: int
    batch: int  # scenes at each of the two sizes
    rate: float  # the highest
    noisiness: float


# The second cycle has less noise, like the images that will be read.
CYCLES = (Cycle(2_000, 24, 4e-3, 1.0), Cycle(3_000, 16, 2.5e-3, 0.5))


def train(full: int = 7_000, single: int = 1_500, cycles=CYCLES, progress: bool = True):
    """Trains the reader on true renders of the levels `single` and `full` at both sizes.

    Returns:
      Its parameters, float32: a pure function of the arguments.
    """
    sources = [
        ScenesSource(SIZE, level, count, seed=SEED)
        for level, count in (("full", full), ("single", single))
    ]
    data = draw_truth(sources, progress)
    params = init(jax.random.key(0))
    for number, cycle in enumerate(cycles):
        params = train_cycle(params, data, cycle, number, progress)
    return params


def train_cycle(params, data, cycle: Cycle, number: int, progress: bool = True):
    """The parameters after one more cycle; `number` is its random seed."""
    tables = ("semantic", "colour", "size", "material", "middle")
    rate = optax.cosine_onecycle_schedule(cycle.steps, cycle.rate)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=1e-3))

    def loss(params, key, parts):
        total = 0.0
        for part, k in zip(parts, jax.random.split(key), strict=True):
            x = part["image"].astype(jnp.float32) / 127.5 - 1.0
            target = targets(part, part["instance"])
            total += pixel_loss(params, *augment(k, x, target, cycle.noisiness))
        return total / len(parts)

    @jax.jit
    def step(params, state, key, parts):
        value, gradient = jax.value_and_grad(loss)(params, key, parts)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    key = jax.random.key(number)
    state = optimiser.init(params)
    rng = np.random.default_rng(number)
    n = len(data["middle"])
    bar = tqdm(range(cycle.steps), desc="training the scene reader", disable=not progress)
    for k in bar:
        parts = []
        for size in (SIZE, SMALL):
            chosen = rng.integers(n, size=cycle.batch)
            part = {name: data[name][chosen] for name in tables}
            part |= {name: data[f"{name}{size}"][chosen] for name in ("image", "instance")}
            parts.append(part)
        params, state, value = step(params, state, jax.random.fold_in(key, k), parts)
        if k % 50 == 0:
            bar.set_postfix(loss=f"{value:.3f}")
    return params


def main() -> None:
    """Trains, writes the weights as float16, prints the accuracy on held-out renders."""
    half = {name: np.asarray(value, np.float16) for name, value in train().items()}
    np.savez(WEIGHTS, **half)
    weights.cache_clear()
    print(f"{WEIGHTS.name}: {WEIGHTS.stat().st_size / 1024:.0f} KiB")
    for size in (SMALL, SIZE):
        held_out = ScenesSource(
            size, "full", 500, seed=SEED, split="validation", extras=("semantic",)
        )
        data = held_out.read(range(500))
        accuracy = (semantic(data["image"]) == data["semantic"]).mean()
        print(f"held-out renders at {size}: {accuracy:.2%} of the pixels are correct")


if __name__ == "__main__":
    main()
