"""The smallest network that has everything: noise, an average, constants, a list of layers.

As a script, `python tiny.py DIRECTORY STEPS`, it is the child process that tests stop and kill.
"""

import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.errors import Interrupted
from ldm_jax.training.checkpoint import Checkpoints
from ldm_jax.training.config import Progress, TrainingConfig
from ldm_jax.training.loop import Hook, fit
from ldm_jax.training.metrics import MetricsLog
from ldm_jax.training.optimiser import OptimiserConfig
from ldm_jax.training.sharding import make_mesh, put_batch
from ldm_jax.training.step import compile_step

BATCH_SIZE = 16
CONSTANTS = {"scale_factor": 0.5}
traces = []  # one entry each time JAX traces `loss_and_grads`


class Denoiser:
    """The objective: predict x from x + noise."""

    def init(self, key):
        """A network of one hidden layer, 64 -> 512 -> 64: large enough to be sharded."""
        key_in, key_out = jax.random.split(key)
        mlp_in = {"kernel": jax.random.normal(key_in, (64, 512)) / 8, "bias": jnp.zeros(512)}
        mlp_out = {"kernel": jax.random.normal(key_out, (512, 64)) / 23, "bias": jnp.zeros(64)}
        return {"layers": {0: {"mlp_in": mlp_in}, 1: {"mlp_out": mlp_out}}}

    def loss_and_grads(self, params, constants, batch, key, step):
        """(gradients, metrics) of the mean square."""
        traces.append(step)

        def loss(params):
            noise = jax.random.normal(key, batch["x"].shape)
            noisy = batch["x"] + constants["scale_factor"] * noise
            first, second = params["layers"][0]["mlp_in"], params["layers"][1]["mlp_out"]
            hidden = jnp.tanh(noisy @ first["kernel"] + first["bias"][None])
            return jnp.mean((hidden @ second["kernel"] + second["bias"][None] - batch["x"]) ** 2)

        value, gradient = jax.value_and_grad(loss)(params)
        return gradient, {"loss": value, "scale": constants["scale_factor"]}


OBJECTIVE = Denoiser()
CONFIG = TrainingConfig(
    OptimiserConfig(learning_rate=3e-3, warmup_steps=5, clip_norm=1.0),
    batch_size=BATCH_SIZE,
    steps=100,
    ema_decay=0.9,
)


def local_batch(step):
    """The data is a pure function of the step: points near one plane."""
    rng = np.random.default_rng(step)
    plane = np.random.default_rng(0).normal(size=(4, 64))
    return {"x": (rng.normal(size=(BATCH_SIZE, 4)) @ plane).astype(np.float32)}


def batches_on(mesh):
    """What `fit` takes: start step -> iterator of global batches."""

    def batches(step):
        while True:
            yield put_batch(local_batch(step), mesh)
            step += 1

    return batches


def compile_on(mesh, config=CONFIG, batch=None, constants=CONSTANTS):
    """(init, abstract state, step) on a mesh."""
    batch = local_batch(0) if batch is None else batch
    return compile_step(OBJECTIVE, config, mesh, jax.random.key(7), batch, constants)


def run(directory, steps, compiled, mesh, *, log_every=5, save_every=5, hooks=()):
    """A whole run, resumed if there is something to resume; returns the final state."""
    Path(directory).mkdir(parents=True, exist_ok=True)  # a run directory is there by now
    init_fn, abstract_state, step_fn = compiled
    checkpoints = Checkpoints(Path(directory) / "checkpoints")
    state = checkpoints.restore(abstract_state) or init_fn()
    try:
        return fit(
            step_fn,
            state,
            batches_on(mesh),
            replace(CONFIG, steps=steps, progress=Progress(log_every, save_every=save_every)),
            name="tiny",
            checkpoints=checkpoints,
            metrics=MetricsLog(Path(directory) / "metrics.jsonl"),
            hooks=hooks,
        )
    finally:
        checkpoints.close()


def same(a, b):
    """Whether two trees are equal bit for bit."""
    equal = jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b)
    return all(jax.tree.leaves(equal))


if __name__ == "__main__":
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    announce = Hook(1, lambda state, step: print("step", step, flush=True))
    try:
        run(sys.argv[1], int(sys.argv[2]), compile_on(mesh), mesh, hooks=[announce])
    except Interrupted as interrupted:
        print(interrupted, flush=True)
        sys.exit(interrupted.exit_code)
