"""How a network is trained: what every stage has in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from ldm_jax.bounds import BatchSize, Bounds, Fraction, PositiveInt
from ldm_jax.resuming import OnResume
from ldm_jax.training.optimiser import OptimiserConfig


@dataclass(frozen=True)
class Progress:
    """How often a stage reports, in steps."""

    log_every: PositiveInt = 50
    """Steps between two lines of metrics.jsonl."""
    preview_every: PositiveInt = 1000
    """Steps between two preview grids (and new curves)."""
    save_every: PositiveInt = 1000
    """Steps between two checkpoints."""


@dataclass(frozen=True)
class TrainingConfig:
    """How one network is trained; each stage adds its own fields."""

    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    progress: Annotated[Progress, OnResume.FREE] = field(default_factory=Progress)
    batch_size: BatchSize = 64
    """Examples a step, over all devices."""
    accumulate: PositiveInt = 1
    """Parts in which a batch is processed, one after another, to save memory."""
    remat: Annotated[bool, OnResume.ROUNDING] = False
    """Compute the activations of each block again in the backward pass, to save memory."""
    steps: Annotated[PositiveInt, OnResume.LENGTH] = 100_000
    """Training steps."""
    ema_decay: Fraction = 0.9999
    """Decay of the moving average of the weights (EMA), which is used after training; 0: none."""


@dataclass(frozen=True)
class LoaderConfig:
    """How batches are made while a network trains; it changes none of them."""

    threads: Annotated[int, Bounds(0, 1024)] = 0
    """Batches made at a time, a thread each; 0: one per core, at most eight."""
    ahead: Annotated[int, Bounds(0, 2**16)] = 0
    """Batches made ahead, in memory; 0: twice the threads."""


@dataclass(frozen=True)
class MeshConfig:
    """How the devices are arranged."""

    data: Annotated[int, Bounds(-1)] = -1
    """Ways to split the batch; -1: as many as devices are left."""
    fsdp: PositiveInt = 1
    """Ways to split the batch, and parameters and optimiser state where they are stored."""
    tensor: PositiveInt = 1
    """Ways to split attention and feed-forward layers; best a divisor of the number of heads."""
