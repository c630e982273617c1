"""The command lines: from words to a call, and from any failure to one line and an exit code."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import jax
import tyro

from ldm_jax.errors import UserError
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.draw import DrawCommand, draw_from_run
from ldm_jax.experiments.run_dir import RunDir
from ldm_jax.experiments.train import StageName, train
from ldm_jax.training.interruption import Interrupted

DEFAULT = "scenes"
_TYRO = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
T = TypeVar("T")


@dataclass(frozen=True)
class TrainCommand:
    """Both stages of a latent diffusion model, on one of the experiments."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    run_dir: str
    """Where the run lives; a run that is there already goes on."""
    stage: StageName = "both"
    """Which stage to train; diffusion needs the autoencoder in the same run directory."""


def train_main(words: Sequence[str]) -> int:
    """`python train.py [EXPERIMENT] [--field value ...]`; returns the exit code."""
    words = list(words)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words = [DEFAULT, *words]

    def run() -> None:
        choices = {
            name: (_first_line(make), TrainCommand(make(), f"runs/{name}"))
            for name, make in EXPERIMENTS.items()
        }
        command = _parse(
            lambda: tyro.extras.overridable_config_cli(
                choices,
                prog="train.py",
                description=(
                    "Trains both stages of a latent diffusion model. Without an experiment: "
                    f"{DEFAULT}. For the fields of one: python train.py EXPERIMENT --help"
                ),
                args=words,
                config=_TYRO,
            )
        )
        line = train(words[0], command.experiment, RunDir(command.run_dir), command.stage)
        print(line)

    return _guarded(run)


def sample_main(words: Sequence[str]) -> int:
    """`python sample.py RUN [...]`; returns the exit code."""

    def run() -> None:
        command = _parse(
            lambda: tyro.cli(DrawCommand, prog="sample.py", args=list(words), config=_TYRO)
        )
        print(draw_from_run(command))

    return _guarded(run)


def _first_line(make: Callable[[], Experiment]) -> str:
    return (make.__doc__ or "").strip().splitlines()[0]


def _parse(parse: Callable[[], T]) -> T:
    """Runs tyro; what it complains of, in a box of several lines, becomes one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse()
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_one_line(said.getvalue())) from None


def _one_line(box: str) -> str:
    """The first part of tyro's box, and what it thinks was meant."""
    lines = [line.strip("│ ") for line in box.splitlines() if line.startswith("│")]
    parts = " ".join(lines).split("─" * 10)
    parts = [part.strip("─ ") for part in parts]
    kept = [part for part in parts if part and not part.startswith(("For full", "Argument help"))]
    return " ".join(" ".join(kept).split())[:400] or box.strip()


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
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print("interrupted; what was saved is kept", file=sys.stderr)
        return 130
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    return 0


def _keep_compiled_programs() -> None:
    """The second start of the same experiment reads its programs instead of compiling them."""
    if not jax.config.jax_compilation_cache_dir:
        root = os.environ.get("LDM_JAX_CACHE") or Path.home() / ".cache" / "ldm_jax"
        jax.config.update("jax_compilation_cache_dir", str(Path(root) / "xla"))
