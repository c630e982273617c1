"""What all command lines share: from words to a configuration, and how JAX starts."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import itertools
import os
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import tyro

from ldm_jax.commands.hosts import Hosts, join
from ldm_jax.commands.overview import DEFAULT_EXPERIMENT
from ldm_jax.commands.suggest import suggestion
from ldm_jax.errors import UserError
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.experiments.config import Experiment
from ldm_jax.paths import cache_folder

_STRAY = "Unrecognized options:"
T = TypeVar("T")


def parse(kind: type[T], words: Sequence[str], program: str, default: T | None = None) -> T:
    """A command line as a dataclass; the several lines of a complaint become one.

    Args:
      program: how the command is called, such as `python train.py scenes`.

    Raises:
      UserError: the words are no such command.
      SystemExit: --help, which is printed.
    """
    if odd := [word for word in words if not _is_text(word)]:
        raise UserError(f"{odd[0]!r} is not text in UTF-8, and can be stored nowhere")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return _tyro(kind, words, program, default)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
    options, said = _options(kind, program, default), _one_line(complaint.getvalue())
    wrong = _unknown_option(words, options) or _stray_word(kind, said) or said
    raise UserError(f"{wrong}; see: {program} --help")


def named_experiment(words: Sequence[str]) -> tuple[str, Experiment, list[str]]:
    """(name, experiment, remaining words): the one that is named first, or the default one.

    A name behind the options is understood where it cannot be the value of one.
    """
    name, remaining = DEFAULT_EXPERIMENT, list(words)
    if remaining and not remaining[0].startswith("-"):
        name = remaining.pop(0)
    elif behind := [i for i in _strays(remaining) if remaining[i] in EXPERIMENTS]:
        name = remaining.pop(behind[0])
    if name not in EXPERIMENTS:
        raise UserError(
            f"unknown experiment {name!r}; python train.py --help lists them{_close(name)}"
        )
    return name, EXPERIMENTS[name](), remaining


def say(line: str) -> None:
    """Prints a line, once for all processes."""
    if jax.process_index() == 0:
        print(line)


def start_jax(hosts: Hosts | None = None) -> None:
    """Joins the other processes of a run, and finds the devices.

    Raises:
      UserError: the hosts do not find each other, or JAX cannot use what it is to run on.
    """
    _keep_compiled_programs()
    _one_device_per_core()
    if hosts is not None:
        join(hosts)
    try:
        jax.devices()
    except Exception as error:  # an AssertionError without text, where a plug-in is missing
        wanted = os.environ.get("JAX_PLATFORMS", "")
        reason = f" ({str(error).splitlines()[0][:200]})" if str(error) else ""
        remedy = (
            f"JAX_PLATFORMS={wanted} asks for it: leave it out, or JAX_PLATFORMS=cpu"
            if wanted
            else "JAX_PLATFORMS=cpu does without"
        )
        raise UserError(
            f"JAX cannot start on the device that it is to use{reason}; {remedy}; "
            'pip install "jax[cuda13]" is for NVIDIA GPUs, "jax[tpu]" for TPUs'
        ) from error


def _one_device_per_core() -> None:
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


def _is_text(word: str) -> bool:
    """Whether the bytes on the command line were UTF-8."""
    return word.encode(errors="ignore").decode() == word


def _tyro(kind: type[T], words: Sequence[str], program: str, default: T | None) -> T:
    options: dict[str, Any] = {} if default is None else {"default": default}
    config = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
    return tyro.cli(kind, args=list(words), prog=program, config=config, **options)


def _options(kind: type, program: str, default: Any) -> list[str]:
    """All options of a command: those that its --help lists, each at the start of a line."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        _tyro(kind, ["--help"], program, default)
    found = re.findall(r"^[│ |]*(--[a-z][a-z0-9.-]*[a-z0-9])", shown.getvalue(), re.MULTILINE)
    return list(dict.fromkeys(found))


def _unknown_option(words: Sequence[str], options: Sequence[str]) -> str:
    """What is wrong with the first word that is no option of these; '' where all are known."""
    known = {"-h", "--help", *options}
    for word in words:
        name = word.partition("=")[0]
        if re.match(r"--?[A-Za-z]", word) and name.replace("_", "-") not in known:
            return f"there is no option {name}{suggestion(word, options)}"
    return ""


def _stray_word(kind: type, said: str) -> str:
    """What is wrong with a word that belongs to no option; '' where tyro complains of no such."""
    if not said.startswith(_STRAY):
        return ""
    word = said.removeprefix(_STRAY).strip().split(", ")[0]
    named = any(f.name == "experiment" for f in dataclasses.fields(kind))
    hint = f"{_close(word)}; an experiment is named first" if named and _close(word) else ""
    return f"{word!r} belongs to no option{hint}"


def _strays(words: Sequence[str]) -> list[int]:
    """Places of the words that stand neither before all options nor right behind one."""
    bare = [word.startswith("-") and "=" not in word for word in words]
    helps = [word in ("-h", "--help") for word in words]
    return [
        i
        for i in range(1, len(words))
        if not words[i].startswith("-") and (not bare[i - 1] or helps[i - 1])
    ]


def _close(name: str) -> str:
    """The experiment that was probably meant, as the end of a sentence."""
    if "/" in name:
        return f"; the directory of a run is --run-dir {name}"
    close = difflib.get_close_matches(name, EXPERIMENTS, n=1)
    return f"; perhaps you meant {close[0]}" if close else ""


def _one_line(box: str) -> str:
    """What is wrong, without title, frame and help text."""
    lines = [line.strip("│ ") for line in box.splitlines()]
    rules = [i for i, line in enumerate(lines) if re.match("[─╭╰-]{4}|╭", line)]
    parts = [lines[i + 1 : j] for i, j in itertools.pairwise([*rules, len(lines)])]
    return (" ".join(parts[0]) if parts else " ".join(lines)).rstrip(" .")


def _keep_compiled_programs() -> None:
    """The second start of the same experiment reads its programs instead of compiling them.

    Nothing is created before there is a program to keep. JAX's own settings win. Where there is no
    place for them, every start compiles; but a place that was named must be one.
    """
    if not jax.config.jax_compilation_cache_dir:
        try:
            jax.config.update("jax_compilation_cache_dir", str(cache_folder("xla")))
        except UserError:
            if os.environ.get("LDM_JAX_CACHE"):
                raise
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # JAX keeps what took a second; a start compiles many smaller programs too
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
