"""What changes while a network trains, the one pure step that changes it, and its program.

`train_step` is the mathematics: gradients, optimiser, moving average. `compile_step` makes a
program of it for a mesh of devices, once, before the first batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ldm_jax.training.config import TrainingConfig
from ldm_jax.training.cost import cost_of
from ldm_jax.training.optimiser import make_optimiser
from ldm_jax.training.sharding import batch_sharding, gather, scatter, share_rows, tree_sharding

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
    ema: Tree | None  # float32 moving average of `params`; None without one
    opt_state: optax.OptState
    constants: Tree  # saved with the state but not trained; {} if none

    @property
    def weights(self) -> Tree:
        """The parameters to use after training: the moving average where there is one."""
        return self.params if self.ema is None else self.ema


class Objective(Protocol):
    """What a network is trained for."""

    def init(self, key: jax.Array) -> Tree:
        """Fresh parameters."""
        ...

    def loss_and_grads(
        self, params: Tree, constants: Tree, batch: Tree, key: jax.Array, step: jax.Array
    ) -> tuple[Tree, Metrics]:
        """(gradients, metrics), pure.

        The gradients have the tree of `params`, without those of its parts that are named in an
        attribute `frozen` of the objective; two players may each bring their own loss. Metrics
        are scalars; one with "loss" in its name stops the run when it is no longer finite. Both are
        means over the batch, as far as that can be.
        """
        ...


def init_state(
    objective: Objective, config: TrainingConfig, key: jax.Array, constants: Tree
) -> TrainState:
    """The state before the first update. Pure: jit it with `out_shardings` to make it in place."""
    params = objective.init(key)
    return _state_of(params, trained_part(objective, params), config, constants)


def trained_part(objective: Objective, params: Tree) -> Tree:
    """The parameters that are trained: all but those that the objective calls `frozen`."""
    frozen = getattr(objective, "frozen", ())
    return {name: p for name, p in params.items() if name not in frozen} if frozen else params


def _state_of(params: Tree, trained: Tree, config: TrainingConfig, constants: Tree) -> TrainState:
    ema = jax.tree.map(lambda p: p.astype(jnp.float32), params) if config.ema_decay else None
    opt_state = make_optimiser(config.optimiser, config.steps).init(trained)
    return TrainState(jnp.int32(0), params, ema, opt_state, constants)


def train_step(
    state: TrainState,
    batch: Tree,
    *,
    objective: Objective,
    config: TrainingConfig,
    key: jax.Array,
    mesh: Mesh | None = None,
) -> tuple[TrainState, Metrics]:
    """One update: gradients, optimiser, moving average. Pure.

    `key` is the key of the whole run. `metrics` are the objective's own and `grad_norm`, the global
    norm of the gradients before any clipping. With a mesh, weights that it splits are gathered for
    use, and their gradients scattered.
    """
    key = jax.random.fold_in(key, state.step)

    def loss_and_grads(batch: Tree, key: jax.Array) -> tuple[Tree, Metrics]:
        params, constants = state.params, state.constants
        if mesh is not None:
            params, constants = gather((params, constants), mesh)
        grads, metrics = objective.loss_and_grads(params, constants, batch, key, state.step)
        return grads if mesh is None else scatter(grads, mesh), metrics

    trained = trained_part(objective, state.params)
    grads, metrics = _accumulated(loss_and_grads, config.accumulate, trained, batch, key)
    state = updated(state, trained, grads, config, mesh)
    return state, {**metrics, "grad_norm": optax.tree.norm(grads)}


def updated(
    state: TrainState, trained: Tree, grads: Tree, config: TrainingConfig, mesh: Mesh | None
) -> TrainState:
    """The state after the optimiser's update of its trained part by these gradients."""
    options = {} if mesh is None else {"share": partial(share_rows, mesh=mesh)}
    optimiser = make_optimiser(config.optimiser, config.steps, **options)
    updates, opt_state = optimiser.update(grads, state.opt_state, trained)
    params = {**state.params, **optax.apply_updates(trained, updates)}
    ema = state.ema if state.ema is None else update_ema(state, params, config.ema_decay)
    return TrainState(state.step + 1, params, ema, opt_state, state.constants)


def _accumulated(
    loss_and_grads: Callable[[Tree, jax.Array], tuple[Tree, Metrics]],
    k: int,
    params: Tree,
    batch: Tree,
    key: jax.Array,
) -> tuple[Tree, Metrics]:
    """(gradients, metrics) of a batch: the means of those of its k parts.

    Only one part's activations are in memory at a time. Part j has the rows j, j + k, j + 2k, ...:
    a device has consecutive rows, so it has its share of every part, and no row moves. Each part
    draws with a key of its own. What is no mean over examples comes from a part alone, and so
    depends on its size: the discriminator's batch statistics, the adversary's adaptive weight, the
    share of codes that are in use, a classifier's accuracy in each quarter of the noise levels.
    """
    if k == 1:
        return loss_and_grads(batch, key)

    def add(total: Tree, part: tuple[jax.Array, Tree]) -> tuple[Tree, Metrics]:
        j, rows = part
        grads, metrics = loss_and_grads(rows, jax.random.fold_in(key, j))
        return jax.tree.map(jnp.add, total, grads), metrics

    parts = jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(len(x) // k, k, *x.shape[1:]), 1, 0), batch
    )
    zero = jax.tree.map(jnp.zeros_like, params)
    total, metrics = jax.lax.scan(add, zero, (jnp.arange(k), parts))
    return jax.tree.map(lambda g: g / k, total), jax.tree.map(jnp.mean, metrics)


def update_ema(state: TrainState, params: Tree, decay: float) -> Tree:
    """The moving average after `params` have become the weights of update n = step + 1.

    The original's warm-up: the decay of update n is min(decay, (1 + n) / (10 + n)), so that the
    average forgets the random initial weights within the first dozen updates. In float32 always:
    at a decay of 0.9999 a bfloat16 average would never move.
    """
    n = (state.step + 1).astype(jnp.float32)
    weight = 1.0 - jnp.minimum(decay, (1.0 + n) / (10.0 + n))
    return jax.tree.map(lambda e, p: e - weight * (e - p.astype(e.dtype)), state.ema, params)


@dataclass(frozen=True)
class CompiledStep:
    """`step(state, batch) -> (state, metrics)`; the memory of the state passed in is reused.

    It can never recompile: other shapes or shardings are an error.
    """

    compiled: jax.stages.Compiled
    key: jax.Array
    flops: float  # of one step, summed over the devices; see `step_flops`
    peak_bytes: int  # on each device: arguments + results + temporaries - what they share
    compile_s: float
    parameters: int  # how many numbers the networks hold

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        return self.compiled(state, batch, self.key)


def abstract_state(
    objective: Objective, config: TrainingConfig, mesh: Mesh, constants: Any
) -> TrainState:
    """Shapes and shardings of a state on a mesh, to restore a checkpoint with; see `lower_step`."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    constants = jax.tree.map(_as_array, constants)
    shapes = jax.eval_shape(partial(init_state, objective, config), key, constants)
    return jax.tree.map(_as_struct, tree_sharding(shapes, mesh), shapes)


def lower_step(
    objective: Objective,
    config: TrainingConfig,
    mesh: Mesh,
    key: Any,
    batch_example: Any,
    constants: Any,
) -> tuple[TrainState, jax.stages.Lowered]:
    """The training step as a program for a mesh: (abstract state, the step, lowered).

    Allocates nothing, and the devices need not be there: whatever has a shape and a type will do
    for `key`, `batch_example` (of the global batch) and `constants`. The abstract state carries
    shapes and shardings.
    """
    replicated = NamedSharding(mesh, P())
    state = abstract_state(objective, config, mesh, constants)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)

    def step(state: TrainState, batch: Tree, key: jax.Array) -> tuple[TrainState, Metrics]:
        return train_step(state, batch, objective=objective, config=config, key=key, mesh=mesh)

    # Without out_shardings XLA may hand back a replicated state; donation updates it in place.
    jitted = jax.jit(step, out_shardings=(shardings, replicated), donate_argnums=0)
    batch = jax.tree.map(partial(_as_struct, batch_sharding(mesh)), batch_example)
    return state, jitted.lower(state, batch, _as_struct(replicated, key))


def compile_step(
    objective: Objective,
    config: TrainingConfig,
    mesh: Mesh,
    key: jax.Array,
    batch_example: Any,
    constants: Any,
) -> tuple[Callable[[], TrainState], TrainState, CompiledStep]:
    """Compiles a training step for a mesh; returns (init, abstract state, step).

    `batch_example` is a batch, or ShapeDtypeStructs with the shapes of the global batch. `init()`
    makes the first state, each device holding its own part only. The abstract state carries shapes
    and shardings: restore a checkpoint with it. When the state will come from a checkpoint,
    `constants` may be ShapeDtypeStructs too (`init` then cannot be called). `init` and `step` use
    different keys, both derived from `key`.
    """
    constants = jax.tree.map(_as_array, constants)
    init_key, step_key = jax.random.split(key)
    start = time.perf_counter()
    state, lowered = lower_step(objective, config, mesh, step_key, batch_example, constants)
    compiled = lowered.compile()
    compile_s = time.perf_counter() - start
    init = jax.jit(
        partial(init_state, objective, config),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, state),
        compiler_options=quickly(mesh),
    )

    # Through the raw bits, which every process can hand over as plain NumPy
    wrap = partial(jax.random.wrap_key_data, impl=jax.random.key_impl(step_key))
    bits = np.asarray(jax.random.key_data(step_key))
    step_key = jax.jit(wrap, out_shardings=NamedSharding(mesh, P()))(bits)

    cost = cost_of(compiled)
    step = CompiledStep(
        compiled=compiled,
        key=step_key,
        flops=step_flops(cost.flops, config, trained_part(objective, state.params)) * mesh.size,
        peak_bytes=cost.peak_bytes,
        compile_s=compile_s,
        parameters=count_parameters(state.params),
    )
    return partial(init, init_key, constants), state, step


def step_flops(counted: float, config: TrainingConfig, params: Tree) -> float:
    """FLOPs of one step on one device.

    Args:
      counted: what XLA counts of the step's program. With gradient accumulation that is one part
        of the batch, the body of a loop, and the update, which comes once after all parts.
      params: those that are trained, with shapes and shardings as `lower_step` gives them.
    """
    k = config.accumulate
    if k == 1:
        return counted
    state = jax.eval_shape(lambda p: _state_of(p, p, config, {}), params)
    mesh = jax.tree.leaves(params)[0].sharding.mesh
    state = jax.tree.map(_as_struct, tree_sharding(state, mesh), state)

    def after_parts(state: TrainState, total: Tree) -> tuple[TrainState, jax.Array]:
        grads = jax.tree.map(lambda g: g / k, total)
        return updated(state, state.params, grads, config, mesh), optax.tree.norm(grads)

    update = jax.jit(after_parts).lower(state, params).compile(quickly(mesh))
    return k * counted - (k - 1) * cost_of(update).flops


def count_parameters(params: Tree) -> int:
    """How many numbers a tree of arrays, or of their shapes, holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def quickly(mesh: Mesh) -> dict[str, Any]:
    """Compiler options for a program that runs once: a CPU would optimise it for half a minute."""
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return {"xla_backend_optimization_level": 0} if on_cpu else {}


def _as_array(x: Any) -> Any:
    """Python numbers as arrays of a definite type, which is what a checkpoint gives back."""
    return x if hasattr(x, "dtype") else np.asarray(x, jax.dtypes.canonicalize_dtype(type(x)))


def _as_struct(sharding: NamedSharding, x: Any) -> jax.ShapeDtypeStruct:
    dtype = jax.dtypes.canonicalize_dtype(x.dtype, allow_extended_dtype=True)
    return jax.ShapeDtypeStruct(x.shape, dtype, sharding=sharding)
