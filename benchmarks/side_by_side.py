"""What the benchmarks of our networks beside diffusers' share: sizes, rounds, tables.

Ways are measured in rounds, each of which runs every way once, so that other work on the machine
falls on all of them; ratios are taken within a round. How fast the machine can be at all is
measured too, by a product of large matrices in both libraries, and never read off a data sheet.

Nothing here or below needs tyro or tensorflow_datasets, so the sizes are restated (a test compares
them with the experiments').
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

# PyTorch lives on the same GPU
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.autoencoder.loss import AutoencoderLossConfig
from ldm_jax.autoencoder.network import AutoencoderConfig
from ldm_jax.diffusion.unet import UNetConfig
from ldm_jax.training.optimiser import OptimiserConfig
from ldm_jax.training.sharding import BATCH, make_mesh

# Those that this process may use: `taskset -c 0 python ...` compares on one
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
TOLERANCE = 1e-4  # relative difference of two outputs in float32
PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "diffusers", "numpy")


@dataclass(frozen=True)
class UNetSize:
    """A UNet as an experiment trains it; the schedule is the default one."""

    unet: UNetConfig
    latent: tuple[int, int, int]  # h, w, c
    tokens: tuple[int, int] | None  # of the condition and their width, for cross-attention
    prediction: str
    optimiser: OptimiserConfig
    ema_decay: float
    batch: int


@dataclass(frozen=True)
class AutoencoderSize:
    """An autoencoder as an experiment trains it, but for the discriminator, LPIPS, scale
    equivariance and Muon."""

    network: AutoencoderConfig
    image: int  # side
    loss: AutoencoderLossConfig
    optimiser: OptimiserConfig
    ema_decay: float
    batch: int


UNETS = {
    # To see it run
    "tiny": UNetSize(
        UNetConfig(32, (1,), 1, (1,), groups=8),
        (4, 4, 4),
        (3, 16),
        "v",
        OptimiserConfig(1e-3),
        0.99,
        4,
    ),
    "laptop": UNetSize(  # scenes
        UNetConfig(64, (1, 2), 1, (1, 2), groups=16),
        (8, 8, 8),
        (13, 96),
        "v",
        OptimiserConfig(3e-3, "cosine", 100, clip_norm=1.0),
        0.995,
        32,
    ),
    "paper": UNetSize(  # celeba256
        UNetConfig(224, (1, 2, 3, 4)),
        (64, 64, 3),
        None,
        "eps",
        OptimiserConfig(9.6e-5),
        0.9999,
        48,
    ),
}
AUTOENCODERS = {
    "tiny": AutoencoderSize(
        AutoencoderConfig(8, (1, 2), 1, mid_attention=False, groups=4),
        8,
        AutoencoderLossConfig(disc_weight=0.0),
        OptimiserConfig(1e-3, weight_decay=0.0),
        0.0,
        4,
    ),
    "laptop": AutoencoderSize(  # scenes
        AutoencoderConfig(16, (1, 2, 4), 1, mid_attention=False, z_channels=8, groups=8),
        32,
        AutoencoderLossConfig(l2_weight=1.0, kl_weight=3e-3, disc_weight=0.0),
        OptimiserConfig(8e-3, "cosine", 50, b1=0.9, b2=0.99, weight_decay=0.0, clip_norm=1.0),
        0.99,
        16,
    ),
    "paper": AutoencoderSize(  # kl-f8
        AutoencoderConfig(128, (1, 2, 4, 4), 2, z_channels=4),
        256,
        AutoencoderLossConfig(kl_weight=1e-6, disc_weight=0.0),
        OptimiserConfig(4 * 4.5e-6, b1=0.5, b2=0.9, weight_decay=0.0),
        0.0,
        4,
    ),
}


@dataclass
class Way:
    """One way to do the work: `run(n)` does it n times and returns when all of it is done."""

    name: str
    run: Callable[[int], object]
    facts: dict = field(default_factory=dict)  # what else was measured of it


def random_weights(init) -> dict:
    """What init(key) returns the shapes of, drawn by NumPy: no layer starts at zero."""
    rng = np.random.default_rng(0)

    def draw(path, like):
        noise = rng.standard_normal(like.shape, np.float32)
        if path[-1].key in ("scale", "bias"):
            return (path[-1].key == "scale") + np.float32(0.1) * noise
        return noise / np.float32(np.prod(like.shape[:-1]) ** 0.5)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init, jax.random.key(0)))


def options_of(description: str, beside: bool = False) -> argparse.ArgumentParser:
    """The options that every benchmark has, and those `beside` diffusers."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", choices=UNETS, default="laptop")
    parser.add_argument("--batch", type=int, help="as the experiment has it, if left out")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    if not beside:
        return parser
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", help="the figures as JSON")
    parser.add_argument(
        "--diffusers-wheel",
        nargs="+",
        default=[],
        metavar="FILE",
        help="where it is not installed: its wheel, and those of what it lacks",
    )
    return parser


def begin(options: argparse.Namespace) -> jax.sharding.Mesh:
    """Devices and precision; call it before anything else touches JAX. The mesh for the batch.

    On a CPU every core is a device, as `train.py` has it. On a GPU float32 products may be TF32 in
    both libraries.
    """
    jax.config.update("jax_num_cpu_devices", 2 ** (min(4, CORES).bit_length() - 1))
    for wheel in options.diffusers_wheel:
        sys.path.insert(0, tempfile.mkdtemp())
        with zipfile.ZipFile(wheel) as file:
            file.extractall(sys.path[0])
    several = [n for n in range(1, len(jax.devices()) + 1) if options.batch % n == 0]
    return make_mesh(devices=jax.devices()[: several[-1]])


def on_gpu() -> bool:
    return jax.default_backend() == "gpu"


def import_torch():
    """PyTorch with all cores, or None and a line where it or diffusers is missing."""
    try:
        import diffusers  # noqa: F401
        import torch
    except ImportError as error:
        print(f"ours alone, since there is no diffusers ({error}): pip install diffusers torch")
        return None
    if on_gpu() and not torch.cuda.is_available():
        print("ours alone: JAX has a GPU and PyTorch has not")
        return None
    torch.set_num_threads(CORES)
    return torch


def matrix_products(precision: str, mesh, torch) -> list[Way]:
    """Products of square matrices, n n n multiplications and additions each, in both libraries."""
    # Without the instructions for it a CPU takes minutes over a large one in bfloat16
    n = 8192 if on_gpu() else 2048 if precision == "float32" else 512
    a = np.random.default_rng(0).standard_normal((n, n), np.float32)
    flops = 2.0 * n**3
    rows = jax.device_put(jnp.asarray(a, precision), jax.sharding.NamedSharding(mesh, BATCH))
    whole = jax.device_put(
        jnp.asarray(a, precision), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    )
    product = jax.jit(jnp.matmul)

    def ours(times):
        jax.block_until_ready([product(rows, whole) for _ in range(times)])

    ways = [Way("matrix product, jax", ours, {"flops": flops, "library": "jax"})]
    if torch:
        theirs = torch.tensor(a, dtype=getattr(torch, precision), device=torch_device())

        def run(times):
            for _ in range(times):
                theirs @ theirs
            synchronise(torch)

        ways.append(Way("matrix product, torch", run, {"flops": flops, "library": "torch"}))
    return ways


def torch_device() -> str:
    return "cuda" if on_gpu() else "cpu"


def synchronise(torch) -> None:
    if on_gpu():
        torch.cuda.synchronize()


def quickly() -> dict:
    """Compiler options for a program that runs once."""
    return {} if on_gpu() else {"xla_backend_optimization_level": 0}


def allow_tf32(torch, allowed: bool) -> None:
    """Whether float32 products on a GPU may be TF32, in both libraries."""
    jax.config.update("jax_default_matmul_precision", None if allowed else "highest")
    if torch:
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.allow_tf32 = allowed


def resident_bytes(peak: bool = False, reset_peak: bool = False) -> int | None:
    """Of this process, now or at the most since the last reset; None where there is no /proc."""
    try:
        if reset_peak:
            pathlib.Path("/proc/self/clear_refs").write_text("5")
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    name = "VmHWM:" if peak else "VmRSS:"
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, as a share of the largest value."""
    return float(np.abs(a - b).max() / np.abs(a).max())


def refuse_unless_equal(differences: dict[str, float], tolerance: float = TOLERANCE) -> None:
    """Exits with a line where one is too large, or no number."""
    if not all(difference < tolerance for difference in differences.values()):
        raise SystemExit(f"not the same, so nothing is timed: {differences}")


def seconds_of(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def measure(ways: list[Way], rounds: int, turn_s: float) -> dict[str, list[float]]:
    """name -> seconds for doing it once, in every round; all ways have been run before.

    In its turn a way does it as often as it can in about `turn_s`, and once at least.
    """
    times = dict.fromkeys((way.name for way in ways), 1)
    if turn_s:
        times = {w.name: max(1, round(turn_s / seconds_of(partial(w.run, 1)))) for w in ways}
    seconds = {way.name: [] for way in ways}
    for i in range(rounds):
        for way in ways:
            n = times[way.name]
            seconds[way.name].append(seconds_of(partial(way.run, n)) / n)
        line = ", ".join(f"{name} {1e3 * s[-1]:.1f} ms" for name, s in seconds.items())
        print(f"round {i + 1} of {rounds}: {line}", file=sys.stderr, flush=True)
    return seconds


def rates(seconds: dict[str, list[float]], ways: list[Way]) -> dict[str, float]:
    """library -> operations a second of its matrix product, median over the rounds."""
    return {
        way.facts["library"]: way.facts["flops"] / statistics.median(seconds[way.name])
        for way in ways
    }


def rows_of(ways: list[Way], seconds: dict[str, list[float]]) -> list[dict]:
    """What was measured of every way; ratios within each round, to the first way."""
    rows = []
    for way in ways:
        ratios = [a / b for a, b in zip(seconds[way.name], seconds[ways[0].name], strict=True)]
        rows.append(
            {
                "way": way.name,
                "seconds": statistics.median(seconds[way.name]),
                "all_seconds": seconds[way.name],
                "ratio": statistics.median(ratios),
                "ratios": [min(ratios), max(ratios)],
                **way.facts,
            }
        )
    return rows


def ratio_text(row: dict) -> str:
    low, high = row["ratios"]
    return "1" if low == high == 1 else f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"


def machine() -> dict:
    """What it ran on: processor or GPU, cores, versions, date, command. No name of the host."""
    processor = platform.processor() or platform.machine()
    if (info := pathlib.Path("/proc/cpuinfo")).exists():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = named[0].split(":")[1].strip() if named else processor
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "processor": processor,
        "cores": CORES,
        "devices": len(jax.devices()),
        "device": jax.devices()[0].device_kind,
        "load_at_the_end": os.getloadavg()[0],
        "versions": versions,
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
    }


def machine_line(facts: dict) -> str:
    """One line for the README."""
    on = facts["device"] if on_gpu() else f"{facts['processor']}, {facts['cores']} cores"
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items() if v)
    return f"{on}; load {facts['load_at_the_end']:.1f} at the end; {versions}; {facts['date']}"


def write(file: str | None, figures: dict) -> None:
    if file:
        with open(file, "w", encoding="utf-8") as out:
            json.dump(figures, out, indent=1)
            out.write("\n")
