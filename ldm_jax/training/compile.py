"""From a stage to a program: abstract state, shardings, and a step compiled once, ahead of time."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ldm_jax.training.cost import cost_of
from ldm_jax.training.sharding import batch_sharding, gather, scatter, tree_sharding
from ldm_jax.training.state import Metrics, Stage, TrainState, init_state, train_step


@dataclass(frozen=True)
class CompiledStep:
    """`step(state, batch) -> (state, metrics)`; the memory of the state passed in is reused.

    It can never recompile: other shapes or shardings are an error.
    """

    compiled: jax.stages.Compiled
    key: jax.Array
    # Of one step, summed over the devices. XLA counts the body of a loop once; that of gradient
    # accumulation, nearly all there is of a step, is counted here as often as it runs.
    flops: float
    peak_bytes: int  # on each device: arguments + results + temporaries - what they share
    compile_s: float
    parameters: int  # how many numbers are trained

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        return self.compiled(state, batch, self.key)


def lower(
    stage: Stage, mesh: Mesh, key: Any, batch_example: Any, constants: Any
) -> tuple[TrainState, jax.stages.Lowered]:
    """The training step of a stage as a program for a mesh: (abstract state, the step, lowered).

    Allocates nothing, and the devices need not be there: whatever has a shape and a type will do
    for `key`, `batch_example` (of the global batch) and `constants`. The abstract state carries
    shapes and shardings.
    """
    replicated = NamedSharding(mesh, P())
    shapes = jax.eval_shape(partial(init_state, stage), key, constants)
    shardings = tree_sharding(shapes, mesh)
    abstract_state = jax.tree.map(_as_struct, shardings, shapes)

    def grads(params, constants, batch, key, step):
        grads, metrics = stage.grads(*gather((params, constants), mesh), batch, key, step)
        return scatter(grads, mesh), metrics

    def step(state, batch, key):
        return train_step(state, batch, stage=replace(stage, grads=grads), key=key)

    # Without out_shardings XLA may hand back a replicated state; donation updates it in place.
    jitted = jax.jit(step, out_shardings=(shardings, replicated), donate_argnums=0)
    batch = jax.tree.map(partial(_as_struct, batch_sharding(mesh)), batch_example)
    return abstract_state, jitted.lower(abstract_state, batch, _as_struct(replicated, key))


def prepare(
    stage: Stage, mesh: Mesh, key: jax.Array, batch_example: Any, constants: Any
) -> tuple[Callable[[], TrainState], TrainState, CompiledStep]:
    """Compiles a stage for a mesh; returns (init, abstract state, step).

    `batch_example` is a batch, or ShapeDtypeStructs with the shapes of the global batch. `init()`
    makes the first state, each device holding its own part only. The abstract state carries shapes
    and shardings: restore a checkpoint with it. When the state will come from a checkpoint,
    `constants` may be ShapeDtypeStructs too (`init` then cannot be called). `init` and `step` use
    different keys, both derived from `key`.
    """
    constants = jax.tree.map(_as_array, constants)
    init_key, step_key = jax.random.split(key)
    start = time.perf_counter()
    abstract_state, lowered = lower(stage, mesh, step_key, batch_example, constants)
    compiled = lowered.compile()
    compile_s = time.perf_counter() - start
    init = jax.jit(
        partial(init_state, stage),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract_state),
        compiler_options=_quickly(mesh),
    )

    # Through the raw bits, which every process can hand over as plain NumPy
    wrap = partial(jax.random.wrap_key_data, impl=jax.random.key_impl(step_key))
    bits = np.asarray(jax.random.key_data(step_key))
    step_key = jax.jit(wrap, out_shardings=NamedSharding(mesh, P()))(bits)

    cost = cost_of(compiled)
    step = CompiledStep(
        compiled=compiled,
        key=step_key,
        flops=cost.flops * mesh.size * stage.accumulate,
        peak_bytes=cost.peak_bytes,
        compile_s=compile_s,
        parameters=count_parameters(abstract_state),
    )
    return partial(init, init_key, constants), abstract_state, step


def count_parameters(state: TrainState) -> int:
    """How many numbers are trained."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))


def _quickly(mesh: Mesh) -> dict[str, Any]:
    """Compiler options for a program that runs once: a CPU would optimise it for half a minute."""
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return {"xla_backend_optimization_level": 0} if on_cpu else {}


def _as_array(x: Any) -> Any:
    """Python numbers as arrays of a definite type, which is what a checkpoint gives back."""
    return x if hasattr(x, "dtype") else np.asarray(x, jax.dtypes.canonicalize_dtype(type(x)))


def _as_struct(sharding: NamedSharding, x: Any) -> jax.ShapeDtypeStruct:
    dtype = jax.dtypes.canonicalize_dtype(x.dtype, allow_extended_dtype=True)
    return jax.ShapeDtypeStruct(x.shape, dtype, sharding=sharding)
