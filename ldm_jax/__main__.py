"""`python -m ldm_jax COMMAND [...]`, which an installed package also calls `ldm COMMAND [...]`."""

import importlib
import sys

# command: (module, function, what it does)
COMMANDS = {
    "train": ("train.run", "main", "train both stages of an experiment"),
    "sample": ("sample.run", "main", "sample images from a trained model"),
    "convert": ("convert", "convert_main", "published weights to a run directory"),
    "check": ("convert", "check_main", "compare the names of published weights with a model"),
    "export": ("convert", "export_main", "a run to a CompVis file"),
    "estimate": ("estimate.report", "main", "memory and time of a training step on a machine"),
}


def main() -> int:
    """Runs the command that the first word names; returns the exit code."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        lines = [f"  {command:9} {text}" for command, (*_, text) in COMMANDS.items()]
        print("usage: python -m ldm_jax COMMAND [...]\n", *lines, sep="\n")
        print("\nFor the options of one: python -m ldm_jax COMMAND --help")
        return 0
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module, function, _ = COMMANDS[name]
    return getattr(importlib.import_module(f"ldm_jax.commands.{module}"), function)(words)


if __name__ == "__main__":
    sys.exit(main())
