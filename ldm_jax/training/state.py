"""What changes while a network trains, and the one pure step that changes it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

Tree = Any  # nested dictionaries of arrays
Metrics = dict[str, jax.Array]  # name -> scalar


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a step reads and writes; a checkpoint is exactly this.

    There is no random key in it: the key of a step is folded out of the run's key and `step`, and
    the position in the data is `step` too, so a resumed run repeats the one that never stopped.
    """

    step: jax.Array  # int32 scalar: how many updates have been made
    params: Tree
    ema: Tree | None  # float32 running average of `params`; None when the stage keeps none
    opt_state: optax.OptState
    constants: Tree  # saved with the state but not trained; {} if none


@dataclass(frozen=True)
class Stage:
    """All that the engine needs to know of what it trains.

    `grads(params, constants, batch, key, step) -> (grads, metrics)` is pure; `grads` has the tree
    of `params` and need not be the gradient of one loss: two players may each bring their own.
    `metrics` are scalars; one with "loss" in its name stops the run when it is no longer finite.
    Both are means over the batch, as far as that can be.
    """

    init: Callable[[jax.Array], Tree]
    grads: Callable[[Tree, Tree, Tree, jax.Array, jax.Array], tuple[Tree, Metrics]]
    tx: optax.GradientTransformation
    ema_decay: float = 0.0  # 0 = no average
    accumulate: int = 1  # parts in which a batch is worked through, one after another


def init_state(stage: Stage, key: jax.Array, constants: Tree) -> TrainState:
    """The state before the first update. Pure: jit it with `out_shardings` to make it in place."""
    params = stage.init(key)
    ema = jax.tree.map(lambda p: p.astype(jnp.float32), params) if stage.ema_decay else None
    return TrainState(jnp.int32(0), params, ema, stage.tx.init(params), constants)


def train_step(
    state: TrainState, batch: Tree, *, stage: Stage, key: jax.Array
) -> tuple[TrainState, Metrics]:
    """One update: gradients, optimiser, running average. Pure.

    `key` is the key of the whole run. `metrics` are the stage's own and `grad_norm`, the global
    norm of the gradients before any clipping.
    """
    key = jax.random.fold_in(key, state.step)
    grads, metrics = _mean_grads(stage, state, batch, key)
    updates, opt_state = stage.tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema if state.ema is None else update_ema(state, params, stage.ema_decay)
    state = TrainState(state.step + 1, params, ema, opt_state, state.constants)
    return state, {**metrics, "grad_norm": optax.tree.norm(grads)}


def _mean_grads(stage: Stage, state: TrainState, batch: Tree, key: jax.Array):
    """(grads, metrics) of a batch: the means of those of `stage.accumulate` = k parts.

    Only one part's activations are held at a time. Part j has the rows j, j + k, j + 2k, ...: a
    device has consecutive rows, so it has its share of every part, and no row moves. Each part
    draws with a key of its own. What is no mean over examples comes from a part alone, and so
    depends on its size: the discriminator's batch statistics, the adversary's adaptive weight, the
    share of codes that are in use, a classifier's accuracy in each quarter of the noise levels.
    """
    k = stage.accumulate
    if k == 1:
        return stage.grads(state.params, state.constants, batch, key, state.step)

    def add(total: Tree, part: tuple[jax.Array, Tree]) -> tuple[Tree, Metrics]:
        j, rows = part
        key_j = jax.random.fold_in(key, j)
        grads, metrics = stage.grads(state.params, state.constants, rows, key_j, state.step)
        return jax.tree.map(jnp.add, total, grads), metrics

    parts = jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(len(x) // k, k, *x.shape[1:]), 1, 0), batch
    )
    zero = jax.tree.map(jnp.zeros_like, state.params)
    total, metrics = jax.lax.scan(add, zero, (jnp.arange(k), parts))
    return jax.tree.map(lambda g: g / k, total), jax.tree.map(jnp.mean, metrics)


def update_ema(state: TrainState, params: Tree, decay: float) -> Tree:
    """The running average after `params` have become the weights of update n = step + 1.

    The reference's warm-up: the decay of update n is min(decay, (1 + n) / (10 + n)), so that the
    average forgets the random initial weights within the first dozen updates. In float32 always:
    at a decay of 0.9999 a bfloat16 average would never move.
    """
    n = (state.step + 1).astype(jnp.float32)
    weight = 1.0 - jnp.minimum(decay, (1.0 + n) / (10.0 + n))
    return jax.tree.map(lambda e, p: e - weight * (e - p.astype(e.dtype)), state.ema, params)
