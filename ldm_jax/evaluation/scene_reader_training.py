"""Trains the network that reads scenes: `python -m ldm_jax.evaluation.scene_reader_training`.

It learns from renders alone, of all levels, at 32x32 and 64x64: as they are, with small faults that
do not matter, and damaged (`scene_damage.py`). A run directory keeps checkpoints: the same command
goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from ldm_jax.data.scenes import COLOURS, FLOORS, MATERIALS, SIZES, SKIES, ScenesConfig, ScenesSource
from ldm_jax.data.scenes.captions import class_label
from ldm_jax.data.scenes.geometry import pixel_truth
from ldm_jax.data.scenes.render import render
from ldm_jax.data.scenes.world import MAX_OBJECTS, Scene
from ldm_jax.evaluation.scene_damage import damaged, harmless
from ldm_jax.evaluation.scene_network import (
    FEATURES,
    POSE_MEAN,
    POSE_SPREAD,
    SIZE,
    SMALL,
    VIEW_MEAN,
    VIEW_SPREAD,
    SceneNetwork,
    outputs,
)
from ldm_jax.evaluation.scene_reader import OBJECT_WEIGHT, WEIGHTS, save_weights
from ldm_jax.layers import Array
from ldm_jax.parameters import init_params, make_graphdef
from ldm_jax.training.checkpoint import Checkpoints
from ldm_jax.training.config import Progress, TrainingConfig
from ldm_jax.training.loop import fit
from ldm_jax.training.metrics import MetricsLog
from ldm_jax.training.optimiser import OptimiserConfig
from ldm_jax.training.sharding import make_mesh, put_batch
from ldm_jax.training.step import compile_step

SEED = 1_000_033  # far from the seeds people choose: these renders are the reader's own
SCENES = {"single": 4_000, "pair": 6_000, "full": 6_000}
CONFIG = TrainingConfig(
    optimiser=OptimiserConfig(
        learning_rate=3e-3, schedule="cosine", warmup_steps=100, weight_decay=1e-3, clip_norm=1.0
    ),
    progress=Progress(log_every=50, save_every=500),
    batch_size=32,  # scenes, each at one of the two sizes
    steps=7_000,
    ema_decay=0.998,
)
_SHARES = (0.35, 0.25, 0.4)  # of images as they are, with harmless faults, damaged
_SLOTS = 2 + MAX_OBJECTS  # sky, floor, objects


def view_of(scene: Scene) -> tuple[float, ...]:
    """The numbers named by `scene_network.VIEW`; angles of the light in radians."""
    x, y, z = scene.sun
    camera = scene.camera
    angles = float(np.arctan2(x, -y)), float(np.arcsin(z))
    return (camera.height, camera.pitch, camera.spread, *angles, scene.floor_turn, scene.floor_tone)


def tables_of(scene: Scene) -> dict[str, np.ndarray]:
    """What is true of a scene: a row for the sky, the floor and each object, and for the image."""
    table = {
        name: np.zeros(_SLOTS, np.int32) for name in ("semantic", "colour", "size", "material")
    }
    table["pose"] = np.zeros((_SLOTS, 4), np.float32)
    table["semantic"][1] = 1
    for j, solid in enumerate(scene.objects, start=2):
        shape, table["colour"][j] = divmod(class_label(solid), len(COLOURS))
        table["semantic"][j] = 2 + shape
        table["size"][j] = SIZES.index(solid.size)
        table["material"][j] = MATERIALS.index(solid.material)
        pose = np.array([solid.x, solid.y, solid.radius, solid.turn])
        table["pose"][j] = (pose - POSE_MEAN) / POSE_SPREAD
    table["floor"] = np.int32(FLOORS.index(scene.floor))
    table["sky"] = np.int32(SKIES.index(scene.sky))
    table["view"] = ((np.array(view_of(scene)) - VIEW_MEAN) / VIEW_SPREAD).astype(np.float32)
    return table


def examples(scene: Scene, size: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One scene at one size.

    Returns:
      image: uint8 [3, S, S, 3], as it is, with harmless faults, damaged; instance: int8 [S, S], 0
      sky, 1 floor, then the objects; sound: float32 [3, 6], 0 for the objects that are damaged;
      centre: float32 [6, 2], of each box, in sides of the image.
    """
    instance = pixel_truth(scene, size)[1]
    plain, bad = render(scene, size), damaged(scene, size, instance, rng)
    sound = np.ones((3, _SLOTS), np.float32)
    sound[2, [2 + k for k in bad.objects]] = 0
    centre = np.zeros((_SLOTS, 2), np.float32)
    for k in range(len(scene.objects)):
        rows, columns = np.nonzero(instance == k)
        if len(rows):
            centre[2 + k] = columns.min() + columns.max() + 1, rows.min() + rows.max() + 1
    return {
        "image": np.stack([plain, harmless(plain, rng), bad.image]),
        "instance": (instance + 2).astype(np.int8),
        "sound": sound,
        "centre": centre / (2 * size),
    }


def render_examples(counts: dict[str, int], progress: bool = True) -> list[dict[str, np.ndarray]]:
    """The examples of all scenes at 64 and at 32: `tables_of` and `examples`, with one row each."""
    scenes = []
    for level, count in counts.items():
        source = ScenesSource(ScenesConfig(SIZE, level, count), "train", SEED)
        scenes += [source.scene(i) for i in range(count)]
    found: list[dict[str, np.ndarray]] = [{}, {}]
    for row, scene in enumerate(tqdm(scenes, desc="rendering scenes", disable=not progress)):
        for arrays, size in zip(found, (SIZE, SMALL), strict=True):
            rng = np.random.default_rng([SEED, size, row])
            for name, value in (tables_of(scene) | examples(scene, size, rng)).items():
                value = np.asarray(value)
                if name not in arrays:
                    arrays[name] = np.empty((len(scenes), *value.shape), value.dtype)
                arrays[name][row] = value
    return found


def batch_of(data: list[dict[str, np.ndarray]], step: int, count: int) -> dict[str, dict]:
    """Batch `step`, a pure function of it: `count` scenes at each size, some mirrored."""
    rng = np.random.default_rng([SEED, step])
    batch = {}
    for arrays, size in zip(data, (SIZE, SMALL), strict=True):
        rows = rng.integers(len(arrays["image"]), size=count)
        variant = rng.choice(3, size=count, p=_SHARES)
        part = {name: a[rows] for name, a in arrays.items() if name not in ("image", "sound")}
        part |= {name: arrays[name][rows, variant] for name in ("image", "sound")}
        mirror(part, rng.random(count) < 0.5)
        batch[f"at_{size}"] = part
    return batch


def mirror(part: dict[str, np.ndarray], chosen: np.ndarray) -> None:
    """Turns left and right in the chosen examples, in the images and in what is true of them."""
    for name in ("image", "instance"):
        part[name][chosen] = part[name][chosen][:, :, ::-1]
    part["centre"][chosen, :, 0] = 1 - part["centre"][chosen, :, 0]
    part["pose"][chosen, :, 0] *= -1
    part["pose"][chosen, :, 3] *= -1  # about pi / 4, a cube's plane of symmetry
    for name in (3, 5):  # azimuth, floor_turn
        part["view"][chosen, name] *= -1


class ReaderObjective:
    """`init` and `loss_and_grads` of the network, for the training engine."""

    def __init__(self) -> None:
        self.build = lambda rngs: SceneNetwork(rngs=rngs)
        self.graph = make_graphdef(self.build)

    def init(self, key: Array) -> dict:
        """Fresh parameters."""
        return init_params(self.build, key)

    def loss_and_grads(self, params, constants, batch, key, step):
        """(gradients, metrics): the mean over both sizes."""

        def loss(params: dict) -> tuple[Array, dict]:
            network = nnx.merge(self.graph, params)
            parts = [
                losses(network, part, k)
                for part, k in zip(batch.values(), jax.random.split(key), strict=True)
            ]
            metrics = jax.tree.map(lambda *values: sum(values) / len(values), *parts)
            return sum(metrics.values()), metrics

        (total, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return grads, metrics | {"loss": total}


def losses(network: SceneNetwork, part: dict[str, Array], key: Array) -> dict[str, Array]:
    """The weighted losses of a batch of one size: each pixel's, each object's, the image's."""
    x = part["image"].astype(jnp.float32) / 127.5 - 1
    keys = jax.random.split(key)
    b, side = x.shape[:2]
    # Samples are a little darker or brighter, and tinted
    x = (x + 1) * jax.random.uniform(keys[0], (b, 1, 1, 1), minval=0.93, maxval=1.07) - 1
    x = x + 0.02 * jax.random.normal(keys[1], (b, 1, 1, 3))
    pixels, whole, _ = outputs(network, x)

    instance = part["instance"].astype(jnp.int32)
    here = jax.vmap(lambda table, which: table[which])  # of the object that a pixel shows
    on_object = (instance >= 2).astype(jnp.float32)
    # Each object counts alike: its pixels by the root of their number.
    counts = jax.nn.one_hot(instance, _SLOTS).sum(axis=(1, 2))
    weight = here(jax.lax.rsqrt(counts + 1), instance) * on_object
    weight = weight / (weight.sum() + 1e-6)
    sound = here(part["sound"], instance)

    def mean(values: Array, weight: Array = weight) -> Array:
        return (values * weight).sum()

    error = optax.softmax_cross_entropy_with_integer_labels
    what = error(pixels["semantic"], here(part["semantic"], instance))
    found = {"semantic": (what * jnp.where(on_object > 0, OBJECT_WEIGHT, 1.0)).mean()}
    for name, scale in (("colour", 0.3), ("size", 0.3), ("material", 0.5)):
        found[name] = scale * mean(error(pixels[name], here(part[name], instance)))
    shape = error(pixels["semantic"][..., 2:], jnp.maximum(here(part["semantic"], instance) - 2, 0))
    found["shape"] = 0.3 * mean(shape)
    logit = pixels["sound"][..., 0]
    found["sound"] = 1.5 * mean(optax.sigmoid_binary_cross_entropy(logit, sound))
    ticks = (jnp.arange(side) + 0.5) / side
    place = jnp.stack(jnp.meshgrid(ticks, ticks), axis=-1)[None]
    offset = here(part["centre"], instance) - place
    found["offset"] = mean(jnp.abs(pixels["offset"] - offset).sum(axis=-1))
    pose = jnp.abs(pixels["pose"] - here(part["pose"], instance))
    is_cube = here(part["semantic"], instance) == 3
    pose = pose[..., :3].sum(axis=-1) + jnp.where(is_cube, pose[..., 3], 0.0)
    found["pose"] = 0.2 * mean(pose * sound)
    for name in ("floor", "sky"):
        found[name] = 0.1 * error(whole[name], part[name]).mean()
    found["view"] = 0.1 * jnp.abs(whole["view"] - part["view"]).mean()
    return found


def train(run: Path, counts=SCENES, config: TrainingConfig = CONFIG, progress: bool = True) -> dict:
    """Trains the network in a directory, or goes on; returns its averaged parameters."""
    data = render_examples(counts, progress)
    mesh, objective = make_mesh(-1, 1, 1), ReaderObjective()
    example = batch_of(data, 0, config.batch_size)
    checkpoints = Checkpoints(run / "checkpoints")
    init, abstract, step = compile_step(objective, config, mesh, jax.random.key(0), example, {})

    def batches(start: int) -> Iterator[dict]:
        for k in range(start, config.steps):
            yield put_batch(batch_of(data, k, config.batch_size), mesh)

    state = checkpoints.restore(abstract) or init()
    metrics = MetricsLog(run / "metrics.jsonl")
    state = fit(
        step, state, batches, config, name="reader", checkpoints=checkpoints, metrics=metrics
    )
    checkpoints.close()
    return jax.device_get(state.weights)


def statistics(params: dict, data: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Mean and standard deviation of each feature over true renders, both sizes: float32 [d]."""
    graph = make_graphdef(lambda rngs: SceneNetwork(rngs=rngs))
    read = jax.jit(lambda x: outputs(nnx.merge(graph, params), x / 127.5 - 1)[2])
    found = [
        np.asarray(read(arrays["image"][i : i + 64, 0].astype(np.float32)))
        for arrays in data
        for i in range(0, min(len(arrays["image"]), 2048), 64)
    ]
    features = np.concatenate(found).astype(np.float64)
    assert features.shape[1] == FEATURES
    std = features.std(axis=0)
    return {"mean": features.mean(axis=0), "std": std + 0.01 * np.median(std)}


def main() -> None:
    """Trains, and writes the weights as float16 beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/scene-reader"))
    run = parser.parse_args().run_dir
    run.mkdir(parents=True, exist_ok=True)
    params = train(run)
    few = {level: 700 for level in SCENES}
    save_weights(WEIGHTS, params, statistics(params, render_examples(few)))
    print(f"{WEIGHTS}: {WEIGHTS.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
