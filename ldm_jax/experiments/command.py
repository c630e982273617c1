"""The command lines: from words to a call, and from any failure to one line and an exit code."""

from __future__ import annotations

import contextlib
import difflib
import io
import itertools
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import jax
import tyro

from ldm_jax.errors import UserError
from ldm_jax.experiments import EXPERIMENTS, TRAINED_ALONE
from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.draw import DrawCommand, draw_from_run
from ldm_jax.experiments.estimate.report import EstimateCommand, estimate
from ldm_jax.experiments.hosts import Hosts, join
from ldm_jax.experiments.run_dir import RunDir
from ldm_jax.experiments.train import StageName, train
from ldm_jax.experiments.weights import (
    CheckCommand,
    ConvertCommand,
    ExportCommand,
    check_names,
    convert,
    export,
)
from ldm_jax.training.interruption import Interrupted

DEFAULT = "scenes"
_TYRO = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
T = TypeVar("T")


@dataclass(frozen=True)
class TrainCommand:
    """Trains both stages of a latent diffusion model, on one of the experiments."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    run_dir: str
    """Where the run lives; a run that is there already goes on."""
    stage: StageName = "both"
    """Which stage to train; diffusion needs the autoencoder in the same run directory, and so does
    classifier, which is to guide the diffusion model (both: all but that one)."""
    hosts: Hosts = field(default_factory=Hosts)


def train_main(words: Sequence[str]) -> int:
    """`python train.py [EXPERIMENT] [--field value ...]`; returns the exit code."""
    if list(words) in (["-h"], ["--help"]):
        print(_list_of_experiments())
        return 0

    def run() -> None:
        name, fields = _experiment(words)
        stage = "autoencoder" if name in TRAINED_ALONE else "both"
        default = TrainCommand(EXPERIMENTS[name](), f"runs/{name}", stage)
        command = _parse(TrainCommand, fields, f"train.py {name}", default)
        _one_device_a_core()
        join(command.hosts)
        _say(train(name, command.experiment, RunDir(command.run_dir), command.stage))

    return _guarded(run)


def sample_main(words: Sequence[str]) -> int:
    """`python sample.py RUN [...]`; returns the exit code."""

    def run() -> None:
        command = _parse(DrawCommand, list(words), "sample.py")
        _one_device_a_core()
        join(command.hosts)
        _say(draw_from_run(command))

    return _guarded(run)


def weights_main(words: Sequence[str]) -> int:
    """`python -m ldm_jax.pretrained [check | export] ...`; returns the exit code."""
    kinds = {"check": (CheckCommand, check_names), "export": (ExportCommand, export)}
    kind, run = kinds.get(words[0] if words else "", (ConvertCommand, convert))
    prog, rest = "-m ldm_jax.pretrained", list(words)
    if kind is not ConvertCommand:
        prog, rest = f"{prog} {words[0]}", rest[1:]
    return _guarded(lambda: print(run(_parse(kind, rest, prog))))


def estimate_main(words: Sequence[str]) -> int:
    """`python -m ldm_jax.experiments.estimate [EXPERIMENT] [...]`; returns the exit code."""

    def run() -> None:
        name, fields = _experiment(words)
        stage = "autoencoder" if name in TRAINED_ALONE else "diffusion"
        default = EstimateCommand(EXPERIMENTS[name](), "v5e:4x4", stage)
        prog = f"-m ldm_jax.experiments.estimate {name}"
        print(estimate(name, _parse(EstimateCommand, fields, prog, default)))

    jax.config.update("jax_platforms", "cpu")  # a TPU that is there is left alone
    return _guarded(run)


def _experiment(words: Sequence[str]) -> tuple[str, list[str]]:
    """(the experiment that is named first, or the default one; the words behind its name)."""
    name, fields = DEFAULT, list(words)
    if fields and not fields[0].startswith("-"):
        name = fields.pop(0)
    if name not in EXPERIMENTS:
        meant = difflib.get_close_matches(name, EXPERIMENTS, n=1)
        raise UserError(
            f"unknown experiment {name!r}; python train.py --help lists them"
            + (f"; perhaps you meant {meant[0]}" if meant else "")
        )
    return name, fields


def _list_of_experiments() -> str:
    width = max(map(len, EXPERIMENTS))
    lines = [f"  {name:{width}}  {_first_line(make)}" for name, make in EXPERIMENTS.items()]
    return "\n".join(
        [
            "usage: python train.py [EXPERIMENT] [--field value ...]",
            "",
            "Trains both stages of a latent diffusion model; a run that was stopped goes on.",
            "",
            f"experiments (without one: {DEFAULT}):",
            *lines,
            "",
            "For the fields of one: python train.py EXPERIMENT --help",
        ]
    )


def _first_line(make: Callable[[], Experiment]) -> str:
    return (make.__doc__ or "").strip().splitlines()[0]


def _parse(kind: type[T], words: list[str], prog: str, default: T | None = None) -> T:
    """Runs tyro; what it complains of, in a box of several lines, becomes one line."""
    said = io.StringIO()
    options = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=words, prog=f"python {prog}", config=_TYRO, **options)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise UserError(f"{_one_line(said.getvalue())}; see: python {prog} --help") from None


def _one_line(box: str) -> str:
    """What is wrong and which name may have been meant, without title, frame and help text."""
    lines = [line.strip("│ ") for line in box.splitlines()]
    rules = [i for i, line in enumerate(lines) if re.match("[─╭╰-]{4}|╭", line)]
    parts = [lines[i + 1 : j] for i, j in itertools.pairwise([*rules, len(lines)])]
    wrong = " ".join(parts[0]).rstrip(" .") if parts else " ".join(lines)
    meant = [part[1].split()[0] for part in parts if part[:1] == ["Perhaps you meant:"]]
    return wrong + (f"; perhaps you meant {meant[0]}" if meant else "")


def _say(line: str) -> None:
    if jax.process_index() == 0:
        print(line)


def _guarded(run: Callable[[], None]) -> int:
    """Runs a command: 0; 2 after bad input, in one line; 130, 143 after a signal, having saved."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("ldm_jax").setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.ERROR)
    _keep_compiled_programs()
    try:
        run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder one may not write to
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print("interrupted; what was saved is kept", file=sys.stderr)
        return 130
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    return 0


def _one_device_a_core() -> None:
    """Lets each core of a machine without accelerator be a device that takes its share of a batch.

    XLA:CPU spreads only the large operations of one program over the cores; several programs, each
    on a part of the batch, keep them all busy (measured on two cores: 1.5x the steps a second for
    the scenes autoencoder, 1.35x for the UNet). At most four, and a power of two, so that the usual
    batch sizes divide. Where there is a GPU or a TPU this changes nothing.
    """
    chosen = jax.config.jax_num_cpu_devices > 0 or "host_platform_device_count" in os.environ.get(
        "XLA_FLAGS", ""
    )
    if not chosen:
        cores = min(4, os.cpu_count() or 1)
        with contextlib.suppress(RuntimeError):  # JAX has started already: in a notebook, a test
            jax.config.update("jax_num_cpu_devices", 2 ** (cores.bit_length() - 1))


def _keep_compiled_programs() -> None:
    """The second start of the same experiment reads its programs instead of compiling them.

    Nothing is created before there is a program to keep. JAX's own settings win.
    """
    if not jax.config.jax_compilation_cache_dir:
        root = os.environ.get("LDM_JAX_CACHE") or Path.home() / ".cache" / "ldm_jax"
        jax.config.update("jax_compilation_cache_dir", str(Path(root) / "xla"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # JAX keeps what took a second; a start compiles many smaller programs too
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
