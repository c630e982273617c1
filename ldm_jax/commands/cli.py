"""What all command lines share: from words to a configuration, from failures to an exit code."""

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
from pathlib import Path
from typing import TypeVar

import jax
import tyro

from ldm_jax.errors import UserError
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.experiments.config import Experiment
from ldm_jax.training.interruption import Interrupted

DEFAULT_EXPERIMENT = "scenes"
T = TypeVar("T")


class ExitCode:
    """`with ExitCode() as status:` runs a command; `status.code` is the exit code.

    0; 2 after bad input, with one line on stderr; 130 or 143 after a signal, with the state saved.
    An unforeseen exception shows its traceback.
    """

    code = 0

    def __enter__(self) -> ExitCode:
        logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
        logging.getLogger("ldm_jax").setLevel(logging.INFO)
        # Orbax logs a traceback for each failure, and also raises it: once is enough.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        _keep_compiled_programs()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> bool:
        if isinstance(error, (UserError, OSError)):  # also a full disk
            print(f"error: {error}", file=sys.stderr)
            self.code = 2
        elif isinstance(error, Interrupted):
            print(error, file=sys.stderr)
            self.code = error.exit_code
        elif isinstance(error, KeyboardInterrupt):
            print("interrupted; everything saved so far is kept", file=sys.stderr)
            self.code = 130
        elif isinstance(error, SystemExit):  # --help
            self.code = int(error.code or 0)
        else:
            return False
        return True


def parse(kind: type[T], words: Sequence[str], program: str, default: T | None = None) -> T:
    """A command line as a dataclass; the several lines of a complaint become one.

    Args:
      program: how the command is called, such as `python train.py scenes`.

    Raises:
      UserError: the words are no such command.
      SystemExit: --help, which is printed.
    """
    complaint = io.StringIO()
    options = {} if default is None else {"default": default}
    config = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=list(words), prog=program, config=config, **options)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise UserError(f"{_one_line(complaint.getvalue())}; see: {program} --help") from None


def named_experiment(words: Sequence[str]) -> tuple[str, Experiment, list[str]]:
    """(name, experiment, remaining words): the one that is named first, or the default one."""
    name, remaining = DEFAULT_EXPERIMENT, list(words)
    if remaining and not remaining[0].startswith("-"):
        name = remaining.pop(0)
    if name not in EXPERIMENTS:
        close = difflib.get_close_matches(name, EXPERIMENTS, n=1)
        raise UserError(
            f"unknown experiment {name!r}; python train.py --help lists them"
            + (f"; perhaps you meant {close[0]}" if close else "")
        )
    return name, EXPERIMENTS[name](), remaining


def list_of_experiments() -> str:
    """A line for each experiment, for --help."""
    width = max(map(len, EXPERIMENTS))
    return "\n".join(f"  {name:{width}}  {_first_line(f)}" for name, f in EXPERIMENTS.items())


def say(line: str) -> None:
    """Prints a line, once for all processes."""
    if jax.process_index() == 0:
        print(line)


def one_device_per_core() -> None:
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


def _first_line(function: Callable) -> str:
    return (function.__doc__ or "").strip().splitlines()[0]


def _one_line(box: str) -> str:
    """What is wrong and which name was probably meant, without title, frame and help text."""
    lines = [line.strip("│ ") for line in box.splitlines()]
    rules = [i for i, line in enumerate(lines) if re.match("[─╭╰-]{4}|╭", line)]
    parts = [lines[i + 1 : j] for i, j in itertools.pairwise([*rules, len(lines)])]
    wrong = " ".join(parts[0]).rstrip(" .") if parts else " ".join(lines)
    close = [part[1].split()[0] for part in parts if part[:1] == ["Perhaps you meant:"]]
    return wrong + (f"; perhaps you meant {close[0]}" if close else "")


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
