"""Kills training again and again, and compares what comes out with a run that was left alone.

    python benchmarks/kills.py FOLDER --kills 30

A run is killed (SIGKILL) once in each of its phases, in their order, and started again after each
kill: at its start, in the steps of each stage, while a checkpoint is written, while it is sealed,
and at its end. Then it is let finish; every byte of its newest checkpoints, the samples and the
steps in metrics.jsonl must be those of the run that was left alone. Then the next run begins, until
all kills are made. A kill that came after its phase is counted as such. Words behind the options go
to train.py; without any it is a tiny run.
"""

import argparse
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from ldm_jax.model.run_dir import RunDir
from ldm_jax.training.integrity import SEAL
from ldm_jax.training.metrics import read

REPOSITORY = Path(__file__).resolve().parents[1]
STAGES = ("autoencoder", "diffusion")
PARTS = ("step", "params", "ema", "opt_state", "constants")
EVERY = 5  # steps between two checkpoints
TINY = f"""
    smoke --mesh.data 1 --data.size 8 --data.count 32 --data.validation-count 8
    --autoencoder.network.channels 4 --autoencoder.network.groups 2
    --autoencoder.network.channel-mult 1 --autoencoder.network.num-res-blocks 1
    --autoencoder.steps 40 --autoencoder.batch-size 4
    --autoencoder.progress.log-every {EVERY} --autoencoder.progress.save-every {EVERY}
    --autoencoder.progress.preview-every 1000
    --diffusion.unet.channels 8 --diffusion.unet.groups 4 --diffusion.unet.head-channels 4
    --diffusion.unet.channel-mult 1 --diffusion.unet.num-res-blocks 1
    --diffusion.text.dim 8 --diffusion.text.depth 1 --diffusion.text.heads 1
    --diffusion.steps 40 --diffusion.batch-size 4
    --diffusion.progress.log-every {EVERY} --diffusion.progress.save-every {EVERY}
    --diffusion.progress.preview-every 1000
    --sampling.steps 2 --evaluation.num-images 4
"""


def main() -> int:
    """Prints a table of the kills; returns the number of runs that came out otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options, words = parser.parse_known_args()
    words, rng = words or TINY.split(), random.Random(options.seed)
    options.folder.mkdir(parents=True)
    whole = options.folder / "whole"
    if start(words, whole).wait() != 0:
        raise SystemExit(f"the run that is left alone has failed: see {whole}.log")
    expected, phases = outcome(whole), list(in_order(whole))
    made, wrong = Counter(), 0
    for first in range(0, options.kills, len(phases)):
        run = options.folder / f"run{first // len(phases)}"
        for name, begins in phases[: options.kills - first]:
            is_there, process = begins(run), start(words, run)
            while process.poll() is None and not is_there():
                time.sleep(0.001)
            time.sleep(rng.random() * (0.002 if name.endswith("ing") else 0.02))
            process.kill()
            ended = "" if process.wait() < 0 else ": it had ended"
            made[name + (ended or ("" if is_there() else ": it was over"))] += 1
        start(words, run).wait()
        found = outcome(run)
        differs = [part for part in expected if expected[part] != found.get(part)]
        print(f"{run}: {'differs: ' + ', '.join(differs) if differs else 'identical'}", flush=True)
        wrong += bool(differs)
    print("\n| killed at | times |\n|---|---|")
    print("\n".join(f"| {name} | {times} |" for name, times in made.items()))
    return wrong


def start(words: list[str], run: Path) -> subprocess.Popen:
    """`python train.py`; what it says is added to RUN.log."""
    command = [sys.executable, REPOSITORY / "train.py", *words, "--run-dir", run]
    with open(f"{run}.log", "a") as log:
        return subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)


def in_order(whole: Path) -> Iterator[tuple[str, Callable[[Path], Callable[[], bool]]]]:
    """(a phase of a run, what gives for a run that starts whether it has come to it)."""

    def saving(stage: str, file: str) -> Callable[[Path], Callable[[], bool]]:
        pattern = f"checkpoints/{stage}/*-tmp/{file}"

        def begins(run: Path) -> Callable[[], bool]:
            before = set(run.glob(pattern))  # what an earlier kill has left
            return lambda: not before.issuperset(run.glob(pattern))

        return begins

    def steps(stage: str) -> Callable[[Path], Callable[[], bool]]:
        def begins(run: Path) -> Callable[[], bool]:
            before = lines(run, stage)
            return lambda: lines(run, stage) > before

        return begins

    yield "the start", lambda run: run.exists
    for stage in STAGES:
        yield f"{stage}, writing", saving(stage, "*")
        yield f"{stage}, steps", steps(stage)
        yield f"{stage}, sealing", saving(stage, f"*/{SEAL}*")
    last = lines(whole, STAGES[-1])
    yield "the end", lambda run: lambda: lines(run, STAGES[-1]) >= last


def lines(run: Path, stage: str) -> int:
    """How many there are in metrics.jsonl."""
    return sum(line["stage"] == stage for line in read(run / "metrics.jsonl"))


def outcome(run: Path) -> dict[str, object]:
    """All that must be the same: every array of the newest checkpoints, the samples, the steps."""
    found: dict[str, object] = {
        "metrics.jsonl": [(line["stage"], line["step"]) for line in read(run / "metrics.jsonl")]
    }
    if (run / "samples.png").exists():
        found["samples.png"] = (run / "samples.png").read_bytes()
    for stage in STAGES:
        saved = RunDir(run).checkpoints(stage).restore_part(PARTS)
        leaves, _ = jax.tree_util.tree_flatten_with_path(saved)
        for path, leaf in leaves:
            found[stage + jax.tree_util.keystr(path)] = np.asarray(leaf).tobytes()
    return found


if __name__ == "__main__":
    sys.exit(main())
