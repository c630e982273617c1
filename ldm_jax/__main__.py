"""`python -m ldm_jax COMMAND [...]`, which an installed package also calls `ldm COMMAND [...]`."""

import difflib
import importlib
import sys

from ldm_jax.commands import overview
from ldm_jax.commands.exit_code import ExitCode, use_utf8
from ldm_jax.errors import UserError

# command: (module, function, what it does)
COMMANDS = {
    "train": ("train.run", "main", "train both stages of an experiment"),
    "sample": ("sample.run", "main", "sample images from a trained model"),
    "evaluate": ("evaluate.run", "main", "compare samples and reconstructions with real images"),
    "convert": ("convert", "convert_main", "published weights to a run directory"),
    "check": ("convert", "check_main", "compare the names of published weights with a model"),
    "export": ("export", "main", "a run to a CompVis file or a diffusers pipeline"),
    "pack": ("pack", "main", "a small copy of a run, for sampling"),
    "estimate": ("estimate.report", "main", "memory and time of a training step on a machine"),
}


def main() -> int:
    """Runs the command that the first word names; returns the exit code."""
    use_utf8()
    name, *words = sys.argv[1:] or ["--help"]
    with ExitCode(name) as status:
        if name in ("-h", "--help"):
            print(_help())
            return 0
        if name not in COMMANDS:
            close = difflib.get_close_matches(name, COMMANDS, n=1)
            meant = f"; perhaps you meant {close[0]}" if close else ""
            raise UserError(f"unknown command {name!r}; there are: {', '.join(COMMANDS)}{meant}")
        if name == "train" and overview.shown(words):  # without the import below: seconds
            return 0
        module, function, _ = COMMANDS[name]
        getattr(importlib.import_module(f"ldm_jax.commands.{module}"), function)(words)
    return status.code


def _help() -> str:
    lines = [f"  {command:9} {text}" for command, (*_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: python -m ldm_jax COMMAND [...]\n",
            *lines,
            "\nFor the options of one: python -m ldm_jax COMMAND --help",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
