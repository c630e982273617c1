"""`python train.py --help`: every experiment with a line, read from the source.

To import the experiments is to import JAX and Flax, which takes seconds.
"""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

DEFAULT_EXPERIMENT = "scenes"
DEFINITIONS = Path(__file__).parents[1] / "experiments"
HELP = """usage: python train.py [EXPERIMENT] [--field value ...]

Trains both stages of a latent diffusion model; a run that was stopped is resumed.

experiments (without one: {default}):
{experiments}

For the fields of one: python train.py EXPERIMENT --help"""


def shown(words: Sequence[str]) -> bool:
    """Prints the overview, if the words behind `python train.py` ask for it alone."""
    if list(words) not in (["-h"], ["--help"]):
        return False
    lines = first_lines()
    width = max(map(len, lines))
    experiments = "\n".join(f"  {name:{width}}  {line}" for name, line in lines.items())
    print(HELP.format(default=DEFAULT_EXPERIMENT, experiments=experiments))
    return True


def first_lines() -> dict[str, str]:
    """The first line of the docstring of each of `ldm_jax.experiments.EXPERIMENTS`."""
    functions = {
        node.name: (ast.get_docstring(node) or "").partition("\n")[0]
        for file in DEFINITIONS.glob("*.py")
        for node in _statements(file)
        if isinstance(node, ast.FunctionDef)
    }
    tables = {
        node.target.id: node.value
        for node in _statements(DEFINITIONS / "__init__.py")
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict)
    }
    return {name: functions[made_by] for name, made_by in _entries(tables, "EXPERIMENTS")}


def _statements(file: Path) -> list[ast.stmt]:
    return ast.parse(file.read_text(encoding="utf-8")).body


def _entries(tables: dict[str, ast.Dict], table: str) -> Iterator[tuple[str, str]]:
    """(name of an experiment, its function) of a table and of those that are unpacked in it."""
    for key, value in zip(tables[table].keys, tables[table].values, strict=True):
        if key is None:  # **SCENES
            yield from _entries(tables, value.id)
        else:
            yield key.value, ast.unparse(value).rpartition(".")[2]
